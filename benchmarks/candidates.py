"""Section `candidates`: many candidates against one history, as at serving."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from attention import FILMS, HIDDEN, NAIVE, histories
from naive import NaiveAttention
from report import Table, cell
from timing import interleaved_medians

import din_layers

TARGETS = {"padded": [3.0], "padded, XLA": [3.0], "ragged": [6.5]}


def ways(candidates: int, time: int, dim: int, fill: float) -> dict[str, Callable[[], Any]]:
    """Return the forward passes by way."""
    padded, ragged, _ = histories(1, time, fill)
    rng = np.random.default_rng(1)
    query = tf.constant(rng.integers(1, FILMS, (1, candidates)), tf.int32)
    embedding = keras.layers.Embedding(FILMS, dim)
    naive = NaiveAttention(HIDDEN)
    ours = din_layers.AttentionPoolingLayer(HIDDEN)
    skipping = din_layers.AttentionPoolingLayer(HIDDEN, skip_padding=True)
    for layer in (naive, ours, skipping):
        layer.build([(1, 1, dim), (1, time, dim)])
    ours.set_weights(naive.get_weights())
    skipping.set_weights(naive.get_weights())

    def one_by_one() -> Any:
        history = tf.repeat(embedding(padded), candidates, axis=0)
        ids = tf.repeat(padded, candidates, axis=0)
        pooled = naive([tf.transpose(embedding(query), (1, 0, 2)), history, ids])
        return tf.transpose(pooled, (1, 0, 2))

    runs = {
        NAIVE: (one_by_one, False),
        "padded": (lambda: ours([embedding(query), embedding(padded), padded]), False),
        "padded, XLA": (lambda: ours([embedding(query), embedding(padded), padded]), True),
        "padded, skip_padding": (
            lambda: skipping([embedding(query), embedding(padded), padded]),
            False,
        ),
        "ragged": (lambda: ours([embedding(query), embedding(ragged)]), False),
    }
    compiled = {
        name: tf.function(run, jit_compile=xla, autograph=False)
        for name, (run, xla) in runs.items()
    }
    for name, run in compiled.items():
        np.testing.assert_allclose(run(), compiled[NAIVE](), atol=1e-5, err_msg=name)
    return compiled


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure forward passes."""
    size = (5, 10, 4, 0.3) if options.quick else (500, 200, 64, 0.3)
    medians = interleaved_medians(ways(*size), options.runs)
    naive = medians.pop(NAIVE)
    yield Table(
        "A forward pass for one user: `[candidates (1, queries, dim), history (1, time, dim)]`"
        " against the naive layer, whose batch holds the user's history once for each candidate.",
        ["queries, time, dim, fill", *medians],
        [
            [
                ", ".join(map(str, size)),
                *(cell([naive / t], TARGETS.get(way, ())) for way, t in medians.items()),
            ]
        ],
    )
