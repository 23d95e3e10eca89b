"""Section `pooling`: pooling, weighting, AUGRU and Dice against what a Keras user writes instead.

The others are the shortest correct expressions over finite padding; ours also keep NaN in the
padding and empty histories harmless.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from backends import HOW, RAGGED, WAYS, Forward, forward_pass, training_step
from keras import layers, ops
from report import Measured, Options, Table, cell, interleaved_medians
from tqdm import tqdm

import din_layers

Pairs = Iterator[tuple[str, Forward, Forward, list[Any]]]  # name, Keras's, ours, their inputs


def _only(mask: Any, x: Any) -> Any:
    """The numbers where the mask is True, zero elsewhere."""
    return x * ops.cast(mask, x.dtype)


KERAS_POOLS: dict[str, Forward] = {
    "mean": lambda x, mask: layers.GlobalAveragePooling1D(keepdims=True)(x, mask=mask),
    "sum": lambda x, mask: ops.sum(_only(mask[..., None], x), axis=1, keepdims=True),
    "max": lambda x, mask: layers.GlobalMaxPooling1D(keepdims=True)(
        ops.where(mask[..., None], x, -1e9)
    ),
    "sqrtn": lambda x, mask: (
        KERAS_POOLS["sum"](x, mask)
        / ops.sqrt(ops.sum(ops.cast(mask, x.dtype), axis=1))[:, None, None]
    ),
}
KERAS_WEIGHTS: dict[str | None, Forward] = {
    # Keras's layer leaves equal shares in the padding of an empty row.
    "softmax": lambda mask, weights: _only(mask, layers.Softmax()(weights, mask=mask)),
    "sum": lambda mask, weights: (
        _only(mask, weights) / ops.sum(_only(mask, weights), axis=1, keepdims=True)
    ),
    "sqrtn": lambda mask, weights: (
        _only(mask, weights) / ops.sqrt(ops.sum(_only(mask, weights) ** 2, axis=1, keepdims=True))
    ),
    None: _only,
}


def pairs(batch: int, time: int, dim: int, fill: float) -> Pairs:
    rng = np.random.default_rng(0)
    lengths = rng.binomial(time, fill, batch).clip(1)
    x = ops.convert_to_tensor(rng.normal(size=(batch, time, dim)).astype("float32"))
    mask = ops.convert_to_tensor(np.arange(time) < lengths[:, None])
    weights = ops.convert_to_tensor(rng.uniform(size=(batch, time)).astype("float32"))
    for name, pools in KERAS_POOLS.items():
        layer = din_layers.SequencePoolingLayer(name)
        yield f"pooling, {name}", pools, lambda x, mask, layer=layer: layer(x, mask=mask), [x, mask]
    for how, normalise in KERAS_WEIGHTS.items():
        layer = din_layers.WeightedSequenceLayer(how)
        yield (
            f"weighting, {how}",
            lambda x, weights, mask, to=normalise: x * to(mask, weights)[..., None],
            lambda x, weights, mask, layer=layer: layer([x, weights], mask=[mask, None]),
            [x, weights, mask],
        )
    if RAGGED in WAYS:
        yield from ragged_pairs(x, weights, lengths)
    gru, augru = layers.GRU(dim), din_layers.AUGRU(dim)
    gru(x), augru([x, weights])
    yield (
        "AUGRU",
        lambda x, weights, mask: gru(x * weights[..., None], mask=mask),
        lambda x, weights, mask: augru([x, weights], mask=mask),
        [x, weights, mask],
    )
    rows = ops.reshape(x, (-1, dim))
    yield "Dice, inference", *_activations(rows, training=False), [rows]
    yield "Dice, training", *_activations(rows, training=True), [rows]
    yield "Dice, training, mask", *_activations(x, training=True), [x, mask]


def ragged_pairs(x: Any, weights: Any, lengths: Any) -> Pairs:
    import tensorflow as tf

    ragged, weights = (tf.RaggedTensor.from_tensor(t, lengths) for t in (x, weights))
    for name in ("mean", "sum", "max"):
        reduce = partial(getattr(tf, f"reduce_{name}"), axis=1, keepdims=True)
        yield f"pooling, {name}, ragged", reduce, din_layers.SequencePoolingLayer(name), [ragged]
    plain = din_layers.WeightedSequenceLayer(None)
    yield (
        "weighting, None, ragged",
        lambda x, weights: x.values * weights.values[:, None],
        lambda x, weights: plain([x, weights]).values,
        [ragged, weights],
    )


def _activations(x: Any, training: bool) -> tuple[Forward, Forward]:
    # One slope for each channel, as in Dice.
    prelu = layers.PReLU(shared_axes=[1] if len(x.shape) == 3 else None)
    normalization, dice = layers.BatchNormalization(), din_layers.Dice()
    for layer in (normalization, prelu, dice):
        layer.build((None, *x.shape[1:]))
    return (
        lambda x, mask=None: prelu(normalization(x, training=training, mask=mask)),
        lambda x, mask=None: dice(x, training=training, mask=mask),
    )


def measure(options: Options) -> Measured:
    size = (4, 5, 3, 0.5) if options.quick else (512, 50, 64, 0.3)
    rows = []
    for name, other, ours, inputs in tqdm(list(pairs(*size)), unit="layer", leave=False):
        cells = []
        for build in (forward_pass, training_step):
            kinds = [build("", call, [], inputs) for call in (other, ours)]
            medians = interleaved_medians(dict(enumerate(kinds)), 4 * options.runs)
            cells.append(medians[0] / medians[1])
        rows.append([name, cell(cells)])
    yield Table(
        f"Batch, time, dim, fill = {', '.join(map(str, size))}, {HOW}, against"
        " GlobalAveragePooling1D, GlobalMaxPooling1D over a `where`, Softmax, `keras.ops`, the"
        " reductions of ragged tensors, GRU, and BatchNormalization + PReLU; forward pass / with"
        " gradients.",
        ["", "forward / train"],
        rows,
    )
