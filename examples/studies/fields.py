"""DIN over several fields: each has its own attention.

`build_fields_din` is the part to take along: sparse, ragged or padded integer ids in, probability
out. The study learns from MovieLens whether a user will give a film four stars or more: the history
is the films to which they gave as many, the tag is a film's first genre, the id the film. Beside
it, the network with a plain mean over each field. It gets less than `din.py`, which also knows the
ratings given and all genres of a film, and whose film in question shares the history's embedding.

With `--published` it trains nothing: it prints the shape of every step for a batch of three users
with five events, and the same probabilities from sparse, ragged and padded input.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from din_layers import AttentionPoolingLayer, HashLayer, SequencePoolingLayer
from studies.data import LIKED, Ints, MovieLens, Questions
from studies.report import table
from studies.training import compare

Fields = Mapping[str, tuple[int, int]]  # name: (hash buckets, size of the embedding)

PUBLISHED_FIELDS: Fields = {"tag": (24, 8), "id": (10, 8)}
# Most genres and films get a bucket of their own.
MOVIELENS_FIELDS: Fields = {"tag": (200, 8), "id": (50_000, 16)}

# Three users with two, two and one events; 0 is padding.
BATCH = {
    "seq_tag": [[1100, 1101], [1102, 1100], [1103, 0]],
    "target_tag": [[1102], [1103], [1100]],
    "seq_id": [[2200, 2201], [2202, 2200], [2203, 0]],
    "target_id": [[2202], [2203], [2200]],
}


def build_fields_din(
    fields: Fields = PUBLISHED_FIELDS,
    *,
    form: str = "padded",  # "ragged": ragged histories; "sparse": histories and targets are sparse
    pooling: str = "attention",  # or "mean", to compare with
    embedding_l2: float = 0.0,
) -> keras.Model:
    """Probability of a click on the target, (batch, 1).

    Inputs: for each field `seq_<field>`, the history (batch, time) with 0 for padding, and
    `target_<field>` (batch, 1), both int64 ids. Models of different `form` have the same weights in
    the same order.
    """
    decay = keras.regularizers.L2(embedding_l2) if embedding_l2 else None

    def embed(ids: Any, buckets: int, units: int) -> Any:
        # Id 0 is padding and gets bucket 0, so the buckets of events count from 1.
        hashed = HashLayer(buckets + 1, mask_zero=True, name=f"{ids.name}_bucket")(ids)
        if form == "sparse":  # what is not in the sparse tensor becomes 0, too
            hashed = ops.convert_to_tensor(hashed, sparse=False)
        name = f"{ids.name}_embedding"
        options = {"mask_zero": True, "embeddings_regularizer": decay, "name": name}
        return layers.Embedding(buckets + 1, units, **options)(hashed)

    inputs, users = [], []
    for field, (buckets, units) in fields.items():
        kind = {"dtype": "int64", "sparse": form == "sparse"}
        history = keras.Input((None,), name=f"seq_{field}", ragged=form == "ragged", **kind)
        target = keras.Input((1,), name=f"target_{field}", **kind)
        inputs += [history, target]
        query, keys = embed(target, buckets, units), embed(history, buckets, units)
        if pooling == "attention":
            name = f"attention_{field}"
            attention = AttentionPoolingLayer((32, 16), att_activation="relu", name=name)
            # The weights are for who wants to see what the attention looks at.
            pooled, _ = attention([query, keys], return_attention_scores=True)
        else:
            pooled = SequencePoolingLayer("mean", name=f"mean_{field}")(keys)
        users.append(layers.Concatenate(name=f"user_{field}")([pooled[:, 0], query[:, 0]]))
    x = layers.Concatenate(name="fields")(users)
    x = layers.BatchNormalization(name="normalized")(x)
    for place, units in enumerate((16, 8), 1):
        x = layers.Dense(units, name=f"hidden_{place}")(x)
    output = layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model(inputs, output, name=f"{pooling}_{form}")


def as_form(padded: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Bring the inputs of a padded model to those of another form; ragged targets are dense."""

    def one(name: str, ids: Any) -> Any:
        ids = tf.constant(ids, tf.int64)
        if form == "sparse":
            return tf.sparse.from_dense(ids)
        ragged = form == "ragged" and name.startswith("seq_")
        return tf.ragged.boolean_mask(ids, ids != 0) if ragged else ids

    return {name: one(name, ids) for name, ids in padded.items()}


def step_shapes(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of what each step of a model gives for these inputs, attention weights included."""
    steps = {}
    for layer in model.layers:
        if layer.name.startswith("attention"):
            steps[layer.name], steps[f"{layer.name}, weights"] = layer.output
        elif layer.name not in inputs:
            steps[layer.name] = layer.output
    values = keras.Model(model.inputs, steps)(inputs)
    return {name: tuple(value.shape) for name, value in values.items()}


def print_published() -> None:
    """Print the steps of the batch, and the probabilities from each form of input."""
    keras.utils.set_random_seed(0)
    padded = build_fields_din()
    shapes = step_shapes(padded, as_form(BATCH, "padded"))
    print(table({step: {"shape": str(shape)} for step, shape in shapes.items()}), end="\n\n")
    lines, expected = {}, padded(as_form(BATCH, "padded"))
    for form in ("padded", "ragged", "sparse"):
        model = build_fields_din(form=form)
        model.set_weights(padded.get_weights())
        answer = np.asarray(model(as_form(BATCH, form)))
        # Padding adds zeros, at most in another order, to sums in float32.
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)
        lines[form] = {f"user {i}": f"{p:.6f}" for i, p in enumerate(answer[:, 0])}
    print(f"Probability of each user, from each form of input:\n{table(lines)}")


def inputs_of(data: MovieLens, questions: Questions) -> dict[str, Ints]:
    """Return the questions' fields; of the history, the films that the user liked."""
    liked = np.where(questions.history_ratings >= LIKED, questions.history_movies, 0)
    first_genre = data.genres[:, 0]
    return {
        "seq_tag": first_genre[liked],
        "target_tag": first_genre[questions.movie][:, None],
        "seq_id": liked,
        "target_id": questions.movie[:, None],
    }


def run(options: argparse.Namespace, staging: Path) -> None:
    if options.published:
        print_published()
        return

    build = partial(build_fields_din, MOVIELENS_FIELDS, embedding_l2=1e-3)
    builders = {"attention (DIN)": build, "mean": partial(build, pooling="mean")}
    compare(options, staging, builders, partial(inputs_of, options.data))
