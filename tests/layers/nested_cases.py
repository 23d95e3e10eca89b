"""SequencePoolingLayer on nested events, wired for the contract: each row is an event of tags."""

import keras
from keras import ops
from pooling_cases import Pooling

import din_layers


class Nested(Pooling):
    """A pooling layer that is given a batch as the events of one history."""

    list_place = None

    def nest(self, x):
        return keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), x)

    def unnest(self, output):
        return ops.expand_dims(output[0], 1)


CASES = {
    f"pool_tags_{mode}": Nested(din_layers.SequencePoolingLayer, {"mode": mode})
    for mode in ("mean", "max")
}
