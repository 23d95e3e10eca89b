"""Two towers on MovieLens: from all films, which hundred should a ranking model look at?

`build_two_towers` is the part to take along: a user tower and an item tower, which share their
embeddings. `build_training_model` joins them for `fit`; afterwards each is saved and used on its
own. The study trains them to find the film that a user rated next among all films, and compares
their recall with a popularity list. What the data knows of users (ml-1m) is used. Temperature and
epochs were chosen on the second to last film of each user; the last one is held out.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_rs
import numpy as np
from keras import layers, ops

from din_layers import SequencePoolingLayer
from studies.data import Ints, MovieLens, UserError, genre_combinations, newest_first, questions
from studies.report import table
from studies.scores import mean_and_spread
from studies.training import SCORING_BATCH, train

TEMPERATURE = 0.1  # the scores, between -1 and 1, are divided by it
CUTS = (10, 50, 100)


def build_two_towers(
    user_fields: Mapping[str, int], item_fields: Mapping[str, int]
) -> tuple[keras.Model, keras.Model]:
    """Return the user tower and the item tower; both give vectors of length 1.

    The fields say how many ids each has, 0 included. The user tower takes each user field
    (batch, 1), `history_length` (batch, 1) and, for each item field, `history_<field>`
    (batch, time), which is pooled by its mean. The item tower takes each item field (batch, 1).
    The score of a pair is the inner product of the vectors.
    """

    def embedding(field: str, ids: int, units: int) -> layers.Embedding:
        start, decay = keras.initializers.RandomNormal(stddev=1e-4), keras.regularizers.L2(1e-6)
        return layers.Embedding(ids, units, start, decay, name=f"{field}_embedding")

    def tower(vectors: list[Any], hidden_units: Sequence[int]) -> Any:
        x = layers.Flatten()(layers.Concatenate()(vectors))
        for units in hidden_units:
            x = layers.Dense(units, activation="relu")(x)
        return layers.UnitNormalization()(layers.Dense(32)(x))

    def inputs(names: Sequence[str], length: int | None) -> dict[str, Any]:
        return {name: keras.Input((length,), dtype="int32", name=name) for name in names}

    item_embeddings = {field: embedding(field, ids, 32) for field, ids in item_fields.items()}
    item = inputs(list(item_fields), 1)
    item_vector = tower([item_embeddings[field](item[field]) for field in item], [64])

    user, length = inputs(list(user_fields), 1), inputs(["history_length"], 1)
    history = inputs([f"history_{field}" for field in item_fields], None)
    pool = SequencePoolingLayer(mode="mean", name="mean")
    vectors = [embedding(field, user_fields[field], 16)(user[field]) for field in user]
    vectors += [
        pool(item_embeddings[field](history[f"history_{field}"]), lengths=length["history_length"])
        for field in item
    ]
    user_vector = tower(vectors, [128, 64])
    user_tower = keras.Model({**user, **history, **length}, user_vector, name="user_tower")
    return user_tower, keras.Model(item, item_vector, name="item_tower")


def build_training_model(
    user_tower: keras.Model, item_tower: keras.Model, items: Mapping[str, Ints], counts: Ints
) -> keras.Model:
    """Join the towers to a classifier that tells each user's item from the others of the batch.

    Inputs: those of the user tower, and `positive` (batch, 1), the id of the user's item. Output:
    logits (batch, 1 + batch), the user's item first, so that its class is always 0: train with
    `SparseCategoricalCrossentropy(from_logits=True)` and labels 0. `items` has for each item field
    the value of each item id, `counts` how often an id is a positive in the training part.
    """
    positive = keras.Input((1,), dtype="int32", name="positive")
    vectors = item_tower({field: ops.take(values, positive) for field, values in items.items()})
    logits = in_batch_logits(user_tower.output, vectors, positive, counts / counts.sum())
    inputs = {tensor.name: tensor for tensor in user_tower.inputs}
    return keras.Model({**inputs, "positive": positive}, logits, name="inbatch")


def in_batch_logits(users: Any, items: Any, ids: Any, probabilities: Any) -> Any:
    """Logits (batch, 1 + batch) of each user's own item and of all items of the batch.

    `users` and `items` are (batch, dim), `ids` those of the items (batch, 1). Popular items are
    negatives more often than others; subtracting the logarithm of their sampling probability makes
    up for it ("Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
    section 3). Negatives that are the user's own item, itself among them, are left out.
    """
    log_drawn = ops.log(ops.take(probabilities.astype("float32"), ids))
    own = ops.sum(users * items, axis=-1, keepdims=True) / TEMPERATURE - log_drawn
    others = ops.matmul(users, ops.transpose(items)) / TEMPERATURE - ops.transpose(log_drawn)
    # keras-rs 0.4.0 has RemoveAccidentalHits, which changes nothing: it adds 1e-40 to the logits.
    # Scores are at most 1 / TEMPERATURE, so -1e9 is far below all of them.
    others = ops.where(ops.equal(ids, ops.transpose(ids)), -1e9, others)
    return ops.concatenate([own, others], axis=-1)


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
            raise UserError("no user has three ratings, so there is nothing to train with")

    def user_inputs(self, events: Ints) -> dict[str, Ints]:
        """What the user tower is told in front of the ratings `events`."""
        asked = questions(self.data, events)
        movies = newest_first(asked.history_movies)
        return {
            **{field: ids[asked.user][:, None] for field, ids in self.users.items()},
            **{f"history_{field}": ids[movies] for field, ids in self.films.items()},
            "history_length": np.count_nonzero(movies, axis=1).astype(np.int32)[:, None],
        }

    def popular(self) -> Ints:
        """The most rated films, the held-out ratings left out: the same list for every user."""
        counts = np.bincount(np.delete(self.data.movie, self.test), minlength=len(self.data.titles))
        best = np.argsort(-counts[1:], kind="stable")[: CUTS[-1]] + 1
        return np.tile(best, (len(self.test), 1))


def train_towers(parts: Parts, epochs: int, seed: int) -> tuple[keras.Model, keras.Model]:
    print(f"\nTraining, seed {seed}", flush=True)
    keras.utils.set_random_seed(seed)
    users, films = (
        {field: int(ids.max()) + 1 for field, ids in fields.items()}
        for fields in (parts.users, parts.films)
    )
    towers = build_two_towers(users, films)
    positive = parts.data.movie[parts.train][:, None]
    counts = np.bincount(positive[:, 0], minlength=len(parts.data.titles))
    model = build_training_model(*towers, parts.films, counts)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs = {**parts.user_inputs(parts.train), "positive": positive}
    train(model, inputs, np.zeros_like(positive), epochs=epochs, loss=loss)
    return towers


def retrieve(user_tower: keras.Model, item_tower: keras.Model, parts: Parts) -> Ints:
    """Each held-out user's best films, the best first."""
    items = {field: values[1:, None] for field, values in parts.films.items()}  # row 0 is padding
    users = user_tower.predict(parts.user_inputs(parts.test), batch_size=SCORING_BATCH, verbose=0)
    films = item_tower.predict(items, batch_size=SCORING_BATCH, verbose=0)
    ids = np.arange(1, len(films) + 1, dtype=np.int32)
    retrieval = keras_rs.layers.BruteForceRetrieval(films, ids, k=min(CUTS[-1], len(films)))
    # Scores of all users with all films at once might not fit into the memory.
    best = [retrieval(users[start : start + 512])[1] for start in range(0, len(users), 512)]
    return np.concatenate([ops.convert_to_numpy(part) for part in best])


