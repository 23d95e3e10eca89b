"""Section `calls`: what one eager call costs, where the numbers are few."""

import keras
import numpy as np
from backends import eager
from keras import ops
from report import Measured, Options, Table, cell, interleaved_medians, milliseconds

import din_layers

BATCH, TIME, DIM = 32, 10, 8


def measure(options: Options) -> Measured:
    rng = np.random.default_rng(0)
    shapes = (BATCH, 1, DIM), (BATCH, TIME, DIM), (BATCH, TIME)
    query, x, weights = (
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32")) for shape in shapes
    )
    mask = ops.convert_to_tensor(np.arange(TIME) < rng.integers(1, TIME + 1, (BATCH, 1)))
    heads = keras.layers.MultiHeadAttention(num_heads=1, key_dim=DIM)
    average = keras.layers.GlobalAveragePooling1D()
    attention = din_layers.AttentionPoolingLayer()
    pooling = din_layers.SequencePoolingLayer("mean")
    weighting = din_layers.WeightedSequenceLayer()
    calls = {
        heads: (lambda query, x, mask: heads(query, x, value_mask=mask), [query, x, mask]),
        average: (lambda x, mask: average(x, mask=mask), [x, mask]),
        attention: (
            lambda query, x, mask: attention([query, x], mask=[None, mask]),
            [query, x, mask],
        ),
        pooling: (lambda x, mask: pooling(x, mask=mask), [x, mask]),
        weighting: (
            lambda x, weights, mask: weighting([x, weights], mask=[mask, None]),
            [x, weights, mask],
        ),
    }
    runs = {layer: eager(call, inputs) for layer, (call, inputs) in calls.items()}
    medians = interleaved_medians(runs, (1 if options.quick else 20) * options.runs)
    yield Table(
        f"Eager calls without gradients, with a mask; batch {BATCH}, {TIME} positions, {DIM}"
        " numbers each. The ratio is our time / Keras's time. Smaller is better.",
        ["", "against", "Keras's, ms", "ours, ms", "ratio"],
        [
            [
                type(ours).__name__,
                type(other).__name__,
                milliseconds(medians[other]),
                milliseconds(medians[ours]),
                cell([medians[ours] / medians[other]]),
            ]
            for ours, other in ((attention, heads), (pooling, average), (weighting, average))
        ],
    )
