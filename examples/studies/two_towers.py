"""Two towers on MovieLens: from all films, which hundred should a ranking model look at?

`build_two_towers` is the part to take along: a user tower and an item tower, which share their
embeddings. `build_training_model` joins them for `fit`; afterwards each is saved and used on its
own. The study trains them to find the film that a user rated next among all films, and compares
their recall with a popularity list. Each user's last rated film is held out; keras-rs's
BruteForceRetrieval finds the best films. Users' gender, age, occupation and zip code are used where
the data has them (ml-1m). Temperature and epochs were chosen on the second to last film of each
user; the held-out films chose nothing.

    python examples/studies two_towers
    python examples/studies two_towers --sampler frequency --seeds 1
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_rs
import numpy as np
from keras import ops

from din_layers import SequencePoolingLayer
from studies.data import (
    HISTORY,
    DataError,
    Floats,
    Ints,
    Longs,
    MovieLens,
    genre_combinations,
    histories,
    newest_first,
)
from studies.report import table
from studies.scores import mean_and_spread
from studies.training import SCORING_BATCH, train

TEMPERATURE = 0.1
CUTS = (10, 50, 100)

# The towers ------------------------------------------------------------------------------------


def build_two_towers(
    user_fields: Mapping[str, int],
    item_fields: Mapping[str, int],
    *,
    user_hidden_units: Sequence[int] = (128, 64, 32),
    item_hidden_units: Sequence[int] = (64, 32),
    seed: int | None = None,
) -> tuple[keras.Model, keras.Model]:
    """Return the user tower and the item tower; both give vectors of length 1.

    The user tower takes each user field (batch, 1), `history_length` (batch, 1) and, for each item
    field, `history_<field>` (batch, time), which is pooled by its mean. The item tower takes each
    item field (batch, 1). The score of a pair is the inner product of the vectors.

    Args:
        user_fields: Per field of a user: how many ids it has, 0 included.
        item_fields: Per field of an item: the same. Items and histories share the embeddings.
        user_hidden_units: Units of the user tower's dense layers, the vector's size last.
        item_hidden_units: Units of the item tower's dense layers, the same size last.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)

    def embedding(field: str, ids: int, units: int) -> keras.layers.Embedding:
        return keras.layers.Embedding(
            ids,
            units,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=1e-4),
            embeddings_regularizer=keras.regularizers.L2(1e-6),
            name=f"{field}_embedding",
        )

    def tower(vectors: list[Any], hidden_units: Sequence[int]) -> Any:
        x = keras.layers.Flatten()(keras.layers.Concatenate()(vectors))
        *hidden, size = hidden_units
        for units in hidden:
            x = keras.layers.Dense(units, activation="relu")(x)
        return keras.layers.UnitNormalization()(keras.layers.Dense(size)(x))

    item_embeddings = {field: embedding(field, ids, 32) for field, ids in item_fields.items()}
    item = {field: keras.Input((1,), dtype="int32", name=field) for field in item_fields}
    item_vector = tower([item_embeddings[field](item[field]) for field in item], item_hidden_units)

    user = {field: keras.Input((1,), dtype="int32", name=field) for field in user_fields}
    history = {
        f"history_{field}": keras.Input((None,), dtype="int32", name=f"history_{field}")
        for field in item_fields
    }
    length = keras.Input((1,), dtype="int32", name="history_length")
    pool = SequencePoolingLayer(mode="mean", name="mean")
    user_vector = tower(
        [embedding(field, user_fields[field], 16)(user[field]) for field in user]
        + [pool(item_embeddings[f](history[f"history_{f}"]), lengths=length) for f in item],
        user_hidden_units,
    )
    return (
        keras.Model({**user, **history, "history_length": length}, user_vector, name="user_tower"),
        keras.Model(item, item_vector, name="item_tower"),
    )


# The loss --------------------------------------------------------------------------------------


