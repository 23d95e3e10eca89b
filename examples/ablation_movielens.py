"""What each part of DIN is worth on MovieLens: one part changed at a time, over several seeds.

The base is DIN with everything that its paper has, attention, Dice and mini-batch aware
regularisation, and softmax, which the paper leaves out. Each variant changes one thing. Every run
trains on the first 64 % of each user's ratings, takes the epoch that is best on the next 16 % (by
AUC), and is scored on the last 20 %, which choose nothing: sizes and weights, too, were chosen on
the 16 %, with seed 0.

    python examples/ablation_movielens.py
    python examples/ablation_movielens.py --variants din mean --seeds 2 --limit 100
    python examples/ablation_movielens.py --finished     # table of what is there, without training

Each finished run is kept under `--out` and not run again: interrupt it when you like, the same
command goes on. Writes `table.txt` and `ablation.png`.

This file is the job: variants, runs, table, picture. The models are in `din.py`, their training in
`ragged_training.py`, the data in `movielens.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Parser, movielens_parser, run_example, whole
from finished_runs import FinishedRuns, Key
from movielens import DataError, Longs, MovieLens, held_out, number, read

# What is slow to import is imported where it is needed: a mistyped option is answered at once.

# The variants ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to build and feed the model.

    Attributes:
        title: What the table calls it.
        history: The most ratings of a history.
        mini_batch_aware: Whether the weight decay of the films is that of the paper.
        model: Further arguments of `din.build_model`.
    """

    title: str
    history: int = 50
    mini_batch_aware: bool = True
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)


DECAY = {True: 0.1, False: 1e-3}  # mini-batch aware or not, each the best of its own on validation
BASE = "din"
VARIANTS = {
    BASE: Variant("DIN: softmax, Dice, mini-batch aware L2, 50 ratings"),
    "mean": Variant("mean pooling", model={"pooling": "mean"}),
    "sum": Variant("sum pooling", model={"pooling": "sum"}),
    "no_softmax": Variant("DIN without softmax", model={"weight_normalization": False}),
    "scale": Variant("DIN, scores / sqrt(dim)", model={"scale": True}),
    "sigmoid": Variant(
        "DIN with sigmoid", model={"attention_activation": "sigmoid", "activation": "sigmoid"}
    ),
    "prelu": Variant(
        "DIN with PReLU", model={"attention_activation": "prelu", "activation": "prelu"}
    ),
    "l2": Variant("DIN with plain L2", mini_batch_aware=False),
    "no_l2": Variant("DIN without regularisation", mini_batch_aware=False, model={"film_l2": 0.0}),
    "mean_l2": Variant("mean pooling, plain L2", mini_batch_aware=False, model={"pooling": "mean"}),
    "mean_no_l2": Variant(
        "mean pooling, no regularisation",
        mini_batch_aware=False,
        model={"pooling": "mean", "film_l2": 0.0},
    ),
    "din_200": Variant("DIN, 200 ratings", history=200),
    "mean_200": Variant("mean pooling, 200 ratings", history=200, model={"pooling": "mean"}),
    "din_1000": Variant("DIN, 1000 ratings", history=1000),
    "mean_1000": Variant("mean pooling, 1000 ratings", history=1000, model={"pooling": "mean"}),
}
# Without these, the same for all: chosen on the validation part, for speed as well.
ATTENTION_UNITS = (32, 16)
BATCH = 512
LEARNING_RATE = 2e-3
# A number to be raised with whatever else changes the results, so that no old run is taken.
RECIPE = 1


# The runs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Which ratings are for what, as indices into the data."""

    training: Longs
    validation: Longs
    test: Longs


@dataclass(frozen=True)
class Job:
    """One variant with one seed."""

    name: str
    seed: int
    epochs: int

    @property
    def variant(self) -> Variant:
        """What is trained."""
        return VARIANTS[self.name]

    def key(self, data_digest: str) -> Key:
        """Everything that determines the result."""
        import keras
        import tensorflow as tf

        return {
            "recipe": RECIPE,
            "variant": {**dataclasses.asdict(self.variant), "title": ""},
            "attention_units": ATTENTION_UNITS,
            "decay": DECAY[self.variant.mini_batch_aware],
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "epochs": self.epochs,
            "seed": self.seed,
            "data": data_digest,
            "versions": {"keras": keras.version(), "tensorflow": tf.version.VERSION},
        }


