"""Every sequence layer with its inputs by name: keywords, one dict, a mask by hand; masks go on."""

import keras
import numpy as np

import din_layers


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    candidates = keras.Input((None,), dtype="int32", name="candidates")
    lengths = keras.Input((), dtype="int32", name="lengths")
    weights = keras.Input((None,), name="weights")
    table = keras.layers.Embedding(10, 3, name="table")
    masked = keras.layers.Embedding(10, 3, mask_zero=True, name="masked")
    keys = table(history)
    attend = din_layers.AttentionPoolingLayer((4,), "dice", None, mask_required=True)
    attended = attend([table(candidates), keys], ids=history, lengths=lengths)
    one = din_layers.AttentionPoolingLayer((4,), mode="sequence")
    weighted = one({"query": table(candidates[:, :1]), "keys": keys, "lengths": lengths})
    shares = din_layers.WeightedSequenceLayer("sum", mask_required=True)
    shared = shares([masked(history), weights], lengths=lengths)
    states, last = din_layers.AUGRU(4, return_sequences=True, return_state=True)(
        [keys, weights], ids=history
    )
    evolve = din_layers.AUGRU(4)
    pool = din_layers.SequencePoolingLayer("mean", mask_required=True)
    return keras.Model(
        [history, candidates, lengths, weights],
        [
            attended,
            pool(weighted),
            pool(shared),
            pool(states),
            evolve([masked(history), weights], initial_state=last),
            pool(keys, mask=keras.ops.not_equal(history, 4)),
            pool(keys, ids=history, lengths=lengths),
        ],
    )


def inputs():
    """Left padding, a hole, an empty history; lengths that are too large and negative."""
    history = [[0, 0, 1, 2, 3], [5, 0, 4, 9, 0], [0, 0, 0, 0, 0], [4, 4, 6, 7, 8]]
    weights = np.random.default_rng(6).uniform(0, 1, (4, 5)).astype("float32")
    candidates = [[1, 2], [3, 4], [5, 6], [7, 0]]
    return [
        np.array(history, "int32"),
        np.array(candidates, "int32"),
        np.array([4, 9, 3, -1], "int32"),
        weights,
    ]
