"""Candidates with a mask that goes on, up to Dice; the defaults and names of 0.5: "prelu" too."""

import keras
import numpy as np

import din_layers


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    candidates = keras.Input((None,), dtype="int32", name="candidates")
    films = keras.layers.Embedding(10, 3, mask_zero=True, name="films")
    decay = din_layers.MiniBatchAwareL2(np.arange(10), 0.1)
    keys, query = decay([films(history), films(candidates)], [history, candidates])
    attend = din_layers.AttentionPoolingLayer((4, 3), "prelu")
    interest, scores = attend(query=query, keys=keys, return_attention_scores=True)
    every = din_layers.AttentionPoolingLayer(
        (4,),
        att_activation=din_layers.Dice(synchronized=True),
        skip_padding=True,
        use_query_mask=False,
        mask_required=True,
    )
    seen = every({"query": query, "keys": keys, "ids": history})
    x = keras.layers.Dense(4)(keras.layers.Concatenate()([interest, query]))
    x = din_layers.Dice()(x)
    return keras.Model([history, candidates], [x, scores, seen])


def inputs():
    """Padded candidates, a hole in a history, an empty history, a row without candidates."""
    history = [[1, 2, 0, 3, 0], [0, 0, 0, 0, 0], [4, 5, 6, 7, 8]]
    candidates = [[1, 2, 0], [3, 4, 5], [0, 0, 0]]
    return [np.array(history, "int32"), np.array(candidates, "int32")]
