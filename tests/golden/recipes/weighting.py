"""WeightedSequenceLayer: every normalization; the mask that it combines goes on to pooling."""

import keras
import numpy as np

from din_layers import SequencePoolingLayer, WeightedSequenceLayer


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    lengths = keras.Input((1,), dtype="int32", name="lengths")
    weights = keras.Input((None,), name="weights")
    keys = keras.layers.Embedding(10, 3, mask_zero=True)(history)
    normalizations = (True, "softmax", "sum", "sqrtn", False, None)
    weighted = [WeightedSequenceLayer(name)([keys, lengths, weights]) for name in normalizations]
    masked = WeightedSequenceLayer("sum", supports_masking=True)([keys, weights])
    pooled = SequencePoolingLayer("mean", supports_masking=True)
    return keras.Model(
        [history, lengths, weights],
        [*weighted, masked, pooled(weighted[0]), pooled(masked)],
    )


def inputs():
    """Left padding, a hole, an empty history; lengths that are too large and negative."""
    history = [[0, 0, 1, 2, 3], [5, 0, 4, 9, 0], [0, 0, 0, 0, 0], [4, 4, 6, 7, 8]]
    weights = np.random.default_rng(2).uniform(0, 1, (4, 5)).astype("float32")
    return [np.array(history, "int32"), np.array([[3], [9], [0], [-1]], "int32"), weights]
