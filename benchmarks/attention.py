"""Section `attention`: AttentionPoolingLayer against the layer as it is commonly written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from backends import (
    ALL_WAYS,
    BACKEND,
    DEFAULT,
    HOW,
    NAIVE,
    PADDED,
    RAGGED,
    SKIPPING,
    XLA,
    Run,
    forward_pass,
    skip_padding,
    training_step,
)
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
    (64, 2000, 32, 0.03),
    (32, 10, 8, 0.5),
]
COLUMN = "batch, time, dim, fill"
HIDDEN = (80, 40)
FILMS = 5000


class NaiveDice(keras.Layer):
    """As it is commonly written: padding takes part in the statistics."""

    def build(self, input_shape: Any) -> None:
        self.normalization = layers.BatchNormalization(center=False, scale=False)
        self.normalization.build(input_shape)
        self.slope = self.add_weight(shape=input_shape[-1:], initializer="zeros")

    def call(self, x: Any, training: bool | None = None) -> Any:
        gate = ops.sigmoid(self.normalization(x, training=training))
        return gate * x + (1 - gate) * self.slope * x


class NaiveAttention(keras.Layer):
    """As it is commonly written: query repeated, four parts joined, masked by a sentinel."""

    def __init__(self, activation: str = "sigmoid") -> None:
        super().__init__()
        dice = activation == "dice"
        self.activations = [NaiveDice() if dice else None for _ in HIDDEN]
        hidden = [layers.Dense(size, None if dice else activation) for size in HIDDEN]
        self.dense_layers = [*hidden, layers.Dense(1)]

    def build(self, input_shape: Any) -> None:
        widths = 4 * input_shape[1][-1], *HIDDEN
        for dense, width in zip(self.dense_layers, widths, strict=True):
            dense.build((None, None, width))
        for dice, width in zip(self.activations, HIDDEN, strict=True):
            if dice:
                dice.build((None, None, width))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        query, keys, ids = inputs
        queries = ops.tile(query, [1, ops.shape(keys)[1], 1])
        x = ops.concatenate([queries, keys, queries - keys, queries * keys], axis=-1)
        *hidden, last = self.dense_layers
        for dense, dice in zip(hidden, self.activations, strict=True):
            x = dice(dense(x), training=training) if dice else dense(x)
        scores = ops.transpose(last(x), (0, 2, 1))
        scores = ops.where(ops.not_equal(ids, 0)[:, None], scores, -(2.0**32) + 1)
        return ops.matmul(ops.softmax(scores), keys)


def lengths_of(batch: int, time: int, fill: float) -> np.ndarray:
    """Draw lengths from 1; where few positions are events, most are short and a few long."""
    rng = np.random.default_rng(0)
    if fill >= 0.1:
        return np.maximum(rng.binomial(time, fill, batch), 1)
    shares = (rng.permutation(batch) + 0.5) / batch  # quantiles, so that their mean is the fill
    return np.clip(np.rint(-time * fill * np.log(shares)), 1, time).astype(int)


def histories(batch: int, time: int, fill: float, padding: int = 0) -> tuple[np.ndarray, Any]:
    """Draw padded ids and candidates (batch, 1); all padding comes last."""
    rng = np.random.default_rng(0)
    lengths = lengths_of(batch, time, fill)
    ids = rng.integers(1, FILMS, (batch, time)) * (np.arange(time) < lengths[:, None])
    candidates = rng.integers(1, FILMS, (batch, 1)).astype("int32")
    return np.pad(ids, [[0, 0], [0, padding]]).astype("int32"), candidates


def history(way: str, ids: np.ndarray) -> Any:
    """Return the ids as a tensor, without their padding if the way is ragged."""
    if way != RAGGED:
        return ops.convert_to_tensor(ids)
    import tensorflow as tf

    return tf.RaggedTensor.from_tensor(ids, lengths=tf.math.count_nonzero(ids, axis=1))


class Scored:
    """An embedding and, by way, layers of the same weights; each is called on ids."""

    def __init__(
        self, dim: int, activation: str = "sigmoid", ways: Sequence[str] = ALL_WAYS
    ) -> None:
        self.embedding = layers.Embedding(FILMS, dim)
        self.layers: dict[str, keras.Layer] = {NAIVE: NaiveAttention(activation)}
        for way in ways:
            self.layers[way] = din_layers.AttentionPoolingLayer(
                HIDDEN, activation, skip_padding=skip_padding(way)
            )
        self.embedding.build()
        for layer in self.layers.values():
            layer.build([(None, 1, dim), (None, None, dim)])
            if activation != "dice":  # whose weights come in another order
                layer.set_weights(self.layers[NAIVE].get_weights())

    def weights(self, way: str) -> list[keras.Variable]:
        return [*self.layers[way].weights, *self.embedding.weights]

    def call(self, way: str, training: bool) -> Callable[[Any, Any], Any]:
        def run(candidates: Any, ids: Any) -> Any:
            inputs = [self.embedding(candidates), self.embedding(ids)]
            inputs = inputs if way == RAGGED else [*inputs, ids]
            return self.layers[way](inputs, training=training)

        return run

    def run(self, way: str, training: bool, ids: np.ndarray, candidates: np.ndarray) -> Run:
        """Return a forward pass, or a training step."""
        build = training_step if training else forward_pass
        # In inference TensorFlow's default computes the padding, since such graphs are exported.
        as_in_training = BACKEND == "tensorflow" and way.removesuffix(XLA) == DEFAULT
        call = self.call(way, training or as_in_training)
        inputs = [ops.convert_to_tensor(candidates), history(way, ids)]
        return build(way, call, self.weights(way), inputs)


def check_equal(forwards: Mapping[str, Run]) -> None:
    expected = ops.convert_to_numpy(forwards[NAIVE]())
    for way, run in forwards.items():
        result = ops.convert_to_numpy(run())
        np.testing.assert_allclose(result, expected, atol=1e-5, err_msg=way)


def enough(options: Options, shape: Sequence[Any]) -> int:
    """Return how many runs there are: small products are short, more of them cost nothing."""
    return options.runs if shape[0] * shape[1] > 10_000 else 10 * options.runs


# Of TensorFlow also under XLA.
FASTER = [PADDED, PADDED + XLA] if BACKEND == "tensorflow" else [PADDED]
FASTER_COLUMNS = [f"{way.replace(PADDED, DEFAULT)}, against the faster" for way in FASTER]


def against_the_faster(medians: Mapping[str, float]) -> list[float]:
    """Return how the default does beside the faster of padded and skipping."""
    of = [
        [medians[way.replace(PADDED, to)] for to in (PADDED, SKIPPING, DEFAULT)] for way in FASTER
    ]
    return [min(padded, skipping) / default for padded, skipping, default in of]


def measure(options: Options) -> Measured:
    shapes = [(4, 20, 4, 0.3)] if options.quick else SHAPES[:: 2 if options.half else 1]
    rows = []
    for shape in tqdm(shapes, unit="shape", leave=False):
        batch, time, dim, fill = shape
        scored, data = Scored(dim), histories(batch, time, fill)
        kinds = [
            {way: scored.run(way, training, *data) for way in scored.layers}
            for training in (False, True)
        ]
        check_equal(kinds[0])
        # Separate, so that each compares what is of one kind.
        medians = [interleaved_medians(kind, enough(options, shape)) for kind in kinds]
        times = [[m[NAIVE] / m[way] for m in medians] for way in ALL_WAYS]
        faster = zip(*map(against_the_faster, medians), strict=True)
        rows.append([", ".join(map(str, shape)), *map(cell, [*times, *faster])])
    in_training = (
        " TensorFlow's default computes the padding in inference, where graphs are exported: its"
        " forward passes are those of training."
    )
    yield Table(
        "Hidden layers 80-40, sigmoid, float32, with the embedding lookup; forward pass / training"
        f" step. All but what says XLA run {HOW}. Where less than .1 of the positions are events,"
        " most histories are short and a few long; else the lengths are binomial. Against the"
        " faster: the time of the faster of padded and skipping / that of the default."
        f"{in_training if BACKEND == 'tensorflow' else ''}",
        [COLUMN, *ALL_WAYS, *FASTER_COLUMNS],
        rows,
    )
