"""Section `attention`: AttentionPoolingLayer against the layer as it is commonly written."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from naive import NaiveAttention
from report import Table, cell
from timing import interleaved_medians
from tqdm import tqdm

import din_layers

Shape = tuple[int, int, int, float]  # batch, time, dim, share of positions that hold an event

# With the targets of forward pass and training step, for padded input and for ragged.
SHAPES: dict[Shape, tuple[tuple[float, float], tuple[float, float]]] = {
    (512, 50, 32, 0.3): ((1.9, 1.5), (3.3, 4)),
    (512, 100, 64, 0.3): ((2.2, 2), (5, 5.5)),
    (256, 200, 128, 0.2): ((2.7, 2.4), (7, 9)),
    (128, 1000, 64, 0.2): ((2.7, 2.4), (8, 9)),
    (32, 10, 8, 0.5): ((0.95, 0.95), (0.9, 0.9)),
}
HIDDEN = (80, 40)
FILMS = 5000
NAIVE = "naive"
WAYS = ("padded", "padded, XLA", "padded, skip_padding", "ragged")

Run = Callable[[], Any]


def histories(batch: int, time: int, fill: float) -> tuple[Any, Any, Any]:
    """Draw padded ids, the same ids ragged, and candidates."""
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch)
    ids = rng.integers(1, FILMS, (batch, time)) * (np.arange(time) < lengths[:, None])
    padded = tf.constant(ids, tf.int32)
    candidates = tf.constant(rng.integers(1, FILMS, (batch, 1)), tf.int32)
    return padded, tf.RaggedTensor.from_tensor(padded, lengths=lengths), candidates


def ways(shape: Shape) -> Iterator[tuple[str, Run, list[Any], bool]]:
    """Yield each way to compute: its name, a forward pass, its variables, whether under XLA."""
    batch, time, dim, fill = shape
    padded, ragged, candidates = histories(batch, time, fill)
    embedding = keras.layers.Embedding(FILMS, dim)
    embedding.build()
    naive = NaiveAttention(HIDDEN)
    ours = din_layers.AttentionPoolingLayer(HIDDEN)
    skipping = din_layers.AttentionPoolingLayer(HIDDEN, skip_padding=True)
    for layer in (naive, ours, skipping):
        layer.build([(batch, 1, dim), (batch, time, dim)])
    ours.set_weights(naive.get_weights())
    skipping.set_weights(naive.get_weights())

    def forward(layer: Any, history: Any, *ids: Any) -> Run:
        return lambda: layer([embedding(candidates), embedding(history), *ids])

    for name, layer, inputs, xla in (
        (NAIVE, naive, (padded, padded), False),
        (WAYS[0], ours, (padded, padded), False),
        (WAYS[1], ours, (padded, padded), True),
        (WAYS[2], skipping, (padded, padded), False),
        (WAYS[3], ours, (ragged,), False),
    ):
        variables = [v.value for v in [*layer.trainable_variables, embedding.embeddings]]
        yield name, forward(layer, *inputs), variables, xla


def training_step(forward: Run, variables: list[Any]) -> Run:
    """Return what computes the gradients; those of the embedding stay sparse, as in `fit`."""

    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(forward()))
        gradients = tape.gradient(loss, variables)
        return [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]

    return step


def compiled(shape: Shape) -> tuple[dict[str, Run], dict[str, Run]]:
    """Return by way the forward passes, which give the same, and the training steps."""
    forwards, steps = {}, {}
    for name, forward, variables, xla in ways(shape):
        forwards[name] = tf.function(forward, jit_compile=xla, autograph=False)
        step = training_step(forward, variables)
        steps[name] = tf.function(step, jit_compile=xla, autograph=False)
    expected = forwards[NAIVE]()
    for name, run in forwards.items():
        np.testing.assert_allclose(run(), expected, atol=1e-5, err_msg=name)
    return forwards, steps


def least_work(shape: Shape) -> float:
    """Return the floating-point operations of a forward pass over the real events alone."""
    batch, time, dim, fill = shape
    by_event = dim * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] + dim
    by_row = 2 * dim * HIDDEN[0]  # the query's term, and the matrix of the row
    return 2 * batch * (time * fill * by_event + by_row)


def large_product(size: int = 2048) -> tuple[Run, float]:
    """Return a matrix product, and its floating-point operations."""
    matrix = tf.random.normal((size, size))
    return tf.function(lambda: tf.matmul(matrix, matrix), autograph=False), 2 * size**3


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the ratios, and how far from the limit they are."""
    shapes = {(4, 20, 4, 0.3): SHAPES[32, 10, 8, 0.5]} if options.quick else SHAPES
    product, work = large_product(64 if options.quick else 2048)
    ratios, shares = [], []
    for shape, (padded, ragged) in tqdm(shapes.items(), unit="shape", leave=False):
        # Small products are short: more runs cost nothing.
        runs = options.runs if shape[0] * shape[1] > 10_000 else 10 * options.runs
        # Separate, so that each compares what is of one kind.
        medians = [interleaved_medians(kind, runs) for kind in compiled(shape)]
        rate = work / interleaved_medians({"product": product}, 5)["product"]
        targets = {"padded": padded, "padded, XLA": padded, "ragged": ragged}
        label = ", ".join(map(str, shape))
        to_naive = {way: [m[NAIVE] / m[way] for m in medians] for way in WAYS}
        ratios.append([label, *(cell(to_naive[way], targets.get(way, ())) for way in WAYS)])
        least = [least_work(shape) / rate, 3 * least_work(shape) / rate]
        seconds = [[least[i] / medians[i][way] for i in (0, 1)] for way in (NAIVE, *WAYS)]
        shares.append([label, *map(cell, seconds)])
    yield Table(
        "Hidden layers 80-40, sigmoid, float32, with the embedding lookup; forward pass / training"
        " step. The naive layer and, but for the column XLA, ours run in a plain graph, as in `fit`"
        " on a CPU.",
        ["batch, time, dim, fill", *WAYS],
        ratios,
    )
    yield Table(
        "The same, as a share of what a large matrix product reaches on this machine: the"
        " floating-point work that the real events need, over its rate, over the time taken (a"
        " training step counts as three forward passes). 1 is the limit.",
        ["batch, time, dim, fill", NAIVE, *WAYS],
        shares,
    )
