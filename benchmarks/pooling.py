"""Section `pooling`: pooling, weighting and Dice against what a Keras user writes without them.

The others are the shortest correct expressions over finite padding; ours also keep NaN in the
padding and empty histories harmless.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import Table, cell
from timing import interleaved_medians
from tqdm import tqdm

import din_layers

Forward = Callable[..., Any]
Pair = tuple[str, Forward, Forward, list[Any]]  # name, Keras's, ours, their inputs


def pairs(batch: int, time: int, dim: int, fill: float) -> Iterator[Pair]:
    """Yield what is compared."""
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch).clip(1)
    x = tf.constant(rng.normal(size=(batch, time, dim)), tf.float32)
    mask = tf.sequence_mask(lengths, time)
    weights = tf.constant(rng.uniform(size=(batch, time)), tf.float32)
    ragged, ragged_weights = (tf.RaggedTensor.from_tensor(t, lengths) for t in (x, weights))
    rows = tf.reshape(x, (-1, dim))
    for name, keras_pools, ragged_reduce in _POOLING:
        layer = din_layers.SequencePoolingLayer(name)

        def pools(x: Any, mask: Any, layer: Any = layer) -> Any:
            return layer(x, mask=mask)

        yield f"pooling, {name}", keras_pools, pools, [x, mask]
        if ragged_reduce:
            yield f"pooling, {name}, ragged", ragged_reduce, layer, [ragged]
    for name, normalise in _WEIGHTING.items():
        layer = din_layers.WeightedSequenceLayer(name)

        def keras_weighs(x: Any, weights: Any, mask: Any, normalise: Any = normalise) -> Any:
            return x * normalise(weights, mask)[..., None]

        def weighs(x: Any, weights: Any, mask: Any, layer: Any = layer) -> Any:
            return layer([x, weights], mask=[mask, None])

        yield f"weighting, {name}", keras_weighs, weighs, [x, weights, mask]

    plain = din_layers.WeightedSequenceLayer(None)

    def weighs_ragged(x: Any, weights: Any) -> Any:
        return plain([x, weights]).values

    yield "weighting, None, ragged", _ragged_product, weighs_ragged, [ragged, ragged_weights]
    yield "Dice, inference", *_activations(rows, training=False), [rows]
    yield "Dice, training", *_activations(rows, training=True), [rows]
    yield "Dice, training, mask", *_activations(x, training=True), [x, mask]


def _mean(x: Any, mask: Any) -> Any:
    return keras.layers.GlobalAveragePooling1D(keepdims=True)(x, mask=mask)


def _sum(x: Any, mask: Any) -> Any:
    return keras.ops.sum(x * keras.ops.cast(mask, x.dtype)[..., None], axis=1, keepdims=True)


def _max(x: Any, mask: Any) -> Any:
    return keras.layers.GlobalMaxPooling1D(keepdims=True)(keras.ops.where(mask[..., None], x, -1e9))


def _sqrtn(x: Any, mask: Any) -> Any:
    count = keras.ops.sum(keras.ops.cast(mask, x.dtype), axis=1)
    return _sum(x, mask) / keras.ops.sqrt(count)[:, None, None]


_POOLING: list[tuple[str, Forward, Forward | None]] = [
    ("mean", _mean, lambda x: tf.reduce_mean(x, axis=1, keepdims=True)),
    ("sum", _sum, lambda x: tf.reduce_sum(x, axis=1, keepdims=True)),
    ("max", _max, lambda x: tf.reduce_max(x, axis=1, keepdims=True)),
    ("sqrtn", _sqrtn, None),
]


def _masked(weights: Any, mask: Any) -> Any:
    return weights * keras.ops.cast(mask, weights.dtype)


def _share(weights: Any, mask: Any) -> Any:
    weights = _masked(weights, mask)
    return weights / keras.ops.sum(weights, axis=1, keepdims=True)


def _unit(weights: Any, mask: Any) -> Any:
    weights = _masked(weights, mask)
    return weights / keras.ops.sqrt(keras.ops.sum(weights**2, axis=1, keepdims=True))


def _softmax(weights: Any, mask: Any) -> Any:
    # Keras's layer leaves equal shares in the padding of an empty row.
    return _masked(keras.layers.Softmax()(weights, mask=mask), mask)


_WEIGHTING = {"softmax": _softmax, "sum": _share, "sqrtn": _unit, None: _masked}


def _ragged_product(x: Any, weights: Any) -> Any:
    return x.values * weights.values[:, None]


def _activations(x: Any, training: bool) -> tuple[Forward, Forward]:
    # One slope for each channel, as in Dice.
    prelu = keras.layers.PReLU(shared_axes=[1] if len(x.shape) == 3 else None)
    normalization, dice = keras.layers.BatchNormalization(), din_layers.Dice()
    for layer in (normalization, prelu, dice):
        layer.build((None, *x.shape[1:]))

    def keras_activates(x: Any, mask: Any = None) -> Any:
        return prelu(normalization(x, training=training, mask=mask))

    def activates(x: Any, mask: Any = None) -> Any:
        return dice(x, training=training, mask=mask)

    return keras_activates, activates


def compiled(forward: Forward, inputs: list[Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a forward pass, and one with the gradients of the float inputs."""

    def step() -> Any:
        floats = [getattr(x, "values", x) for x in inputs if x.dtype == tf.float32]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            loss = tf.reduce_sum(tf.square(forward(*inputs)))
        return tape.gradient(loss, floats)

    return (
        tf.function(lambda: forward(*inputs), autograph=False),
        tf.function(step, autograph=False),
    )


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure forward passes and gradients."""
    size = (4, 5, 3, 0.5) if options.quick else (512, 50, 64, 0.3)
    rows = []
    for name, other, ours, inputs in tqdm(list(pairs(*size)), unit="layer", leave=False):
        kinds = zip(compiled(other, inputs), compiled(ours, inputs), strict=True)
        cells = []
        for keras_run, our_run in kinds:
            medians = interleaved_medians({"Keras": keras_run, "ours": our_run}, 4 * options.runs)
            cells.append(medians["Keras"] / medians["ours"])
        target = (1, 1) if not name.startswith("Dice") else ()
        rows.append([name, cell(cells, target)])
    yield Table(
        f"Batch, time, dim, fill = {', '.join(map(str, size))}, in a plain graph, against"
        " GlobalAveragePooling1D, GlobalMaxPooling1D over a `where`, Softmax, `keras.ops`, the"
        " reductions of ragged tensors, and BatchNormalization + PReLU; forward pass / with"
        " gradients.",
        ["", "forward / train"],
        rows,
    )
