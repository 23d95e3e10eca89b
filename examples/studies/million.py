"""DIN, DIEN, BST and mean pooling on a million ratings, with histories short and long.

    python examples/studies million --data ml-1m    # from https://grouplens.org/datasets/movielens/

Every rating with at least five earlier ones of its user is a row: will they give four stars or
more? The rows are split by time over all users: 80 % to train with, 10 % to choose the epoch and
everything else, 10 % for the test, whose score is taken once. All models get the same: film,
genres and stars of each event, the user's gender, age and occupation. Each finished run is kept
under `--out`: interrupt it when you like, the same command goes on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers, ops

from din_layers import AttentionPoolingLayer, SequencePoolingLayer
from studies.bst import encode
from studies.data import LIKED, Floats, Ints, MovieLens, questions
from studies.dien import evolve
from studies.din import draw_attention, genre_shares, probability, rated_films
from studies.report import score_columns, table
from studies.scores import NAMES, Epoch, Scores, mean_and_spread, measure
from studies.training import SCORING_BATCH, train
from studies.variants import MEAN_OF, VARIANTS

Parts = dict[str, Ints]  # "training", "validation" and "test": indices into the ratings

FEWEST = 5  # earlier ratings of a row
USER_FIELDS = ("gender", "age", "occupation")
# Chosen on the validation part.
ATTENTION_UNITS = (32, 16)
BATCH = 1024
LEARNING_RATE = 2e-3  # falls to 0 along a cosine
FILM_L2 = 2e-4
# A batch is padded to one of these or to the longest history: XLA compiles each length anew.
LENGTHS = np.array([64, 128, 256, 512, 1024])
WORTH_COMPILING = 100_000  # rows; with fewer, XLA takes longer than it saves
SORTED = 16  # batches that are sorted by length, so that little is padded


def split_by_time(data: MovieLens) -> Parts:
    """The latest tenth of all rows is for the test, the tenth before for validation."""
    rows = np.flatnonzero(np.arange(len(data.user)) - data.first >= FEWEST)
    if len(rows) < 10:
        raise ValueError(f"{len(rows)} ratings have {FEWEST} earlier ones: too few to split")
    rows = rows[np.argsort(data.time[rows], kind="stable")]
    parts = np.split(rows, [len(rows) * 8 // 10, len(rows) * 9 // 10])
    return dict(zip(("training", "validation", "test"), parts, strict=True))


def build_ranker(
    data: MovieLens,
    *,
    pooling: str = "attention",  # or "mean", "evolution" (DIEN), "transformer" (BST)
    activation: str = "dice",  # of the attention's hidden units
    softmax: bool = True,  # whether the attention's weights add up to 1
    scale: bool = False,  # whether its scores are divided by the square root of the vectors' size
    film_l2: float = FILM_L2,  # weight decay
    mini_batch_aware: bool = False,  # whether it is that of the paper
    recency: bool = False,  # whether events say how many are newer
) -> keras.Model:
    """Probability that a user with this history likes the film in question, (batch, 1).

    The inputs are those of `build_din` and a (batch, 1) for each field of the user.
    """
    shares = genre_shares(data)
    counts = None
    if mini_batch_aware:
        counts = film_counts(data, split_by_time(data)["training"], 30)
    inputs, candidate, history, vectors = rated_films(shares, film_l2=film_l2, film_counts=counts)
    if recency:
        asked, events = when(*inputs[:2])
        candidate = layers.Concatenate()([candidate, asked])
        history = layers.Concatenate()([history, events])
    fields = {
        name: keras.Input((1,), dtype="int32", name=name)
        for name in USER_FIELDS
        if name in data.users
    }
    user = [
        layers.Embedding(int(data.users[name].max()) + 1, 8)(field)
        for name, field in fields.items()
    ]
    if pooling == "mean":
        interest = SequencePoolingLayer("mean")(history, ids=inputs[1])
    elif pooling == "evolution":
        evolved = evolve(inputs, candidate, history, vectors, films=len(shares) - 1)
        interest = ops.expand_dims(evolved, 1)
    else:
        if pooling == "transformer":
            history = encode(history, inputs[1], 1, heads=4, feed_forward_units=64, dropout=0.0)
        attention = AttentionPoolingLayer(
            ATTENTION_UNITS,
            activation,
            weight_normalization="softmax" if softmax else None,
            scale=scale,
            name="attention",
        )
        # With the weights, for `attention_model`.
        asked = [candidate, history]
        interest, _ = attention(asked, ids=inputs[1], return_attention_scores=True)
    output = ops.squeeze(probability(candidate, interest, others=user), -1)
    return keras.Model([*inputs, *fields.values()], output, name=pooling)


def film_counts(data: MovieLens, events: Ints, history: int) -> Ints:
    """How often each film stands in the training data, as film in question or in a history."""
    asked = questions(data, events, history)
    ids = np.concatenate([asked.movie, asked.history_movies.ravel()])
    counts = np.bincount(ids, minlength=len(data.titles))
    counts[0] = 0  # the padding
    return counts


def when(movie: Any, history: Any) -> tuple[Any, Any]:
    """Embed how many events are newer, in halves of doublings; the film in question is newest."""
    valid = ops.cast(ops.not_equal(history, 0), "int32")
    newer = ops.flip(ops.cumsum(ops.flip(valid, axis=1), axis=1), axis=1)
    places = ops.cast(1 + 2 * ops.log2(ops.cast(ops.maximum(newer, 1), "float32")), "int32")
    embedding = layers.Embedding(32, 8, name="places")
    return embedding(ops.zeros_like(movie)), embedding(places)


def inputs_of(data: MovieLens, events: Ints, places: Ints, length: int) -> dict[str, Ints]:
    """The ratings `events` as the model takes them; the newest of a history is at its end.

    `places` are those of all ratings among their users' own, from 0.
    """
    back = np.arange(length, 0, -1)
    valid = back <= places[events][:, None]
    index = np.where(valid, events[:, None] - back, 0)
    fields = (name for name in USER_FIELDS if name in data.users)
    return {
        "movie": data.movie[events][:, None],
        "history_movies": data.movie[index] * valid,
        "history_ratings": data.rating[index] * valid,
        **{name: data.users[name][data.user[events]][:, None] for name in fields},
    }


def batches(
    data: MovieLens, events: Ints, history: int, size: int, seed: int | None = None
) -> tf.data.Dataset:
    """Batches of inputs and labels; with a seed, in another order each time, and whole ones only.

    In training, the rows of a few batches are sorted by length; without a seed, nothing is.
    """
    places = np.arange(len(data.user)) - data.first
    lengths = np.append(LENGTHS[history > LENGTHS], history)
    kind = np.searchsorted(lengths, np.minimum(places, history))
    rng = np.random.default_rng(seed)

    def draw() -> Iterator[tuple[dict[str, Ints], Ints]]:
        order = events
        if seed is not None:
            order = rng.permutation(events)
            order = order[: max(len(order) // size, 1) * size]
            some = np.arange(len(order)) // (SORTED * size)
            order = order[np.lexsort((kind[order], some))]
        for start in range(0, len(order), size):
            part = order[start : start + size]
            length = lengths[kind[part].max()]
            yield inputs_of(data, part, places, length), (data.rating[part] >= LIKED)[:, None]

    inputs, label = next(draw())
    steady = len(lengths) == 1
    spec = {
        name: tf.TensorSpec((None, x.shape[1] if steady or x.shape[1] == 1 else None), tf.int32)
        for name, x in inputs.items()
    }
    signature = (spec, tf.TensorSpec((None, *label.shape[1:]), tf.bool))
    found = tf.data.Dataset.from_generator(draw, output_signature=signature)
    count = len(events) // size if seed is not None else -(-len(events) // size)
    return found.apply(tf.data.experimental.assert_cardinality(max(count, 1))).prefetch(4)


def score(model: keras.Model, data: MovieLens, events: Ints, history: int) -> Scores:
    """Score a part, in an order that pads little."""
    places = np.arange(len(data.user)) - data.first
    events = events[np.argsort(places[events], kind="stable")]
    asked = batches(data, events, history, SCORING_BATCH).map(lambda inputs, _: inputs)
    found: Floats = model.predict(asked, verbose=0)[:, 0]
    return measure(data.rating[events] >= LIKED, found, data.user[events])


def train_variant(
    recipe: dict[str, Any], data: MovieLens, parts: Parts
) -> tuple[dict[str, float], list[Floats]]:
    """Train and score one model; return its row of the table and its weights."""
    keras.backend.clear_session()  # else every run leaves its graphs in memory
    variant, seed, epochs = recipe["variant"], recipe["seed"], recipe["epochs"]
    history = min(variant.history, int(np.bincount(data.user).max()))
    keras.utils.set_random_seed(seed)
    model = build_ranker(data, **variant.model)
    weights: list[list[Floats]] = []

    def validate(model: keras.Model) -> dict[str, Scores]:
        weights.append(model.get_weights())
        return {"validation": score(model, data, parts["validation"], history)}

    rows = batches(data, parts["training"], history, BATCH, seed)
    steps = epochs * max(len(parts["training"]) // BATCH, 1)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    jit = len(parts["training"]) > WORTH_COMPILING
    found = train(model, rows, epochs=epochs, score=validate, learning_rate=rate, jit_compile=jit)
    best = best_epoch(found)
    model.set_weights(weights[best])
    seconds = float(np.median([epoch.seconds for epoch in found]))
    test = score(model, data, parts["test"], history)
    return {**test, "epoch": best + 1, "seconds": seconds}, weights[best]


def best_epoch(epochs: list[Epoch]) -> int:
    """The epoch with the best AUC on the validation part, from 0."""
    aucs = [epoch.scores["validation"]["AUC"] for epoch in epochs]
    return int(np.argmax(np.nan_to_num(aucs, nan=-1)))


def results(options: argparse.Namespace, parts: Parts) -> pd.DataFrame:
    """Run what is not on disk yet; one row per run, at the epoch that validation chose."""
    data, rows = options.data, []
    memory = joblib.Memory(options.out / "finished", verbose=0)
    cached = memory.cache(train_variant, ignore=["data", "parts"])
    # With anything else another result is another run.
    settings = [ATTENTION_UNITS, BATCH, LEARNING_RATE, FILM_L2, keras.version(), tf.version.VERSION]
    recipe = {"epochs": options.epochs, "data": joblib.hash(data), "others": settings}
    # By seed first, so that whoever looks early has something of all variants.
    for seed in options.seeds:
        for name in dict.fromkeys(options.variants):
            print(f"\n{name}, seed {seed}", flush=True)
            row, weights = cached({**recipe, "variant": VARIANTS[name], "seed": seed}, data, parts)
            rows.append({"variant": name, "seed": seed, **row, "weights": weights})
    return pd.DataFrame(rows).set_index(["variant", "seed"])


def report(found: pd.DataFrame) -> str:
    """All variants as a table, and how far each lies from the base and from mean pooling."""
    lines = {
        VARIANTS[name].title: {
            "seeds": len(of),
            **score_columns(of.to_dict("records")),
            "epochs": "-".join(map(str, sorted({of["epoch"].min(), of["epoch"].max()}))),
            "s / epoch": f"{of['seconds'].median():.1f}",
        }
        for name, of in found.groupby("variant", sort=False)
    }
    note = "Test part, mean ± standard deviation. Seconds are of processor time."
    text, base = [table(lines), note], next(iter(VARIANTS))
    names = set(found.index.get_level_values("variant"))
    for title, pairs in (
        ("mean pooling, all else the same", MEAN_OF),
        (repr(VARIANTS[base].title), {name: base for name in VARIANTS if name != base}),
    ):
        gains = {VARIANTS[a].title: gain(found, a, b) for a, b in pairs.items() if {a, b} <= names}
        if gains:
            text.append(f"\nAbove {title}, seed by seed: mean ± standard error\n{table(gains)}")
    return "\n".join(text)


def gain(found: pd.DataFrame, name: str, other: str) -> dict[str, str]:
    """How much a variant lies above another."""
    scores = found[NAMES]
    difference = scores.loc[name] - scores.loc[other]  # pandas pairs the seeds
    return {score: mean_and_spread(difference[score], "+.4f", error=True) for score in NAMES}


def draw_two_users(model: keras.Model, data: MovieLens, test: Ints, out: Path) -> None:
    """Draw what DIN looks at, for two users of about 200 ratings, the last of them in the test."""
    count = np.bincount(data.user)
    cut = np.cumsum(count) - count // 5  # from here on, `draw_attention` asks
    unseen = data.time[np.minimum(cut, len(data.time) - 1)] >= data.time[test].min()
    users = np.argsort(np.where(unseen, np.abs(count - 200), np.inf), kind="stable")[:2]
    for place, user in enumerate(users, 1):
        draw_attention(model, data, int(user), out / f"attention_{place}.png")


def run(options: argparse.Namespace) -> None:
    data, parts = options.data, split_by_time(options.data)
    training, validation, test = (f"{len(events):,}" for events in parts.values())
    kinds = f"{training} to train with, {validation} to choose the epoch, {test} to test"
    print(f"{data}: {kinds}", flush=True)
    found = results(options, parts)
    text = report(found)
    print(f"\n{text}")
    (options.out / "table.txt").write_text(text + "\n", encoding="utf-8")
    if "din" in options.variants:
        model = build_ranker(data)
        model.set_weights(found.loc[("din", options.seed), "weights"])
        draw_two_users(model, data, parts["test"], options.out)
