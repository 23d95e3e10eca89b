"""MiniBatchAwareL2 between a table and a pooling layer, with one table for two inputs."""

import keras
import numpy as np

import din_layers


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    candidate = keras.Input((1,), dtype="int32", name="candidate")
    table = keras.layers.Embedding(6, 3, mask_zero=True, name="table")
    vectors = din_layers.MiniBatchAwareL2([0, 9, 1, 4, 2, 7], l2=0.3, name="decay")(
        [table(history), table(candidate)], [history, candidate]
    )
    pooled = din_layers.SequencePoolingLayer("mean", name="pooling")(vectors[0])
    return keras.Model([history, candidate], [pooled, vectors[1]])


def inputs():
    return [
        np.array([[1, 2, 2, 0], [5, 0, 4, 0], [0, 0, 0, 0]], "int32"),
        np.array([[3], [5], [1]], "int32"),
    ]
