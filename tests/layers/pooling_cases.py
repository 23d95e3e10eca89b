"""SequencePoolingLayer in every mode, wired for the contract."""

import oracles
from wiring import Case

import din_layers


class Pooling(Case):
    """A pooling layer."""

    def inputs(self, sequence, weights, query):
        return sequence

    def row(self, layer, events, weights, query):
        return oracles.pool(layer.mode, events)[None]


CASES = {
    f"pool_{mode}": Pooling(din_layers.SequencePoolingLayer, {"mode": mode})
    for mode in ("sum", "mean", "max", "sqrtn")
}
