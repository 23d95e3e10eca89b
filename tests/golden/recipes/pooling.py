"""SequencePoolingLayer: every mode, with a mask, with lengths, with ids."""

import keras
import numpy as np

from din_layers import SequencePoolingLayer


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    lengths = keras.Input((1,), dtype="int32", name="lengths")
    sequence = keras.Input((None, 3), name="sequence")
    keys = keras.layers.Embedding(10, 3, mask_zero=True)(history)
    modes = ("sum", "mean", "max", "sqrtn")
    return keras.Model(
        [history, lengths, sequence],
        [
            *(SequencePoolingLayer(mode, supports_masking=True)(keys) for mode in modes),
            *(SequencePoolingLayer(mode)([sequence, lengths]) for mode in modes),
            SequencePoolingLayer("mean", hist_mask_value=4)([sequence, history]),
        ],
    )


def inputs():
    """Left padding, a hole, an empty history; lengths that are too large and negative."""
    history = [[0, 0, 1, 2, 3], [5, 0, 4, 9, 0], [0, 0, 0, 0, 0], [4, 4, 6, 7, 8]]
    sequence = np.random.default_rng(1).normal(0, 1, (4, 5, 3)).astype("float32")
    return [np.array(history, "int32"), np.array([[3], [9], [0], [-1]], "int32"), sequence]
