"""Dice: over the last axis and another, with a mask, with everything about alpha."""

import keras
import numpy as np

from din_layers import Dice


def model():
    inputs = keras.Input((4, 3), name="inputs")
    masked = keras.layers.Masking()(inputs)
    return keras.Model(
        inputs,
        [
            Dice()(masked),
            Dice(axis=1, momentum=0.9, epsilon=1e-3)(inputs),
            Dice(alpha_initializer="ones", alpha_regularizer="l1", alpha_constraint="non_neg")(
                keras.layers.Flatten()(inputs)
            ),
        ],
    )


def inputs():
    """Values on both sides of the turning point; one position of zeros, which is masked."""
    x = np.random.default_rng(3).normal(0, 2, (3, 4, 3)).astype("float32")
    x[1, 2] = 0
    return [x]
