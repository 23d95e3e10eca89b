"""AttentionPoolingLayer: both modes, softmax and raw scores, layers as activations."""

import keras
import numpy as np

from din_layers import AttentionPoolingLayer


def model():
    history = keras.Input((None,), dtype="int32", name="history")
    candidates = keras.Input((None,), dtype="int32", name="candidates")
    candidate = keras.Input((1,), dtype="int32", name="candidate")
    embedding = keras.layers.Embedding(10, 3, mask_zero=True)
    keys = embedding(history)
    dice = AttentionPoolingLayer((4, 3), att_activation="dice", dropout=0.2, seed=3)
    pooled, scores = dice([embedding(candidates), keys], return_attention_scores=True)
    raw = AttentionPoolingLayer(
        [5],
        att_activation="relu",
        weight_normalization=False,
        mode="sequence",
        hist_mask_value=4,
        scale=True,
        kernel_initializer=keras.initializers.HeNormal(seed=1),
        kernel_regularizer="l2",
        bias_constraint="non_neg",
    )
    weighted = raw([embedding(candidate), keys, history])
    parametric = AttentionPoolingLayer((2,), att_activation=keras.layers.PReLU())
    return keras.Model(
        [history, candidates, candidate],
        [pooled, scores, weighted, parametric([embedding(candidate), keys])],
    )


def inputs():
    """Left padding, a hole, an empty history, ids that one layer takes for padding."""
    history = [[0, 0, 1, 2, 3], [5, 0, 4, 9, 0], [0, 0, 0, 0, 0], [4, 4, 6, 7, 8]]
    candidates = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 2]]
    return [np.array(x, "int32") for x in (history, candidates, [[1], [2], [3], [0]])]
