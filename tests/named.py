"""One of each sequence layer and one small batch, for what is given by name."""

import keras
import numpy as np
import pytest
from strategies import DIM

import din_layers

SEQUENCE = np.random.default_rng(1).normal(size=(3, 4, DIM)).astype("float32")
QUERY = np.random.default_rng(2).normal(size=(3, 1, DIM)).astype("float32")
IDS = np.array([[3, 0, 5, 6], [0, 0, 0, 0], [7, 8, 0, 0]], "int32")
WEIGHTS = np.random.default_rng(3).uniform(size=(3, 4)).astype("float32")
LENGTHS = np.array([4, 1, 2], "int32")

# One of each layer, with its inputs; the second keeps the time axis where the layer can.
LAYERS = {
    "attention": (din_layers.AttentionPoolingLayer, {"mode": "sequence"}, [QUERY, SEQUENCE]),
    "pooling": (din_layers.SequencePoolingLayer, {}, SEQUENCE),
    "weighting": (din_layers.WeightedSequenceLayer, {}, [SEQUENCE, WEIGHTS]),
    "augru": (din_layers.AUGRU, {"units": 2, "return_sequences": True}, [SEQUENCE, WEIGHTS]),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def made(name, **config):
    """Return a layer, with the same weights each time, and its inputs."""
    layer_class, own, inputs = LAYERS[name]
    keras.utils.set_random_seed(1)
    return layer_class(**{**own, **config}), inputs
