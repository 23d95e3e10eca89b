"""What VocabLayer and HashLayer share: the containers of ids, and who may convert them."""

import abc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from din_layers._checks import message

INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))

_BOOLS = frozenset({bool, np.bool_})


class IdLayer(keras.layers.Layer):
    """Maps every id of a dense, ragged or sparse tensor on its own.

    A subclass gives `output_dtype`, `key_dtype`, `_check_dtype` and `_ids`; this class sees to
    the containers, to the symbolic output and to backends other than TensorFlow.

    TensorFlow is imported where it is used: on another backend `import din_layers` and making a
    layer do without it.
    """

    output_dtype: str
    key_dtype: str  # of the ids that an empty list, which names no dtype, has none of

    def __init__(self, **kwargs: Any) -> None:
        # Without autocast Keras leaves float ids as they are; under mixed_float16 it would
        # otherwise round 70001.0 to inf before the layer sees it.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        # XLA has neither strings nor tables: this keeps `fit` from choosing it by itself.
        self.supports_jit = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Map symbolic or real ids; see the class."""
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if isinstance(inputs, keras.KerasTensor):
            if not on_tensorflow:
                raise ValueError(self._backend_message())
        else:
            inputs = self._to_tensor(inputs)
        # A KerasTensor's dtype is a name already, a tensor's has one.
        self._check_dtype(getattr(inputs.dtype, "name", inputs.dtype))
        if not self.built:
            # Nothing depends on the shape; Keras, left to build, would ask for a known rank.
            self.build(None)
        if on_tensorflow:
            return super().__call__(inputs, **kwargs)
        # Keras would turn the ids into the backend's tensors, which hold no strings and cannot
        # live in a tf.data graph. The work is TensorFlow's, and so is the result.
        return self.call(inputs)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Map the ids in whatever container they come; Keras passes `mask` on."""
        import tensorflow as tf

        if isinstance(inputs, tf.RaggedTensor):
            return inputs.with_flat_values(self._ids(inputs.flat_values))
        if isinstance(inputs, tf.SparseTensor):
            outputs = inputs.with_values(self._ids(inputs.values))
            # `with_values` forgets the static shape that Keras had set on a sparse input.
            outputs.set_shape(inputs.shape)
            return outputs
        return self._ids(inputs)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        """Return the symbolic output: the input's shape and container, the ids' dtype."""
        self._check_dtype(inputs.dtype)
        return keras.KerasTensor(
            inputs.shape, dtype=self.output_dtype, sparse=inputs.sparse, ragged=inputs.ragged
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape."""
        return input_shape

    @abc.abstractmethod
    def _check_dtype(self, dtype: str) -> None:
        """Raise a TypeError if ids of `dtype` cannot be mapped."""

    @abc.abstractmethod
    def _ids(self, values: Any) -> Any:
        """Map a dense tensor of a checked dtype."""

    def _backend_message(self) -> str:
        return message(
            "inputs",
            f"must be data: {type(self).__name__} inside a model needs the TensorFlow backend; "
            "on other backends, use the layer in tf.data or call it on data",
            backend=keras.backend.backend(),
        )

    def _to_tensor(self, inputs: Any, name: str = "inputs") -> Any:
        import tensorflow as tf

        if tf.is_tensor(inputs):
            return inputs
        if inputs is None or isinstance(inputs, dict) or _holds_tensors(inputs):
            raise TypeError(message(name, "must be one tensor", **{name: inputs}))
        if is_pandas(inputs):
            inputs = _without_missing(name, inputs)
        if isinstance(inputs, np.ndarray) and inputs.dtype == object:
            if inputs.size == 0:
                return tf.zeros(inputs.shape, self.key_dtype)
            # TensorFlow reads integers from a list, but not from an array of objects.
            inputs = inputs.tolist()
        elif _is_empty(inputs):
            return tf.zeros(np.shape(inputs), self.key_dtype)
        try:
            if isinstance(inputs, list | tuple):
                _check_alike(inputs)
            return tf.convert_to_tensor(inputs)
        except ValueError as error:
            if any(map(_is_missing, _leaves(inputs))):
                raise _missing(name, inputs) from error
            expected = (
                "must be a tensor, an array or nested lists of one type and equal lengths "
                "(`tf.ragged.constant` takes rows of different lengths)"
            )
            raise ValueError(message(name, expected, **{name: inputs})) from error


def is_pandas(x: Any) -> bool:
    """Tell a pandas Series, array or DataFrame, without pandas."""
    return hasattr(x, "isna") and hasattr(x, "__array__")


def _without_missing(name: str, x: Any) -> Any:
    """Return a NumPy array of pandas data; NumPy would make NaN, and floats, of what is missing."""
    dtypes = np.ravel(x.dtypes if hasattr(x, "dtypes") else x.dtype)
    nullable = any(not isinstance(dtype, np.dtype) or dtype.kind == "O" for dtype in dtypes)
    if nullable and np.any(x.isna()):
        raise _missing(name, x)
    return np.asarray(x)


def _missing(name: str, x: Any) -> ValueError:
    expected = (
        "must have no missing value: replace it by padding, "
        """in pandas with `fillna("")` and `mask_value=""`"""
    )
    return ValueError(message(name, expected, **{name: x}))


def _leaves(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list | tuple | np.ndarray) and np.ndim(item):
            yield from _leaves(item)
        else:
            yield item


def _is_missing(x: Any) -> bool:
    """Tell None, NaN, and the NA and NaT of pandas, without pandas."""
    return x is None or type(x).__name__ in ("NAType", "NaTType") or x != x


def _check_alike(inputs: Any) -> None:
    """Refuse what TensorFlow takes: a string as a list of characters, bools as integers."""
    types = _leaf_types(inputs)
    if types & _BOOLS and types - _BOOLS:
        raise ValueError("bools among others")


def _leaf_types(items: Any) -> set[type]:
    if isinstance(items, np.ndarray) and items.dtype != object:
        return {items.dtype.type}
    types = set(map(type, items))
    nested = {kind for kind in types if issubclass(kind, list | tuple | np.ndarray)}
    if not nested:
        return types
    if nested != types:
        raise ValueError("values beside lists")
    return set().union(*map(_leaf_types, items))


def plain_string(name: str, value: str) -> str:
    """Return `value`, which may be a NumPy string, as a plain str that UTF-8 can write."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(message(name, "must be valid Unicode", **{name: value})) from None
    return str(value)


def _holds_tensors(inputs: Any) -> bool:
    import tensorflow as tf

    return isinstance(inputs, (list, tuple)) and any(
        isinstance(item, keras.KerasTensor) or tf.is_tensor(item) for item in inputs
    )


def _is_empty(inputs: Any) -> bool:
    """Tell whether `inputs` is nested lists without an element."""
    return isinstance(inputs, (list, tuple)) and all(_is_empty(item) for item in inputs)
