"""What the layers that compute with numbers share: ragged tensors and strings are TensorFlow's."""

from typing import Any

import keras

from din_layers._checks import message
from din_layers._history import is_ragged


class NumericLayer(keras.Layer):
    """A layer that other backends refuse ragged tensors and strings for, and say why."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, see the class."""
        # All this before Keras converts the inputs, whose errors do not say why it cannot.
        if any(x is None for x in (inputs if isinstance(inputs, list | tuple) else [inputs])):
            raise TypeError(message("inputs", "must hold no None", inputs=inputs))
        if keras.backend.backend() != "tensorflow":
            for x in keras.tree.flatten((inputs, args, kwargs)):
                _check_kind(x)
        return super().__call__(inputs, *args, **kwargs)


def _check_kind(x: Any) -> None:
    dtype = getattr(x, "dtype", None)
    kind = "ragged" if is_ragged(x) else "strings" if _is_text(dtype) else None
    if kind:
        expected = (
            "must be dense numbers: ragged tensors and strings need the TensorFlow backend, "
            "pad them and give ids or lengths instead"
        )
        received = {"backend": keras.backend.backend(), "inputs_dtype": dtype, "kind": kind}
        raise ValueError(message("inputs", expected, **received))


def _is_text(dtype: Any) -> bool:
    return getattr(dtype, "kind", "") in ("U", "S", "O") or "string" in str(dtype)
