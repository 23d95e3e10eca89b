"""Small models with every sequence layer, as users wire them."""

import keras
import numpy as np
import tensorflow as tf
from helpers.layers import POOLING_MODES

import din_layers

VOCABULARY = 12
DIM = 4


def numeric_model(ragged=False, **attention):
    """Integer ids -> shared embedding -> every sequence layer -> one probability."""
    history = keras.Input((None,), dtype="int32", name="history", ragged=ragged)
    candidates = keras.Input((2,), dtype="int32", name="candidates")
    weights = keras.Input((None,), name="weights", ragged=ragged)
    embedding = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True, name="embedding")
    keys, query = embedding(history), embedding(candidates)
    attend = din_layers.AttentionPoolingLayer((6, 3), **{"att_activation": "dice", **attention})
    attended, scores = attend([query, keys, history], return_attention_scores=True)
    weighted = din_layers.WeightedSequenceLayer("sum")([keys, weights])
    parts = [
        keras.ops.reshape(attended, (-1, 2 * DIM)),  # drops the candidates' mask
        din_layers.AUGRU(3)([keys, weights]),
        *(
            keras.layers.Flatten()(din_layers.SequencePoolingLayer(mode)(weighted))
            for mode in POOLING_MODES
        ),
    ]
    hidden = din_layers.Dice()(keras.layers.Dense(5)(keras.layers.Concatenate()(parts)))
    click = keras.layers.Dense(1, activation="sigmoid", name="click")(hidden)
    return keras.Model([history, candidates, weights], [click, scores])


def click_model(**attention):
    """`numeric_model` with the click alone as its output, to be trained."""
    model = numeric_model(**attention)
    return keras.Model(model.inputs, model.outputs[0])


def numeric_inputs(batch=6, time=5, ragged=False):
    """Inputs for `numeric_model`: the second history is empty, the third has a hole."""
    rng = np.random.default_rng(0)
    history = rng.integers(1, VOCABULARY, (batch, time)).astype("int32")
    history[np.arange(time) >= rng.integers(0, time + 1, (batch, 1))] = 0
    history[1] = 0
    history[2] = [3, 0, 5, *[0] * (time - 3)]
    candidates = rng.integers(1, VOCABULARY, (batch, 2)).astype("int32")
    weights = rng.uniform(0, 1, (batch, time)).astype("float32")
    if ragged:
        from_row_lengths, valid = tf.RaggedTensor.from_row_lengths, history != 0
        history = from_row_lengths(history[valid], valid.sum(1))
        weights = from_row_lengths(weights[valid], valid.sum(1))
        candidates = tf.constant(candidates)
    return [history, candidates, weights]


def string_model():
    """Raw strings -> vocabulary and hash ids -> DIN."""
    history = keras.Input((None,), dtype="string", name="history")
    candidate = keras.Input((1,), dtype="string", name="candidate")
    vocabulary = din_layers.VocabLayer(["a", "b", "line\nbreak", "é\0x"], mask_value="")
    buckets = din_layers.HashLayer(20, mask_value="")
    by_vocabulary = keras.layers.Embedding(vocabulary.vocabulary_size, DIM, mask_zero=True)
    by_bucket = keras.layers.Embedding(20, DIM, mask_zero=True)

    def embed(ids):
        both = [by_vocabulary(vocabulary(ids)), by_bucket(buckets(ids))]
        return keras.layers.Concatenate()(both)

    attend = din_layers.AttentionPoolingLayer((6,), hist_mask_value="")
    interest = attend([embed(candidate), embed(history), history])
    return keras.Model([history, candidate], keras.layers.Dense(1)(interest[:, 0]))


def string_inputs():
    """Inputs for `string_model`: padding "", unknown words, an empty history."""
    history = [["a", "line\nbreak", ""], ["", "", ""], ["é\0x", "unknown", "b"]]
    return [np.array(history), np.array([["b"], ["a"], ["?"]])]