def split(data: MovieLens) -> Parts:
    """The last fifth of each user's ratings is for the test, the fifth before for validation."""
    test = held_out(data)
    validation = held_out(data, among=~test)
    parts = Parts(*(np.flatnonzero(part) for part in (~test & ~validation, validation, test)))
    if not len(parts.validation):
        raise DataError("no user has enough ratings (seven) to hold some out for validation")
    return parts


def digest(data: MovieLens) -> str:
    """A fingerprint of the ratings and genres."""
    sums = hashlib.sha256()
    for array in (data.user, data.movie, data.rating, data.genres):
        sums.update(np.ascontiguousarray(array).tobytes())
    return sums.hexdigest()


def execute(job: Job, data: MovieLens, parts: Parts, on_epoch: Any) -> dict[str, Any]:
    """Train and score one model."""
    import din
    import keras
    import ragged_training

    keras.backend.clear_session()  # else every run leaves its graphs in memory
    variant = job.variant
    counts = ragged_training.frequencies(data, parts.training, variant.history)
    settings = {
        "film_l2": DECAY[variant.mini_batch_aware],
        "film_frequencies": counts if variant.mini_batch_aware else None,
        "attention_units": ATTENTION_UNITS,
        **variant.model,
    }
    model = din.build_model(din.genre_shares(data), ragged=True, seed=job.seed, **settings)
    epochs = ragged_training.train(
        model,
        data,
        parts.training,
        {"validation": parts.validation, "test": parts.test},
        history=variant.history,
        epochs=job.epochs,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        seed=job.seed,
        on_epoch=on_epoch,
    )
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_variables)
    return {"parameters": parameters, "epochs": [dataclasses.asdict(epoch) for epoch in epochs]}


def run_missing(jobs: Sequence[Job], store: FinishedRuns, data: MovieLens, parts: Parts) -> None:
    """Run what is not on disk yet, the first seed of every variant first."""
    from tqdm import tqdm

    data_digest = digest(data)
    missing = [job for job in jobs if store.load(job.name, job.key(data_digest)) is None]
    print(f"{len(jobs)} runs, {len(jobs) - len(missing)} of them finished before")
    if not missing:
        return
    print(f"{estimate(missing, data, parts)} to go", flush=True)
    with tqdm(total=sum(job.epochs for job in missing), unit="epoch", mininterval=1) as bar:
        for job in missing:
            bar.set_description(f"{job.name}, seed {job.seed}")
            if store.load(job.name, job.key(data_digest)) is not None:
                bar.update(job.epochs)  # another process, working on the same folder, was faster
                continue
            result = execute(job, data, parts, on_epoch=bar.update)
            store.save(job.name, job.key(data_digest), result)


# Processor seconds on the machine of the first table, for a first idea of how long it will take.
SECONDS_PER_RUN = 5.0
SECONDS_PER_QUESTION = 3e-5
SECONDS_PER_EVENT = {"attention": 1.5e-6, "mean": 3e-7, "sum": 3e-7}


def estimate(jobs: Sequence[Job], data: MovieLens, parts: Parts) -> str:
    """How long the jobs will take."""
    place = (np.arange(len(data.user)) - data.first)[parts.training]
    seconds = 0.0
    for job in jobs:
        events = np.minimum(place, job.variant.history).sum()
        per_event = SECONDS_PER_EVENT[job.variant.model.get("pooling", "attention")]
        epoch = len(place) * SECONDS_PER_QUESTION + events * per_event
        seconds += SECONDS_PER_RUN + job.epochs * epoch
    return f"about {math.ceil(seconds / 60)} minutes of one processor core's time"


# The table -------------------------------------------------------------------------------------

SCORES = {"auc": "AUC", "user_auc": "GAUC", "log_loss": "log loss"}


