"""Section `candidates`: many candidates against one history, as at serving."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from attention import FILMS, NAIVE, Run, build, check_equal, graph, histories
from report import Table, cell, interleaved_medians

TARGETS = {"padded": [3.0], "padded, XLA": [3.0], "ragged": [6.5]}


def ways(candidates: int, time: int, dim: int, fill: float) -> dict[str, Run]:
    """Return the forward passes by way."""
    padded, ragged, _ = histories(1, time, fill)
    query = np.random.default_rng(1).integers(1, FILMS, (1, candidates)).astype("int32")
    layers = build(dim)
    embedding = layers.pop("embedding")

    def forward(way: str) -> Any:
        if way == NAIVE:  # one by one
            history, ids = (tf.repeat(x, candidates, axis=0) for x in (embedding(padded), padded))
            pooled = layers[way]([tf.transpose(embedding(query), (1, 0, 2)), history, ids])
            return tf.transpose(pooled, (1, 0, 2))
        if way == "ragged":
            return layers[way]([embedding(query), embedding(ragged)])
        return layers[way]([embedding(query), embedding(padded), padded])

    forwards = {way: graph(way, partial(forward, way)) for way in layers}
    check_equal(forwards)
    return forwards


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure forward passes."""
    size = (5, 10, 4, 0.3) if options.quick else (500, 200, 64, 0.3)
    medians = interleaved_medians(ways(*size), options.runs)
    naive = medians.pop(NAIVE)
    cells = [cell([naive / t], TARGETS.get(way, ())) for way, t in medians.items()]
    yield Table(
        "A forward pass for one user: `[candidates (1, queries, dim), history (1, time, dim)]`"
        " against the naive layer, whose batch holds the user's history once for each candidate.",
        ["queries, time, dim, fill", *medians],
        [[", ".join(map(str, size)), *cells]],
    )
