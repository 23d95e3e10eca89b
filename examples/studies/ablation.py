"""What each part of DIN is worth on MovieLens: one part changed at a time, over several seeds.

The base is DIN with everything that its paper has, and softmax, which the paper leaves out. Every
run trains on the first 64 % of each user's ratings, takes the epoch that is best on the next 16 %
(by AUC), and is scored on the last 20 %; sizes and weights, too, were chosen on the 16 %. Each
finished run is kept under `--out`: interrupt it when you like, the same command goes on.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from studies.data import Ints, MovieLens, UserError, film_counts, held_out, questions
from studies.din import build_din, genre_shares
from studies.report import save, score_columns, table
from studies.scores import NAMES, Scores, mean_and_spread, measure
from studies.training import SCORING_BATCH, Epoch, predict, ragged_batches, train
from studies.variants import MEAN_OF, MINUTES, VARIANTS, Variant

DECAY = {True: 0.1, False: 1e-3}  # mini-batch aware or not, each the best of its own on validation
# Without these, the same for all: chosen on the validation part, for speed as well.
ATTENTION_UNITS = (32, 16)
BATCH = 512
LEARNING_RATE = 2e-3

Parts = dict[str, Ints]  # "training", "validation" and "test": indices into the ratings


def split_in_three(data: MovieLens) -> Parts:
    """The last fifth of each user's ratings is for the test, the fifth before for validation."""
    test = held_out(data)
    validation = held_out(data, among=~test)
    masks = {"training": ~test & ~validation, "validation": validation, "test": test}
    if not validation.any():
        raise UserError("no user has enough ratings (seven) to hold some out for validation")
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def train_variant(
    recipe: dict[str, Any], data: MovieLens, parts: Parts, bar: tqdm
) -> tuple[int, list[Epoch]]:
    """Train and score one model; return its parameters and what each epoch brought."""
    keras.backend.clear_session()  # else every run leaves its graphs in memory
    variant, seed = recipe["variant"], recipe["seed"]
    settings = {"film_l2": DECAY[variant.mini_batch_aware], "attention_units": ATTENTION_UNITS}
    if variant.mini_batch_aware:
        settings["film_counts"] = film_counts(data, parts["training"], variant.history)
    keras.utils.set_random_seed(seed)
    model = build_din(genre_shares(data), ragged=True, **{**settings, **variant.model})

    def score(model: keras.Model) -> dict[str, Scores]:
        scores = {}
        for name in ("validation", "test"):
            asked = questions(data, parts[name], 0)
            batches = ragged_batches(data, parts[name], variant.history, SCORING_BATCH)
            probability = predict(model, batches.map(lambda inputs, _: inputs))
            scores[name] = measure(asked.label, probability, asked.user)
        return scores

    batches = ragged_batches(data, parts["training"], variant.history, BATCH, shuffle_seed=seed)
    rate, epochs = LEARNING_RATE, recipe["epochs"]
    run = train(model, batches, epochs=epochs, score=score, learning_rate=rate, bar=bar)
    return run.parameters, run.epochs


def best_epoch(epochs: list[Epoch]) -> int:
    """The epoch with the best AUC on the validation part, from 0."""
    return int(
        np.argmax(np.nan_to_num([one.scores["validation"]["AUC"] for one in epochs], nan=-1))
    )


def results(
    options: argparse.Namespace, parts: Parts, train_one: Callable[..., Any], settings: Any
) -> pd.DataFrame:
    """Run what is not on disk yet; one row per run, at the epoch that validation chose.

    `train_one` is called as `train_variant` is; with the `settings` another result is another run.
    """
    data, rows = options.data, []
    memory = joblib.Memory(options.out / "finished", verbose=0)
    cached = memory.cache(train_one, ignore=["data", "parts", "bar"])
    settings = [settings, keras.version(), tf.version.VERSION]
    recipe = {"epochs": options.epochs, "data": joblib.hash(data), "others": settings}
    # By seed first, so that whoever looks early has something of all variants.
    jobs = [(seed, name) for seed in options.seeds for name in dict.fromkeys(options.variants)]
    with tqdm(total=len(jobs) * options.epochs, unit="epoch", disable=None) as bar:
        for seed, name in jobs:
            bar.set_description(f"{name}, seed {seed}")
            job = {**recipe, "variant": VARIANTS[options.study][name], "seed": seed}
            if cached.check_call_in_cache(job, data, parts, bar):
                bar.update(options.epochs)
            parameters, epochs, *weights = cached(job, data, parts, bar)
            best = best_epoch(epochs)
            seconds = np.median([epoch.seconds for epoch in epochs])
            row = {"epoch": best + 1, "parameters": parameters, "seconds": seconds}
            row["weights"] = weights
            rows.append({"variant": name, "seed": seed, **epochs[best].scores["test"], **row})
    return pd.DataFrame(rows).set_index(["variant", "seed"])