@dataclass(frozen=True)
class Row:
    """The finished runs of one variant, at the epochs that the validation part chose.

    Attributes:
        test: By score and seed, that of the test part.
        epochs: The chosen epoch of each seed, from 1.
        parameters: Number of trained parameters.
        seconds: Of processor time per epoch of training, their median.
    """

    title: str
    test: dict[str, dict[int, float]]
    epochs: list[int]
    parameters: int
    seconds: float

    def mean(self, score: str) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.test[score].values())))

    def deviation(self, score: str) -> float:
        """Standard deviation over the seeds; NaN for one seed."""
        values = list(self.test[score].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def gain(self, score: str, other: Row) -> tuple[float, float]:
        """How much it lies above another variant, seed by seed: mean and its standard error."""
        mine, others = self.test[score], other.test[score]
        gains = [mine[seed] - others[seed] for seed in sorted(set(mine) & set(others))]
        if len(gains) < 2:
            return (gains[0] if gains else math.nan), math.nan
        return float(np.mean(gains)), float(np.std(gains, ddof=1) / math.sqrt(len(gains)))


def best_epoch(result: Mapping[str, Any]) -> int:
    """The epoch that is best on the validation part, from 0."""
    aucs = [epoch["scores"]["validation"]["auc"] for epoch in result["epochs"]]
    return int(np.argmax(np.nan_to_num(aucs, nan=-1.0)))


def rows_of(jobs: Sequence[Job], store: FinishedRuns, data: MovieLens) -> dict[str, Row]:
    """Summarise the finished runs by variant."""
    data_digest = digest(data)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for job in jobs:
        result = store.load(job.name, job.key(data_digest))
        if result is not None:
            results.setdefault(job.name, {})[job.seed] = result
    return {name: _row(VARIANTS[name].title, results[name]) for name in VARIANTS if name in results}


def _row(title: str, by_seed: Mapping[int, Mapping[str, Any]]) -> Row:
    chosen = {seed: best_epoch(result) for seed, result in by_seed.items()}
    return Row(
        title=title,
        test={
            score: {
                seed: result["epochs"][chosen[seed]]["scores"]["test"][score]
                for seed, result in by_seed.items()
            }
            for score in SCORES
        },
        epochs=[epoch + 1 for epoch in chosen.values()],
        parameters=next(iter(by_seed.values()))["parameters"],
        seconds=float(np.median([e["seconds"] for r in by_seed.values() for e in r["epochs"]])),
    )


def table(rows: Mapping[str, Row]) -> str:
    """All rows as text, and how far each lies from the base."""
    width = max(len(row.title) for row in rows.values())
    scores = "".join(f"{title:>16}" for title in SCORES.values())
    lines = [f"{'':<{width}} seeds{scores}  epochs {'parameters':>10} {'s/epoch':>8}"]
    for row in rows.values():
        cells = "".join(f"  {row.mean(s):.4f} ± {row.deviation(s):.4f}" for s in SCORES).replace(
            "± nan", "        "
        )
        lines.append(
            f"{row.title:<{width}} {len(row.epochs):>5}{cells}  {_range(row.epochs):>6}"
            f" {row.parameters:>10,} {row.seconds:>8.1f}"
        )
    lines.append(
        "Test part; mean ± standard deviation over the seeds, each at the epoch that its validation"
        " part chose.\nGAUC: mean of the users' own AUCs, weighted by their ratings. Seconds of"
        " processor time (not of waiting) per epoch of training."
    )
    pairs = [(name, twin) for name in rows if (twin := _mean_pooling_of(name)) in rows]
    blocks = {"mean pooling, all else the same": pairs}
    if BASE in rows:
        blocks[repr(rows[BASE].title)] = [(name, BASE) for name in rows if name != BASE]
    for reference, compared in blocks.items():
        if compared:
            lines += ["", f"Above {reference}, seed by seed: mean ± standard error"]
        for name, other in compared:
            gains = "".join(_gain(rows[name], rows[other], score) for score in SCORES)
            lines.append(f"{rows[name].title:<{width}}      {gains}")
    return "\n".join(lines)


def _mean_pooling_of(name: str) -> str | None:
    """The variant that differs from this one only in pooling by the mean."""
    wanted = dataclasses.replace(
        VARIANTS[name], title="", model={**VARIANTS[name].model, "pooling": "mean"}
    )
    twins = (n for n, v in VARIANTS.items() if dataclasses.replace(v, title="") == wanted)
    return next((twin for twin in twins if twin != name), None)


def _gain(row: Row, reference: Row, score: str) -> str:
    mean, error = row.gain(score, reference)
    return f" {mean:+.4f} ± {error:.4f}" if not math.isnan(error) else f" {mean:+.4f}         "


def _range(epochs: Sequence[int]) -> str:
    low, high = min(epochs), max(epochs)
    return f"{low}" if low == high else f"{low}-{high}"


# The picture -----------------------------------------------------------------------------------


def draw(rows: Mapping[str, Row], file: Path) -> None:
    """Draw AUC and GAUC of each variant: every seed, and the mean with its standard error."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 1.8 + 0.42 * len(rows)), layout="constrained")
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, score in zip(all_axes, ("auc", "user_auc"), strict=True):
        for place, row in enumerate(rows.values()):
            values = list(row.test[score].values())
            axes.plot(
                values, [place] * len(values), "o", color="tab:gray", alpha=0.45, markersize=5
            )
            error = row.deviation(score) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            colour = "tab:orange" if row.title.startswith(("mean", "sum")) else "tab:blue"
            axes.errorbar(
                row.mean(score), place, xerr=error, fmt="D", color=colour, markersize=7, capsize=4
            )
        if BASE in rows:
            axes.axvline(rows[BASE].mean(score), color="tab:blue", linestyle=":", linewidth=1)
        axes.set_xlabel(f"{SCORES[score]} on the test part")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", alpha=0.3)
    all_axes[0].set_yticks(range(len(rows)), [row.title for row in rows.values()])
    all_axes[0].invert_yaxis()
    figure.suptitle(
        "What each part of DIN is worth on MovieLens: each seed (grey), mean and standard error\n"
        "(blue: attention, orange: plain pooling; dotted: the base, in the first row)"
    )
    figure.savefig(file, dpi=110)


# Command line ----------------------------------------------------------------------------------

FILES = ("table.txt", "ablation.png")


def parser() -> Parser:
    """All options."""
    result = movielens_parser(
        "Measure what each part of DIN is worth on MovieLens ratings.",
        epochs=3,
        out=Path("runs/ablation_movielens"),
        files=FILES,
        one_run=False,
    )
    result.add_argument(
        "--seeds", type=whole(1), default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)"
    )
    result.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help=f"which to run (default: all): {', '.join(VARIANTS)}",
    )
    result.add_argument(
        "--finished", action="store_true", help="train nothing: table and picture of what is there"
    )
    return result


def run(options: argparse.Namespace, staging: Path) -> None:
    """Run what is missing, then write table and picture to `staging`."""
    data = number(*read(options.data, options.limit))
    parts = split(data)
    print(
        f"{len(data.user):,} ratings by {data.user[-1] + 1:,} users: {len(parts.training):,} to"
        f" train with, {len(parts.validation):,} to choose the epoch, {len(parts.test):,} to test"
    )
    # Only now, with arguments and data in order: TensorFlow takes seconds to start. `din` keeps it
    # from writing lines of its own.
    import din  # noqa: F401

    # By seed first, so that whoever interrupts it has a table of all variants.
    jobs = [
        Job(name, seed, options.epochs)
        for seed in range(options.seeds)
        for name in dict.fromkeys(options.variants)
    ]
    store = FinishedRuns(options.out / "finished")
    if not options.finished:
        run_missing(jobs, store, data, parts)
    rows = rows_of(jobs, store, data)
    if not rows:
        raise DataError(f"{store.folder}: none of these runs is finished")
    text = table(rows)
    print(f"\n{text}")
    (staging / "table.txt").write_text(text + "\n", encoding="utf-8")
    draw(rows, staging / "ablation.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example(
        "ablation_movielens",
        parser(),
        run,
        FILES,
        argv,
        if_interrupted="the finished runs are kept and the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main())
