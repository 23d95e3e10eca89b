"""SequencePoolingLayer on the tags of events, in front of the attention."""

import keras
import numpy as np

from din_layers import AttentionPoolingLayer, SequencePoolingLayer


def model():
    tags = keras.Input((None, None), dtype="int32", name="tags")
    query = keras.Input((1, 3), name="query")
    embedded = keras.layers.Embedding(10, 3, mask_zero=True)(tags)
    events = [SequencePoolingLayer(mode)(embedded) for mode in ("mean", "max")]
    return keras.Model([tags, query], [AttentionPoolingLayer((4,))([query, x]) for x in events])


def inputs():
    """A padded tag, an event without tags in the middle, an empty history."""
    tags = [[[1, 2], [0, 0], [0, 3]], [[0, 0]] * 3, [[4, 4], [5, 0], [6, 7]]]
    query = np.random.default_rng(1).normal(0, 1, (3, 1, 3)).astype("float32")
    return [np.array(tags, "int32"), query]
