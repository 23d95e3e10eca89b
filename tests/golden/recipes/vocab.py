"""VocabLayer: strings that are hard to keep, and integers; with and without padding."""

import keras
import numpy as np

from din_layers import VocabLayer

KEYS = ["drama", "", "a,b", "line\nbreak", "\0x", "é", "😀", "0"]


def model():
    words = keras.Input((None,), dtype="string", name="words")
    numbers = keras.Input((None,), dtype="int64", name="numbers")
    return keras.Model(
        [words, numbers],
        [
            VocabLayer(KEYS, mask_value="")(words),
            VocabLayer(KEYS)(words),
            VocabLayer([7, -1, 2**63 - 1], mask_value=0)(numbers),
        ],
    )


def inputs():
    """Every key, and an unknown one."""
    numbers = np.array([[7, -1, 0], [2**63 - 1, 5, 7], [0, 0, -1]], "int64")
    return [np.array([*KEYS, "unknown"]).reshape(3, 3), numbers]
