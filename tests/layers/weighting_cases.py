"""WeightedSequenceLayer with every normalisation, wired for the contract."""

import oracles
from wiring import Case

import din_layers


class Weighting(Case):
    """A weighting layer."""

    keeps_time = True

    def inputs(self, sequence, weights, query):
        return [sequence, weights]

    def row(self, layer, events, weights, query):
        return oracles.weigh(layer.weight_normalization, events, weights)


CASES = {
    f"weigh_{norm}": Weighting(din_layers.WeightedSequenceLayer, {"weight_normalization": norm})
    for norm in ("softmax", "sum", "sqrtn", None)
}
