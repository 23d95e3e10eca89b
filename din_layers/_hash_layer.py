"""HashLayer: strings or numbers to hash buckets."""

import math
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from din_layers._checks import check_bool, check_integer, message
from din_layers._id_layer import INTEGERS, IdLayer, plain_string

_MAX_BUCKETS = 2**63 - 1  # ids are int64
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_ANY_INTEGER = range(-(2**63), 2**64)  # what some integer dtype can hold


@keras.saving.register_keras_serializable(package="din_layers")
class HashLayer(IdLayer):
    """Hash strings or numbers to buckets.

    The bucket is the FarmHash Fingerprint64 of the string modulo the number of buckets. A number
    is hashed as its decimal string: 7 as "7", 7.5 as "7.500000". With six decimals, numbers that
    differ only beyond them share a bucket. The bucket is the same in every process and on every
    machine: `tf.strings.to_hash_bucket_fast(tf.strings.as_string(x), num_buckets)`.

    With `mask_zero` or `mask_value`, padding becomes 0, and everything else
    `1 + fingerprint % (num_buckets - 1)`.

    Pass ids as integers or strings. Keras's `fit` and `predict` turn float64 arrays into float32,
    which may change the bucket: 16777217.0 arrives as 16777216.0. Tensors arrive unchanged.

    Missing values get no bucket. NaN among floats is padding with `mask_zero` or `mask_value`, and
    an error without. None and missing values of pandas are errors: to make padding of them, use
    `column.fillna("")` and `mask_value=""`. Without `mask_value=""`, "" is an ordinary string.

    Args:
        num_buckets: The number of ids, at least 1, or 2 with `mask_zero` or `mask_value`.
        mask_zero: Whether the numbers 0, 0.0 and -0.0 and the string "0" are padding.
        mask_value: A string or a finite number that is padding, in addition to those of
            `mask_zero`: "" for strings that `padded_batch` padded. A fraction is rounded to the
            inputs' dtype.
        **kwargs: As in every Keras layer, such as `name`.

    Call arguments:
        inputs: Strings, integers or floats: a dense, ragged or sparse tensor, a NumPy array or
            nested lists. The layer's dtype policy does not round them. NumPy drops NULs from the
            end of a string in a `str` or `bytes` array; lists and arrays of objects keep them.
            Keras's `fit` and `predict` take strings as tensors only: `tf.constant(array)`.
        mask: A Keras mask of `inputs`, which the layer passes on unchanged. It makes no mask
            itself: follow it with `Embedding(num_buckets, dim, mask_zero=True)`.

    Input shape:
        Any. Inside a model the layer needs the TensorFlow backend. In `tf.data`, and called on
        data, it works under every backend.

    Output shape:
        That of the input, in the same container: a ragged tensor with the same rows, a sparse
        tensor with the same indices. int64 under every dtype policy; a TensorFlow tensor under
        every backend.

    Raises:
        TypeError: If an argument is of a wrong type, if the inputs are neither strings, integers
            nor floats (bool among others), or if `mask_value` can never be among them: a number
            with strings, -1 with uint8, 0.5 with integers, 2**24 + 1 with float32.
        ValueError: If `num_buckets` is too small, if `mask_value` is not finite or not valid
            Unicode, if lists have rows of different lengths or several types, if values are
            missing (in a graph of TensorFlow, NaN is an InvalidArgumentError), or if a symbolic
            input comes under another backend than TensorFlow.

    Example:
        >>> from din_layers import HashLayer
        >>> layer = HashLayer(1000, mask_value="")
        >>> layer([["news", "sports"], ["news", ""]]).numpy()
        array([[702, 335],
               [702,   0]])
    """

    output_dtype = "int64"

    def __init__(
        self, num_buckets: int, mask_zero: bool = False, mask_value: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mask_zero = check_bool("mask_zero", mask_zero)
        self.mask_value = _checked_mask(mask_value)
        # Of a dtype that can hold `mask_value`: an empty list fits every layer.
        self.key_dtype = "float64" if isinstance(self.mask_value, Real) else "string"
        self.num_buckets = check_integer("num_buckets", num_buckets, 1 + self._reserved)
        if self.num_buckets > _MAX_BUCKETS:
            raise ValueError(message("num_buckets", "must fit into int64", num_buckets=num_buckets))

    def get_config(self) -> dict[str, Any]:
        """Return the config."""
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "mask_zero": self.mask_zero,
            "mask_value": self.mask_value,
        }

    @property
    def _reserved(self) -> int:
        """The number of ids kept for padding."""
        return int(self.mask_zero or self.mask_value is not None)

    def _check_dtype(self, dtype: str) -> None:
        if dtype != "string" and dtype not in INTEGERS | _FLOATS:
            raise TypeError(
                message("inputs", "must hold strings, integers or floats", inputs_dtype=dtype)
            )
        if self.mask_value is not None and not _can_hold(dtype, self.mask_value):
            raise TypeError(
                message(
                    "mask_value",
                    "must be a value that the inputs can have",
                    mask_value=self.mask_value,
                    inputs_dtype=dtype,
                )
            )

    def _ids(self, values: Any) -> Any:
        import tensorflow as tf

        strings = values if values.dtype == tf.string else tf.strings.as_string(values)
        buckets = tf.strings.to_hash_bucket_fast(strings, self.num_buckets - self._reserved)
        if not self._reserved:
            return _without_nan(values, buckets)
        ids = 1 + buckets
        if values.dtype.is_floating:
            ids = tf.where(tf.math.is_nan(values), tf.zeros_like(ids), ids)
        values, paddings = _comparable(values, self._paddings(values.dtype == tf.string))
        for padding in paddings:
            ids = tf.where(tf.equal(values, padding), tf.zeros_like(ids), ids)
        return ids

    def _paddings(self, strings: bool) -> list[Any]:
        named: list[Any] = ["0" if strings else 0] if self.mask_zero else []
        return named if self.mask_value is None else [*named, self.mask_value]


