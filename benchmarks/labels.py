"""Section `labels`: training with many labels for one history, against a row for each label."""

from typing import Any

import keras
import numpy as np
from attention import FILMS, HIDDEN, NaiveAttention, histories, history
from backends import NAIVE, RAGGED, WAYS, Run, skip_padding, training_step
from keras import layers, ops
from report import Measured, Options, Table, cell, interleaved_medians
from tqdm import tqdm

import din_layers

Shape = tuple[int, int, int, int, float]  # users, labels of each, time, dim, fill
SHAPES: list[Shape] = [(512, 10, 50, 32, 0.3), (256, 10, 100, 64, 0.3), (128, 10, 200, 128, 0.2)]


def din(way: str, dim: int) -> keras.Model:
    """Return a DIN whose candidates are (batch, labels); the naive one knows one label."""
    candidates = keras.Input((1 if way == NAIVE else None,), dtype="int32")
    ids = keras.Input((None,), dtype="int32", ragged=way == RAGGED)
    films = layers.Embedding(FILMS, dim)
    query, keys = films(candidates), films(ids)
    attention = din_layers.AttentionPoolingLayer(HIDDEN, skip_padding=skip_padding(way))
    attention = NaiveAttention() if way == NAIVE else attention
    interest = attention([query, keys] if way == RAGGED else [query, keys, ids])
    x = layers.Concatenate()([query, interest])
    for units in (128, 64):
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model([candidates, ids], layers.Dense(1, activation="sigmoid")(x))


def steps(way: str, shape: Shape) -> dict[str, Run]:
    """Return a training step with a row for each user, two with a row for each label."""
    users, labels, time, dim, fill = shape
    ids, _ = histories(users, time, fill)
    candidates = np.random.default_rng(1).integers(1, FILMS, (users, labels)).astype("int32")
    by_label = candidates.reshape(-1, 1), np.repeat(ids, labels, axis=0)

    def step(way: str, query: np.ndarray, ids: np.ndarray) -> Run:
        model = din(way, dim)
        inputs = [ops.convert_to_tensor(query), history(way, ids)]

        def call(query: Any, ids: Any) -> Any:
            return model([query, ids], training=True)

        return training_step(way, call, model.weights, inputs)

    return {
        "users": step(way, candidates, ids),
        "labels": step(way, *by_label),
        NAIVE: step(NAIVE, *by_label),
    }


def measure(options: Options) -> Measured:
    shapes = [(3, 4, 5, 4, 0.5)] if options.quick else SHAPES
    ways, rows = WAYS[-1:] if options.quick else WAYS, []
    for shape in tqdm(shapes, unit="shape", leave=False):
        cells = []
        for way in ways:
            medians = interleaved_medians(steps(way, shape), max(1, options.runs // 2))
            cells.append(cell([medians[rows] / medians["users"] for rows in ("labels", NAIVE)]))
        rows.append([", ".join(map(str, shape)), *cells])
    yield Table(
        "A training step of a DIN (embedding, attention, 128-64) over the same labels: its time"
        " with one row for each label / with one row for each user, whose candidates are (batch,"
        " labels). That is, how many times as many labels are learned from in a second; against"
        " the same layer / against the naive one.",
        ["users, labels, time, dim, fill", *ways],
        rows,
    )