def build_training_model(
    user_tower: keras.Model,
    item_tower: keras.Model,
    items: Mapping[str, Ints],
    counts: Ints,
    *,
    sampler: str = "inbatch",
    num_sampled: int = 255,
    temperature: float = 0.05,
    seed: int | None = None,
) -> keras.Model:
    """Join the towers to a classifier that tells each user's item from the negatives.

    Inputs: those of the user tower, and `positive` (batch, 1), the id of the user's item. Output:
    logits (batch, 1 + negatives), the user's item first, so that its class is always 0: train with
    `SparseCategoricalCrossentropy(from_logits=True)` and labels 0.

    Args:
        user_tower: From `build_two_towers`.
        item_tower: From `build_two_towers`.
        items: Per item field, the value for each item id; id 0 is padding.
        counts: Per item id: how often it is a positive in the training part.
        sampler: Where negatives come from: "inbatch", the positives of the other users of the
            batch; "uniform" or "frequency", `num_sampled` draws from all items for each batch.
        num_sampled: Number of draws.
        temperature: The scores, between -1 and 1, are divided by it.
        seed: Seed of the draws.
    """
    weights = (np.ones(len(counts)) if sampler == "uniform" else counts).astype(np.float64)
    weights[0] = 0  # padding
    probabilities = weights / weights.sum()

    def item_vectors(ids: Any) -> Any:
        return item_tower({field: ops.take(values, ids) for field, values in items.items()})

    positive_ids = keras.Input((1,), dtype="int32", name="positive")
    negative_ids, positives = positive_ids, item_vectors(positive_ids)
    negatives = positives
    if sampler != "inbatch":
        negative_ids = NegativeSampler(probabilities, num_sampled, seed)(positive_ids)
        negatives = item_vectors(negative_ids)
    logits = sampled_softmax_logits(
        (user_tower.output, positives, negatives),
        positive_ids,
        negative_ids,
        probabilities,
        temperature,
    )
    inputs = {tensor.name: tensor for tensor in user_tower.inputs}
    return keras.Model({**inputs, "positive": positive_ids}, logits, name=sampler)


def sampled_softmax_logits(
    vectors: tuple[Any, Any, Any],
    positive_ids: Any,
    negative_ids: Any,
    probabilities: Floats,
    temperature: float,
) -> Any:
    """Logits (batch, 1 + negatives) of each user's own item and of the negatives, which all share.

    `vectors` are users and positives, (batch, dim), and negatives (negatives, dim); the ids are
    (batch, 1) and (negatives, 1). Popular items are negatives more often than others; subtracting
    the logarithm of their sampling probability makes up for it ("Sampling-Bias-Corrected Neural
    Modeling for Large Corpus Item Recommendations", section 3). Negatives that are the user's own
    item, itself in the batch among them, are left out.
    """
    users, positives, negatives = vectors

    def corrected(scores: Any, ids: Any) -> Any:
        # Its default epsilon, 1e-6, would clip the rare items of large data.
        correction = keras_rs.layers.SamplingProbabilityCorrection(epsilon=1e-12)
        return correction(scores / temperature, ops.take(probabilities.astype("float32"), ids))

    negative_ids = ops.transpose(negative_ids)
    own = corrected(ops.sum(users * positives, axis=-1, keepdims=True), positive_ids)
    others = corrected(ops.matmul(users, ops.transpose(negatives)), negative_ids)
    # keras-rs 0.4.0 has RemoveAccidentalHits, which changes nothing: it adds 1e-40 to the logits.
    # Scores are at most 1 / temperature, so -1e9 is far below all of them.
    others = ops.where(ops.equal(positive_ids, negative_ids), -1e9, others)
    return ops.concatenate([own, others], axis=-1)


class NegativeSampler(keras.layers.Layer):
    """Draw the ids (num_sampled, 1) of a batch's negatives anew at each call."""

    def __init__(self, probabilities: Floats, num_sampled: int, seed: int | None = None) -> None:
        super().__init__()
        # The logarithm of 0 is -inf, which is right: such an item is never drawn.
        with np.errstate(divide="ignore"):
            self.log_probabilities = np.log(probabilities)[None].astype("float32")
        self.num_sampled = num_sampled
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, positive_ids: Any) -> Any:
        """Draw; `positive_ids` only tells Keras that there is a batch."""
        drawn = keras.random.categorical(
            self.log_probabilities, self.num_sampled, dtype="int32", seed=self.seed_generator
        )
        return ops.transpose(drawn)


# The study -------------------------------------------------------------------------------------