def report(found: pd.DataFrame, variants: dict[str, Variant]) -> str:
    """All variants as a table, and how far each lies from the base and from mean pooling."""
    lines = {
        variants[name].title: {
            "seeds": len(of),
            **score_columns(of.to_dict("records")),
            "epochs": "-".join(map(str, sorted({of["epoch"].min(), of["epoch"].max()}))),
            "parameters": f"{of['parameters'].iloc[0]:,}",
            "s / epoch": f"{of['seconds'].median():.1f}",
        }
        for name, of in found.groupby("variant", sort=False)
    }
    note = (
        "Test part; mean ± standard deviation over the seeds, each at the epoch that its validation"
        " part chose.\nGAUC: mean of the users' own AUCs, weighted by their ratings. Seconds are of"
        " processor time."
    )
    text, base = [table(lines), note], next(iter(variants))
    names = set(found.index.get_level_values("variant"))
    for title, pairs in (
        ("mean pooling, all else the same", MEAN_OF),
        (repr(variants[base].title), {name: base for name in variants if name != base}),
    ):
        gains = {variants[a].title: gain(found, a, b) for a, b in pairs.items() if {a, b} <= names}
        if gains:
            text.append(f"\nAbove {title}, seed by seed: mean ± standard error\n{table(gains)}")
    return "\n".join(text)


def gain(found: pd.DataFrame, name: str, other: str) -> dict[str, str]:
    """How much a variant lies above another."""
    scores = found[NAMES]
    difference = scores.loc[name] - scores.loc[other]  # pandas pairs the seeds
    return {score: mean_and_spread(difference[score], "+.4f", error=True) for score in NAMES}


def draw(found: pd.DataFrame, variants: dict[str, Variant], file: Path) -> None:
    """Draw AUC and GAUC of each variant: every seed, and the mean with its standard error."""
    places, names = pd.factorize(found.index.get_level_values("variant"))
    figure = Figure(figsize=(12, 1.8 + 0.42 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, score in zip(panels, ("AUC", "GAUC"), strict=True):
        axes.plot(found[score], places, "o", color="tab:gray", alpha=0.45, markersize=5)
        of_seeds = found.groupby("variant", sort=False)[score].agg(["mean", "sem"]).fillna(0)
        for place, (name, (mean, error)) in enumerate(zip(names, of_seeds.to_numpy(), strict=True)):
            colour = (
                "tab:orange"
                if variants[name].model.get("pooling") in ("mean", "sum")
                else "tab:blue"
            )
            axes.errorbar(mean, place, xerr=error, fmt="D", color=colour, markersize=7, capsize=4)
            if name == next(iter(variants)):
                axes.axvline(mean, color="tab:blue", linestyle=":", linewidth=1)
        axes.set_xlabel(f"{score} on the test part")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), [variants[name].title for name in names])
    panels[0].invert_yaxis()
    figure.suptitle(
        "On MovieLens: each seed (grey), mean and standard error\n"
        "(blue: attention, orange: plain pooling; dotted: the base, in the first row)"
    )
    save(figure, file)


def compare_variants(
    options: argparse.Namespace,
    staging: Path,
    parts: Parts,
    train_one: Callable[..., Any],
    settings: Any,
) -> pd.DataFrame:
    """Train what is not finished; print the table, draw it, and write both; return the runs."""
    training, validation, test = (f"{len(events):,}" for events in parts.values())
    kinds = f"{training} to train with, {validation} to choose the epoch, {test} to test"
    minutes = sum(MINUTES[options.study][name] for name in set(options.variants))
    minutes *= len(parts["training"]) / 1e6 * options.epochs * len(options.seeds)
    took = f"About {minutes:.0f} minutes on two cores, less what is finished."
    print(f"{options.data}: {kinds}\n{took}", flush=True)
    variants = VARIANTS[options.study]
    found = results(options, parts, train_one, settings)
    text = report(found, variants)
    print(f"\n{text}")
    (staging / "table.txt").write_text(text + "\n", encoding="utf-8")
    draw(found, variants, staging / f"{options.study}.png")
    return found


def run(options: argparse.Namespace, staging: Path) -> None:
    settings = [ATTENTION_UNITS, DECAY, BATCH, LEARNING_RATE]
    compare_variants(options, staging, split_in_three(options.data), train_variant, settings)
