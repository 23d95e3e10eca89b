"""HashLayer: strings, integers and floats; without padding, with zeros, with a value as padding."""

import keras
import numpy as np

from din_layers import HashLayer


def model():
    words = keras.Input((None,), dtype="string", name="words")
    numbers = keras.Input((None,), dtype="int64", name="numbers")
    floats = keras.Input((None,), dtype="float64", name="floats")
    return keras.Model(
        [words, numbers, floats],
        [
            *(
                layer(x)
                for x in (words, numbers, floats)
                for layer in (HashLayer(1000), HashLayer(2**63 - 1, mask_zero=True))
            ),
            HashLayer(10, mask_value="")(words),
            HashLayer(10, mask_zero=True, mask_value=-1)(numbers),
        ],
    )


def inputs():
    """Paddings, and what is hashed as a decimal string."""
    words = np.array([["", "0", "news"], ["movies and series", "\0x", "😀"]])
    numbers = np.array([[0, -1, 7], [2**63 - 1, -(2**63), 10]], "int64")
    return [words, numbers, np.array([[0.0, -0.0, 7.5], [1e-7, 70001.0, -1e300]])]