class Parts:
    """Leave last out: each user's last film is to be found, the films between train."""

    def __init__(self, data: MovieLens) -> None:
        self.data = data
        # Per field of a user or film, and per user or film: the id of its value.
        self.users = {"user": np.arange(1, data.user[-1] + 2, dtype=np.int32), **data.users}
        movies = np.arange(len(data.titles), dtype=np.int32)
        self.films = {"movie": movies, "genres": genre_combinations(data)}
        # A user's first rating has no history and only serves as one.
        has_history = data.first < np.arange(len(data.user))
        last = np.append(data.user[1:] != data.user[:-1], True)
        self.train, self.test = (np.flatnonzero(has_history & part) for part in (~last, last))
        if not len(self.train):
            raise DataError("no user has three ratings, so there is nothing to train with")

    def vocabularies(self) -> list[dict[str, int]]:
        """Per user field and per film field: how many ids it has, 0 included."""
        both = (self.users, self.films)
        return [{field: int(ids.max()) + 1 for field, ids in fields.items()} for fields in both]

    def user_inputs(self, events: Longs) -> dict[str, Ints]:
        """What the user tower is told in front of the ratings `events`."""
        movies, _ = histories(self.data, self.data.first[events], events, HISTORY)
        movies = newest_first(movies)
        who = self.data.user[events]
        return {
            **{field: ids[who][:, None] for field, ids in self.users.items()},
            **{f"history_{field}": ids[movies] for field, ids in self.films.items()},
            "history_length": np.count_nonzero(movies, axis=1).astype(np.int32)[:, None],
        }

    def popular(self) -> Ints:
        """The most rated films, the held-out ratings left out: the same list for every user."""
        counts = np.bincount(np.delete(self.data.movie, self.test), minlength=len(self.data.titles))
        best = np.argsort(-counts[1:], kind="stable")[: CUTS[-1]] + 1
        return np.tile(best, (len(self.test), 1))


def train_towers(
    parts: Parts, sampler: str, epochs: int, seed: int
) -> tuple[keras.Model, keras.Model]:
    """Train a user tower and an item tower."""
    towers = build_two_towers(*parts.vocabularies(), seed=seed)
    positive = parts.data.movie[parts.train][:, None]
    counts = np.bincount(positive[:, 0], minlength=len(parts.data.titles))
    model = build_training_model(
        *towers, parts.films, counts, sampler=sampler, temperature=TEMPERATURE, seed=seed
    )
    print(f"\nTraining, negatives {sampler}, seed {seed}", flush=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs = {**parts.user_inputs(parts.train), "positive": positive}
    train(model, inputs, np.zeros_like(positive), epochs=epochs, loss=loss)
    return towers


def retrieve(towers: Sequence[keras.Model], parts: Parts) -> Ints:
    """Each held-out user's best films, the best first."""
    items = {field: ids[1:, None] for field, ids in parts.films.items()}  # row 0 is padding
    users, films = (
        tower.predict(inputs, batch_size=SCORING_BATCH, verbose=0)
        for tower, inputs in zip(towers, (parts.user_inputs(parts.test), items), strict=True)
    )
    ids = np.arange(1, len(films) + 1, dtype=np.int32)
    retrieval = keras_rs.layers.BruteForceRetrieval(films, ids, k=min(CUTS[-1], len(films)))
    # Scores of all users with all films at once might not fit into the memory.
    best = [retrieval(users[start : start + 512])[1] for start in range(0, len(users), 512)]
    return np.concatenate([ops.convert_to_numpy(part) for part in best])


def recall(best: Ints, film: Ints, k: int) -> float:
    """Share of the users whose film is among their `k` best."""
    return float((best[:, :k] == film[:, None]).any(axis=1).mean())


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole study; the towers of the first seed go to `staging`."""
    data, parts = options.data, Parts(options.data)
    print(
        f"{len(data.user):,} ratings by {data.user[-1] + 1:,} users of {len(data.titles) - 1:,}"
        f" films: {len(parts.train):,} to train with, the last of each of {len(parts.test):,} users"
        f" held out.\nKnown about a user: {', '.join(parts.users)}, and the last {HISTORY} films",
        flush=True,
    )
    found: dict[str, list[Ints]] = {"two towers": [], "popularity list": [parts.popular()]}
    for seed in options.seeds:
        towers = train_towers(parts, options.sampler, options.epochs, seed)
        if seed == options.seed:  # from here on, what was saved: each tower on its own
            files = [staging / f"{tower.name}.keras" for tower in towers]
            for tower, file in zip(towers, files, strict=True):
                tower.save(file)
            towers = tuple(map(keras.models.load_model, files))
        found["two towers"].append(retrieve(towers, parts))
    film = data.movie[parts.test]
    lines = {
        name: {f"@{k}": mean_and_spread([recall(best, film, k) for best in of_seeds]) for k in CUTS}
        for name, of_seeds in found.items()
    }
    print(
        f"\nRecall among all films\n{table(lines)}\nOne film is held out for each user, so recall@k"
        f" is HitRate@k, too. Chance alone moves a line's recall\nby up to"
        f" {1 / np.sqrt(len(film)):.3f} (95 % interval at one half, less at the ends)."
    )
