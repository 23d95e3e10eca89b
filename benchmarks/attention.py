"""How fast AttentionPoolingLayer is, as ratios to the naive layer in the same run.

    python benchmarks/attention.py

Prints a table of ratios (naive time / our time, so larger is better) for the forward pass and for a
training step, both with the embedding lookup, and writes it to `benchmarks/attention.md`. Columns:
padded input in a plain graph (what `fit` runs on a CPU), under XLA, with `skip_padding=True`, and
ragged input. The naive layer runs in a plain graph. Takes about two minutes on two cores.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from naive import NaiveAttention
from timing import interleaved_medians, versions

import din_layers

# batch, time, dim, share of positions that hold an event
SHAPES = [
    (512, 50, 32, 0.3),
    (512, 100, 64, 0.3),
    (256, 200, 128, 0.2),
    (128, 1000, 64, 0.2),
    (32, 10, 8, 0.5),
]
FILMS = 5000
WAYS = ("padded", "padded, XLA", "padded, skip_padding", "ragged")


def histories(batch: int, time: int, fill: float) -> tuple[Any, Any, Any]:
    """Draw padded ids, the same ids ragged, and candidates."""
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch)
    ids = rng.integers(1, FILMS, (batch, time)) * (np.arange(time) < lengths[:, None])
    padded = tf.constant(ids, tf.int32)
    candidates = tf.constant(rng.integers(1, FILMS, (batch, 1)), tf.int32)
    return padded, tf.RaggedTensor.from_tensor(padded, lengths=lengths), candidates


def ways(shape: tuple[int, int, int, float]) -> Iterator[tuple[str, Callable[[], Any], Any, bool]]:
    """Yield each way to compute: its name, a forward pass, its variables, whether under XLA."""
    batch, time, dim, fill = shape
    padded, ragged, candidates = histories(batch, time, fill)
    embedding = keras.layers.Embedding(FILMS, dim)
    embedding.build()
    naive = NaiveAttention()
    ours = din_layers.AttentionPoolingLayer()
    skipping = din_layers.AttentionPoolingLayer(skip_padding=True)
    for layer in (naive, ours, skipping):
        layer.build([(batch, 1, dim), (batch, time, dim)])
    ours.set_weights(naive.get_weights())
    skipping.set_weights(naive.get_weights())

    def forward(layer: Any, history: Any, *ids: Any) -> Callable[[], Any]:
        return lambda: layer([embedding(candidates), embedding(history), *ids])

    for name, layer, inputs, xla in (
        ("naive", naive, (padded, padded), False),
        (WAYS[0], ours, (padded, padded), False),
        (WAYS[1], ours, (padded, padded), True),
        (WAYS[2], skipping, (padded, padded), False),
        (WAYS[3], ours, (ragged,), False),
    ):
        variables = [v.value for v in [*layer.trainable_variables, embedding.embeddings]]
        yield name, forward(layer, *inputs), variables, xla


def training_step(forward: Callable[[], Any], variables: list[Any]) -> Callable[[], Any]:
    """Return what computes the gradients; those of the embedding stay sparse, as in `fit`."""

    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(forward()))
        gradients = tape.gradient(loss, variables)
        return [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]

    return step


def ratios(shape: tuple[int, int, int, float], runs: int) -> dict[str, tuple[float, float]]:
    """Return by way the ratios of forward pass and training step to the naive layer."""
    forwards, steps = {}, {}
    for name, forward, variables, xla in ways(shape):
        compiled = tf.function(forward, jit_compile=xla, autograph=False)
        forwards[name] = compiled
        step = training_step(forward, variables)
        steps[name] = tf.function(step, jit_compile=xla, autograph=False)
    expected = forwards["naive"]()
    for name, forward in forwards.items():
        np.testing.assert_allclose(forward(), expected, atol=1e-5, err_msg=name)
    medians = [interleaved_medians(candidates, runs) for candidates in (forwards, steps)]
    return {name: tuple(m["naive"] / m[name] for m in medians) for name in WAYS}


def table(runs: int) -> str:
    """Measure everything and return a Markdown table."""
    lines = [
        "| batch, time, dim, fill | "
        + " | ".join(f"{way}: forward / train" for way in WAYS)
        + " |",
        "|---" * (len(WAYS) + 1) + "|",
    ]
    for shape in SHAPES:
        print(f"measuring {shape} ...", file=sys.stderr, flush=True)
        cells = [f"{forward:.2f} / {train:.2f}" for forward, train in ratios(shape, runs).values()]
        lines.append("| " + " | ".join([", ".join(map(str, shape)), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description="Ratios to the naive attention layer.")
    parser.add_argument("--runs", type=int, default=20, help="runs of each candidate (default: 20)")
    options = parser.parse_args()
    text = table(options.runs)
    print(text)
    file = Path(__file__).with_suffix(".md")
    file.write_text(
        "Naive time / our time, so larger is better; hidden layers 80-40, sigmoid, float32.\n"
        f"Made by `python benchmarks/attention.py --runs {options.runs}` with {versions()}.\n\n"
        f"{text}\n",
        encoding="utf-8",
    )
    print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
