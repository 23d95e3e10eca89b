"""Section `attention`: AttentionPoolingLayer against the layer as it is commonly written."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import Table, cell, interleaved_medians
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
WAYS = _, XLA, SKIPPING, _ = ("padded", "padded, XLA", "padded, skip_padding", "ragged")

Run = Callable[[], Any]


class NaiveAttention(keras.Layer):
    """As it is commonly written: query repeated, four parts joined, masked by a sentinel."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [keras.layers.Dense(size, activation="sigmoid") for size in HIDDEN]
        self.dense_layers = [*hidden, keras.layers.Dense(1)]

    def build(self, input_shape: Any) -> None:
        width = 4 * input_shape[1][-1]
        for dense in self.dense_layers:
            dense.build((None, None, width))
            width = dense.units

    def call(self, inputs: Any) -> Any:
        query, keys, ids = inputs
        queries = tf.tile(query, [1, tf.shape(keys)[1], 1])
        x = tf.concat([queries, keys, queries - keys, queries * keys], axis=-1)
        for dense in self.dense_layers:
            x = dense(x)
        scores = tf.transpose(x, (0, 2, 1))
        scores = tf.where(tf.not_equal(ids, 0)[:, None], scores, -(2.0**32) + 1)
        return tf.matmul(tf.nn.softmax(scores), keys)


def histories(batch: int, time: int, fill: float) -> tuple[Any, Any, Any]:
    """Draw padded ids, the same ids ragged, and candidates."""
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch)
    ids = rng.integers(1, FILMS, (batch, time)) * (np.arange(time) < lengths[:, None])
    padded = tf.constant(ids, tf.int32)
    candidates = tf.constant(rng.integers(1, FILMS, (batch, 1)), tf.int32)
    return padded, tf.RaggedTensor.from_tensor(padded, lengths=lengths), candidates


def build(dim: int) -> dict[str, keras.Layer]:
    """Return an embedding and, by way, layers of the same weights."""
    ours = {way: din_layers.AttentionPoolingLayer(HIDDEN) for way in WAYS}
    ours[SKIPPING] = din_layers.AttentionPoolingLayer(HIDDEN, skip_padding=True)
    layers = {"embedding": keras.layers.Embedding(FILMS, dim), NAIVE: NaiveAttention()}
    layers["embedding"].build()
    layers[NAIVE].build([(None, 1, dim), (None, None, dim)])
    for layer in ours.values():
        layer.build([(None, 1, dim), (None, None, dim)])
        layer.set_weights(layers[NAIVE].get_weights())
    return {**layers, **ours}


def ways(shape: Shape) -> dict[str, tuple[Run, list[Any]]]:
    """Return by way a forward pass and its variables."""
    batch, time, dim, fill = shape
    padded, ragged, candidates = histories(batch, time, fill)
    layers = build(dim)
    embedding = layers.pop("embedding")

    def forward(way: str) -> Run:
        inputs = [ragged] if way == "ragged" else [padded, padded]
        return lambda: layers[way]([embedding(candidates), embedding(inputs[0]), *inputs[1:]])

    result = {}
    for way, layer in layers.items():
        weights = [*layer.trainable_variables, embedding.embeddings]
        result[way] = forward(way), [weight.value for weight in weights]
    return result


def graph(way: str, run: Run) -> Run:
    return tf.function(run, jit_compile=way == XLA, autograph=False)


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
    for way, (forward, variables) in ways(shape).items():
        forwards[way] = graph(way, forward)
        steps[way] = graph(way, training_step(forward, variables))
    check_equal(forwards)
    return forwards, steps


def check_equal(forwards: dict[str, Run]) -> None:
    expected = forwards[NAIVE]()
    for way, run in forwards.items():
        np.testing.assert_allclose(run(), expected, atol=1e-5, err_msg=way)


def least_work(shape: Shape) -> float:
    """Return the floating-point operations of a forward pass over the real events alone."""
    batch, time, dim, fill = shape
    by_event = dim * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] + dim
    by_row = 2 * dim * HIDDEN[0]  # the query's term, and the matrix of the row
    return 2 * batch * (time * fill * by_event + by_row)


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the ratios, and how far from the limit they are."""
    shapes = {(4, 20, 4, 0.3): SHAPES[32, 10, 8, 0.5]} if options.quick else SHAPES
    size = 64 if options.quick else 2048
    matrix = tf.random.normal((size, size))
    product = graph("matmul", lambda: tf.matmul(matrix, matrix))
    ratios, shares = [], []
    for shape, (padded, ragged) in tqdm(shapes.items(), unit="shape", leave=False):
        # Small products are short: more runs cost nothing.
        runs = options.runs if shape[0] * shape[1] > 10_000 else 10 * options.runs
        # Separate, so that each compares what is of one kind.
        medians = [interleaved_medians(kind, runs) for kind in compiled(shape)]
        rate = 2 * size**3 / interleaved_medians({"product": product}, 5)["product"]
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
