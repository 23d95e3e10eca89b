"""AUGRU: the last state and all states, with a mask, lengths and an initial state."""

import keras
import numpy as np

from din_layers import AUGRU


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    lengths = keras.Input((1,), dtype="int32", name="lengths")
    scores = keras.Input((None,), name="scores")
    events = keras.layers.Embedding(10, 3, mask_zero=True)(history)
    states, last = AUGRU(4, return_sequences=True, return_state=True)([events, lengths, scores])
    plain = AUGRU(4, use_bias=False, activation="elu", recurrent_activation="hard_sigmoid")
    return keras.Model(
        [history, lengths, scores], [states, last, plain([events, scores], initial_state=last)]
    )


def inputs():
    """Left padding, a hole, an empty history; lengths that are too large and negative."""
    history = [[0, 0, 1, 2, 3], [5, 0, 4, 9, 0], [0, 0, 0, 0, 0], [4, 4, 6, 7, 8]]
    scores = np.random.default_rng(5).uniform(0, 1, (4, 5)).astype("float32")
    return [np.array(history, "int32"), np.array([[3], [9], [0], [-1]], "int32"), scores]