def recall(best: Ints, film: Ints, k: int) -> float:
    """Share of the users whose film is among their `k` best."""
    return float((best[:, :k] == film[:, None]).any(axis=1).mean())


def run(options: argparse.Namespace, staging: Path) -> None:
    data, parts = options.data, Parts(options.data)
    rest = f"the last of each of {len(parts.test):,} users held out"
    print(f"{data}: {len(parts.train):,} to train with, {rest}", flush=True)
    found: dict[str, list[Ints]] = {"two towers": [], "popularity list": [parts.popular()]}
    for seed in options.seeds:
        towers = train_towers(parts, options.epochs, seed)
        if seed == options.seed:  # from here on, what was saved: each tower on its own
            files = [staging / f"{tower.name}.keras" for tower in towers]
            for tower, file in zip(towers, files, strict=True):
                tower.save(file)
            towers = tuple(map(keras.models.load_model, files))
        found["two towers"].append(retrieve(*towers, parts))
    film = data.movie[parts.test]
    lines = {
        name: {f"@{k}": mean_and_spread([recall(best, film, k) for best in of_seeds]) for k in CUTS}
        for name, of_seeds in found.items()
    }
    print(
        f"\nRecall among all films\n{table(lines)}\nOne film is held out for each user, so recall@k"
        " is HitRate@k, too. Chance alone moves a line's recall\nby up to"
        f" {1 / np.sqrt(len(film)):.3f} (95 % interval at one half, less at the ends)."
    )
