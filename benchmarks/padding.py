"""Section `padding`: what more padding costs where the events stay the same."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from attention import build, graph, histories, training_step
from report import Table, cell, interleaved_medians


def step(way: str, batch: int, time: int, dim: int, fill: float, padding: int) -> Callable[[], Any]:
    """Return a training step over histories with further positions of padding."""
    ids, _, candidates = histories(batch, time, fill)
    ids = tf.pad(ids, [[0, 0], [0, padding]])
    layers = build(dim)
    embedding, layer = layers["embedding"], layers[way]

    def forward() -> Any:
        if way == "ragged":
            history = embedding(tf.RaggedTensor.from_tensor(ids, padding=0))
            return layer([embedding(candidates), history])
        return layer([embedding(candidates), embedding(ids), ids])

    variables = [v.value for v in [*layer.trainable_variables, embedding.embeddings]]
    return graph(way, training_step(forward, variables))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure training steps with padding and with twice as much of it."""
    batch, time, dim, fill = (4, 10, 4, 0.3) if options.quick else (512, 100, 64, 0.3)
    more = round(time * (1 - fill))
    cells = []
    for way in ("padded", "padded, skip_padding", "ragged"):
        steps = {padding: step(way, batch, time, dim, fill, padding) for padding in (0, more)}
        medians = interleaved_medians(steps, options.runs)
        target = (1.1,) if way == "ragged" else ()
        cells.append(cell([medians[more] / medians[0]], target))
    yield Table(
        f"A training step over histories of {time} positions, {fill:.0%} of them events, with twice"
        " the padding: its time / the time with the padding once. Smaller is better. Ragged"
        " histories are made of the padded ids within the step.",
        ["batch, time, dim, fill", "padded", "padded, skip_padding", "ragged"],
        [[f"{batch}, {time} + {more}, {dim}, {fill}", *cells]],
    )
