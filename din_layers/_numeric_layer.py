"""What the layers that compute with numbers share: ragged tensors and strings are TensorFlow's."""

from typing import Any

import keras

from din_layers._backend import check_kinds
from din_layers._checks import check_tensors


class NumericLayer(keras.Layer):
    """A layer that refuses ragged tensors and strings where the backend has none, and says why."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, see the class."""
        # All this before Keras converts the inputs, whose errors do not say why it cannot.
        check_tensors("inputs", inputs)
        check_kinds(*keras.tree.flatten((inputs, args, kwargs)))
        return super().__call__(inputs, *args, **kwargs)