def _without_nan(values: Any, ids: Any) -> Any:
    """Return the ids of values, among which no NaN may be."""
    import tensorflow as tf

    if not values.dtype.is_floating:
        return ids
    expected = (
        "must have no NaN: fill it, or name padding (`mask_zero`, `mask_value`), which NaN becomes"
    )
    found = tf.reduce_any(tf.math.is_nan(values))
    if tf.executing_eagerly():
        if found:
            raise ValueError(message("inputs", expected, inputs=values.numpy()))
        return ids
    with tf.control_dependencies([tf.debugging.Assert(~found, [f"`inputs` {expected}."])]):
        return tf.identity(ids)


def _comparable(values: Any, paddings: list[Any]) -> tuple[Any, list[Any]]:
    """Return tensors to compare, for floats their bits: TensorFlow takes 1e-40 for 0."""
    import tensorflow as tf

    dtype = values.dtype
    if not dtype.is_floating:
        # TensorFlow takes no -1.0 for an integer tensor.
        paddings = [int(x) if dtype.is_integer else x for x in paddings]
        return values, [tf.constant(x, dtype) for x in paddings]
    signed = [*paddings, *(-0.0 for x in paddings if x == 0)]
    bits = f"int{8 * dtype.size}"
    arrays = [np.array(x, dtype.as_numpy_dtype).view(bits) for x in signed]
    return tf.bitcast(values, bits), [tf.constant(x) for x in arrays]


def _checked_mask(mask_value: Any) -> Any:
    """Return `mask_value`, which may be a NumPy scalar, as a plain str, int, float or None."""
    if mask_value is None:
        return None
    if isinstance(mask_value, str):
        return plain_string("mask_value", mask_value)
    if isinstance(mask_value, bool) or not isinstance(mask_value, Real):
        raise TypeError(
            message("mask_value", "must be a string or a number", mask_value=mask_value)
        )
    if isinstance(mask_value, Integral):
        if int(mask_value) not in _ANY_INTEGER:
            raise ValueError(message("mask_value", "must fit into 64 bits", mask_value=mask_value))
        return int(mask_value)
    # NaN equals nothing, and neither NaN nor infinity is JSON.
    if not math.isfinite(mask_value):
        raise ValueError(message("mask_value", "must be finite", mask_value=mask_value))
    return float(mask_value)


def _can_hold(dtype: str, value: Any) -> bool:
    """Tell whether a tensor of `dtype` can have the element `value`, rounded if it is a float."""
    if dtype == "string" or isinstance(value, str):
        return dtype == "string" and isinstance(value, str)
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        return bool(value == int(value) and limits.min <= value <= limits.max)
    import tensorflow as tf

    with np.errstate(over="ignore", under="ignore"):
        rounded = float(tf.as_dtype(dtype).as_numpy_dtype(value))
    # A fraction is compared in the precision of the inputs; an integer would be another one.
    exact = value == int(value) and abs(value) <= _ANY_INTEGER[-1]
    return rounded == value if exact else math.isfinite(rounded) and (rounded == 0) == (value == 0)
