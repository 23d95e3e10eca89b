"""Small operations on tensors that Keras lacks."""

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor


def wide_dtype(dtype: str) -> str:
    """Return the dtype to sum values of `dtype` in: 70 events of 1,000 overflow float16."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def scalar(value: float, like: Tensor) -> Tensor:
    """Return a number of the dtype of `like`."""
    return ops.convert_to_tensor(value, like.dtype)


def select(valid: Tensor, x: Tensor, fill: float = 0) -> Tensor:
    """Put `fill` where `valid`, which has the leading axes of `x`, is False; None is all True."""
    if valid is None:
        return x
    if keras.backend.standardize_dtype(valid.dtype) != "bool":
        valid = ops.cast(valid, "bool")
    if missing_axes := tuple(range(len(valid.shape), len(x.shape))):
        valid = ops.expand_dims(valid, missing_axes)
    return _backend.where(valid, x, fill)


def before(positions: Tensor, lengths: Tensor) -> Tensor:
    """Tell which positions are less than `lengths`, for any two integer dtypes."""
    if keras.backend.standardize_dtype(lengths.dtype) not in ("int64", "uint64", "uint32"):
        lengths = ops.cast(lengths, "int32")
    return ops.cast(positions, lengths.dtype) < lengths
