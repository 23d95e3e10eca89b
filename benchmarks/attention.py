"""Section `attention`: AttentionPoolingLayer against the layer as it is commonly written."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from backends import HOW, NAIVE, RAGGED, SKIPPING, WAYS, Run, forward_pass, training_step
from keras import layers, ops
from report import Measured, Options, Table, cell, interleaved_medians
from tqdm import tqdm

import din_layers

Shape = tuple[int, int, int, float]  # batch, time, dim, share of positions that hold an event

SHAPES: list[Shape] = [
    (512, 50, 32, 0.3),
    (512, 100, 64, 0.3),
    (512, 100, 64, 0.5),
    (512, 100, 64, 0.8),
    (256, 200, 128, 0.2),
    (128, 1000, 64, 0.2),
    (32, 10, 8, 0.5),
]
HIDDEN = (80, 40)
FILMS = 5000


class NaiveAttention(keras.Layer):
    """As it is commonly written: query repeated, four parts joined, masked by a sentinel."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layers.Dense(size, activation="sigmoid") for size in HIDDEN]
        self.dense_layers = [*hidden, layers.Dense(1)]

    def build(self, input_shape: Any) -> None:
        widths = 4 * input_shape[1][-1], *HIDDEN
        for dense, width in zip(self.dense_layers, widths, strict=True):
            dense.build((None, None, width))

    def call(self, inputs: Any) -> Any:
        query, keys, ids = inputs
        queries = ops.tile(query, [1, ops.shape(keys)[1], 1])
        x = ops.concatenate([queries, keys, queries - keys, queries * keys], axis=-1)
        for dense in self.dense_layers:
            x = dense(x)
        scores = ops.transpose(x, (0, 2, 1))
        scores = ops.where(ops.not_equal(ids, 0)[:, None], scores, -(2.0**32) + 1)
        return ops.matmul(ops.softmax(scores), keys)


def histories(batch: int, time: int, fill: float, padding: int = 0) -> tuple[np.ndarray, Any]:
    """Draw padded ids and candidates (batch, 1); all padding comes last."""
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch)
    ids = rng.integers(1, FILMS, (batch, time)) * (np.arange(time) < lengths[:, None])
    candidates = rng.integers(1, FILMS, (batch, 1)).astype("int32")
    return np.pad(ids, [[0, 0], [0, padding]]).astype("int32"), candidates


def ragged(ids: Any) -> Any:
    """Return the same ids without their padding."""
    import tensorflow as tf

    return tf.RaggedTensor.from_tensor(ids, lengths=tf.math.count_nonzero(ids, axis=1))


def history(way: str, ids: np.ndarray) -> Any:
    return ragged(ids) if way == RAGGED else ops.convert_to_tensor(ids)


class Scored:
    """An embedding and, by way, layers of the same weights; each is called on ids."""

    def __init__(self, dim: int) -> None:
        self.embedding = layers.Embedding(FILMS, dim)
        self.layers: dict[str, keras.Layer] = {NAIVE: NaiveAttention()}
        for way in WAYS:
            self.layers[way] = din_layers.AttentionPoolingLayer(
                HIDDEN, skip_padding=way == SKIPPING
            )
        self.embedding.build()
        for layer in self.layers.values():
            layer.build([(None, 1, dim), (None, None, dim)])
            layer.set_weights(self.layers[NAIVE].get_weights())

    def weights(self, way: str) -> list[keras.Variable]:
        return [*self.layers[way].weights, *self.embedding.weights]

    def call(self, way: str) -> Callable[[Any, Any], Any]:
        def run(candidates: Any, ids: Any) -> Any:
            inputs = [self.embedding(candidates), self.embedding(ids)]
            return self.layers[way](inputs if way == RAGGED else [*inputs, ids])

        return run


def compiled(shape: Shape) -> list[dict[str, Run]]:
    """Return by way the forward passes and the training steps."""
    batch, time, dim, fill = shape
    ids, candidates = histories(batch, time, fill)
    scored = Scored(dim)
    inputs = {way: [ops.convert_to_tensor(candidates), history(way, ids)] for way in scored.layers}
    return [
        {way: build(way, scored.call(way), scored.weights(way), inputs[way]) for way in inputs}
        for build in (forward_pass, training_step)
    ]


def check_equal(forwards: dict[str, Run]) -> None:
    expected = ops.convert_to_numpy(forwards[NAIVE]())
    for way, run in forwards.items():
        result = ops.convert_to_numpy(run())
        np.testing.assert_allclose(result, expected, atol=1e-5, err_msg=way)


def least_work(shape: Shape) -> float:
    """Return the floating-point operations of a forward pass over the real events alone."""
    batch, time, dim, fill = shape
    by_event = dim * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] + dim
    by_row = 2 * dim * HIDDEN[0]  # the query's term, and the matrix of the row
    return 2 * batch * (time * fill * by_event + by_row)


def measure(options: Options) -> Measured:
    shapes = [(4, 20, 4, 0.3)] if options.quick else SHAPES
    size = 64 if options.quick else 2048
    matrix = ops.convert_to_tensor(np.ones((size, size), "float32"))
    product = forward_pass("product", ops.matmul, [], [matrix, matrix])
    ratios, shares = [], []
    for shape in tqdm(shapes, unit="shape", leave=False):
        # Small products are short: more runs cost nothing.
        runs = options.runs if shape[0] * shape[1] > 10_000 else 10 * options.runs
        kinds = compiled(shape)
        check_equal(kinds[0])
        # Separate, so that each compares what is of one kind.
        medians = [interleaved_medians(kind, runs) for kind in kinds]
        rate = 2 * size**3 / interleaved_medians({"product": product}, 5)["product"]
        label = ", ".join(map(str, shape))
        ratios.append([label, *(cell([m[NAIVE] / m[way] for m in medians]) for way in WAYS)])
        least = [least_work(shape) / rate, 3 * least_work(shape) / rate]
        seconds = [[least[i] / medians[i][way] for i in (0, 1)] for way in (NAIVE, *WAYS)]
        shares.append([label, *map(cell, seconds)])
    yield Table(
        "Hidden layers 80-40, sigmoid, float32, with the embedding lookup; forward pass / training"
        f" step. All but what says XLA run {HOW}.",
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
