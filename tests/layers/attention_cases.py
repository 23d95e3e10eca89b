"""AttentionPoolingLayer in every mode, wired for the contract."""

import numpy as np
import oracles
from strategies import DIM
from wiring import Case

import din_layers


class Attention(Case):
    """An attention layer."""

    list_place = 2

    def __init__(self, **config):
        super().__init__(din_layers.AttentionPoolingLayer, {"att_hidden_units": (5, 4), **config})
        self.keeps_time = config.get("mode") == "sequence"
        self.queries = 1 if self.keeps_time else None
        self.skips_padding = config.get("skip_padding", False)

    def build(self, layer):
        layer.build([(None, None, DIM), (None, None, DIM)])

    def inputs(self, sequence, weights, query):
        return [query, sequence]

    def row(self, layer, events, weights, query):
        scores = oracles.attention_scores(query, events, *mlp(layer), scale=layer.scale)
        weights = oracles.softmax(scores) if layer.weight_normalization else scores
        return events * weights if self.keeps_time else oracles.attend(weights, events)


def mlp(layer):
    """Return kernels, biases and activations of an attention layer's MLP, in float64."""
    dense = [[np.float64(w) for w in d.get_weights()] for d in layer.unit.dense_layers]

    def activation(fn):
        if not isinstance(fn, din_layers.Dice):
            return {"sigmoid": oracles.sigmoid}[fn.__name__]
        alpha, mean, variance = (np.float64(w) for w in fn.get_weights())
        return lambda x: oracles.dice(x, mean, variance, alpha, fn.epsilon)

    activations = [activation(fn) for fn in layer.unit.activations]
    return [d[0] for d in dense], [d[1] for d in dense], [*activations, lambda x: x]


CASES = {
    "attend": Attention(),
    "attend_raw": Attention(weight_normalization=None),
    "attend_scaled": Attention(scale=True),
    "attend_dice": Attention(att_activation="dice"),
    "attend_linear": Attention(att_hidden_units=()),
    "attend_skip": Attention(skip_padding=True),
    "attend_sequence": Attention(mode="sequence"),
    "attend_sequence_raw_dice": Attention(
        mode="sequence", weight_normalization=None, att_activation="dice"
    ),
    "attend_sequence_skip_raw_dice": Attention(
        skip_padding=True, mode="sequence", weight_normalization=None, att_activation="dice"
    ),
}
