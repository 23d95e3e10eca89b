"""AUGRU, with its last state and with all, wired for the contract."""

import numpy as np
import oracles
from strategies import DIM
from wiring import Case

import din_layers

SCORES = 8  # the weights, 0 to 8, over this are scores between 0 and 1


class Evolving(Case):
    """An AUGRU; at invalid positions it carries the state."""

    ordered = True

    def __init__(self, **config):
        super().__init__(din_layers.AUGRU, {"units": DIM, **config})
        self.keeps_time = config.get("return_sequences", False)

    def build(self, layer):
        layer.build([(None, None, DIM), (None, None)])

    def inputs(self, sequence, weights, query):
        return [sequence, weights / SCORES]

    def row(self, layer, events, weights, query):
        states = oracles.augru(events, weights / SCORES, *gates(layer))
        return states[1:] if self.keeps_time else states[-1]


def gates(layer):
    """Return, in float64 and as DIEN's paper has them, the weights of u, r and the candidate."""
    kernels, recurrent, (biases, state_biases) = [
        np.split(np.float64(w), 3, axis=-1) for w in layer.get_weights()[:2]
    ] + [[np.split(b, 3) for b in np.float64(layer.get_weights()[2])]]
    z, r, candidate = zip(kernels, recurrent, biases, state_biases, strict=True)
    # Keras's gate keeps the old state, the paper's takes the new one: 1 - sigmoid(x) = sigmoid(-x).
    return tuple(-w for w in z), r, candidate


CASES = {"evolve": Evolving(), "evolve_sequence": Evolving(return_sequences=True)}
