"""VocabLayer: known strings or integers to consecutive ids."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from din_layers._checks import message
from din_layers._id_layer import INTEGERS, IdLayer, plain_string

_FIRST_KEY = 2  # 0 is padding, 1 is unknown
_UNKNOWN = 1
_INT64 = range(-(2**63), 2**63)


# Not `keras.layers.StringLookup`: it reserves tokens of its own ("[UNK]", and "" as the mask), and
# it saves its vocabulary one key per line, so that keys with a newline do not survive.
@keras.saving.register_keras_serializable(package="din_layers")
class VocabLayer(IdLayer):
    """Maps known keys to consecutive ids, everything else to 1.

    `keys[i]` becomes `i + 2`, an unknown key 1, and `mask_value` 0. The keys are part of the
    layer's config: a saved model needs no vocabulary file beside it.

    Args:
        keys: The known keys, all strings or all integers, in the order of their ids: a list, a
            tuple, a range, a NumPy array or another ordered iterable.
        mask_value: The string or integer that stands for padding, of the keys' type. It becomes 0
            also when it is one of the keys (its place among the ids then stays unused). By default
            no input becomes 0.
        **kwargs: What every Keras layer takes, such as `name`.

    Call arguments:
        inputs: Strings if the keys are strings, integers of any integer dtype if they are
            integers: a dense, ragged or sparse tensor, a NumPy array or nested lists.
            NumPy itself drops NULs from the end of a string in a `str` or `bytes` array; arrays of
            objects and lists keep them. Keras's `fit` and `predict` take strings as tensors only:
            `tf.constant(array)`.
        mask: A Keras mask of `inputs`; it is passed on unchanged. The layer makes none: follow it
            with `Embedding(layer.vocabulary_size, dim, mask_zero=True)`.

    Input shape:
        Any shape. Inside a model the backend must be TensorFlow. In `tf.data`, and on data, the
        layer works under every backend.

    Output shape:
        As the input, in the same container: a ragged tensor with the same rows, a sparse tensor
        with the same indices. int32 under every dtype policy; a TensorFlow tensor under every
        backend.

    Raises:
        TypeError: If the keys are a single string, a set, or not all strings or all integers, if
            `mask_value` is not of their type, or if the inputs are not.
        ValueError: If the keys are empty, have duplicates, are not valid Unicode or do not fit
            into int64, if lists have rows of different lengths, or if a symbolic input comes under
            another backend than TensorFlow.

    Example:
        >>> from din_layers import VocabLayer
        >>> layer = VocabLayer(["drama", "comedy"], mask_value="")
        >>> layer([["comedy", "drama"], ["western", ""]]).numpy()
        array([[3, 2],
               [1, 0]], dtype=int32)
        >>> layer.vocabulary_size
        4
    """

    output_dtype = "int32"

    def __init__(self, keys: Iterable[Any], mask_value: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys = _checked_keys(keys)
        self.key_dtype = "string" if isinstance(self.keys[0], str) else "int64"
        self.mask_value = None if mask_value is None else self._checked_mask(mask_value)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, which is what `Embedding(input_dim=...)` needs."""
        return len(self.keys) + _FIRST_KEY

    def build(self, input_shape: Any) -> None:
        """Make the table."""
        import tensorflow as tf

        ids = dict(zip(self.keys, range(_FIRST_KEY, self.vocabulary_size), strict=True))
        if self.mask_value is not None:
            ids[self.mask_value] = 0
        # A table belongs to no graph: the first call may be inside a tf.function or tf.data.
        # As an attribute it is tracked, and so exported with the model.
        with tf.init_scope():
            keys = tf.constant(list(ids), self.key_dtype)
            values = tf.constant(list(ids.values()), self.output_dtype)
            initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
            self._table = tf.lookup.StaticHashTable(initializer, default_value=_UNKNOWN)

    def get_config(self) -> dict[str, Any]:
        """Return the config, which holds the keys themselves."""
        config = super().get_config()
        return {**config, "keys": list(self.keys), "mask_value": self.mask_value}

    def _checked_mask(self, mask_value: Any) -> Any:
        mask_value = _plain_key("mask_value", mask_value)
        if type(mask_value) is not type(self.keys[0]):
            expected = f"must be {self._kind}, as the keys are"
            raise TypeError(message("mask_value", expected, mask_value=mask_value))
        return mask_value

    @property
    def _kind(self) -> str:
        return "of type string" if self.key_dtype == "string" else "of an integer type"

    def _check_dtype(self, dtype: str) -> None:
        kind = "int64" if dtype in INTEGERS else dtype
        if kind != self.key_dtype:
            expected = f"must be {self._kind}, as the keys are"
            raise TypeError(message("inputs", expected, inputs_dtype=dtype))

    def _ids(self, values: Any) -> Any:
        import tensorflow as tf

        if values.dtype == tf.string:
            return self._table.lookup(values)
        keys = tf.cast(values, tf.int64)
        ids = self._table.lookup(keys)
        if values.dtype == tf.uint64:
            # Values above int64 have wrapped to negative ones, which may be keys.
            return tf.where(keys < 0, _UNKNOWN, ids)
        return ids


def _checked_keys(keys: Any) -> tuple[Any, ...]:
    no_order = isinstance(keys, (str, bytes, set, frozenset)) or not isinstance(keys, Iterable)
    if no_order or getattr(keys, "ndim", 1) == 0:
        expected = "must be an ordered collection of strings or of integers"
        raise TypeError(message("keys", expected, keys=keys))
    plain = tuple(_plain_key(f"keys[{place}]", key) for place, key in enumerate(keys))
    if not plain:
        raise ValueError(message("keys", "must not be empty", keys=keys))
    _check_one_type(plain)
    if len(set(plain)) < len(plain):
        repeated = [key for key, count in Counter(plain).items() if count > 1]
        raise ValueError(message("keys", "must not repeat a key", repeated=repeated[:5]))
    return plain


def _check_one_type(keys: tuple[Any, ...]) -> None:
    for place, key in enumerate(keys):
        if type(key) is not type(keys[0]):
            expected = "must be all strings or all integers"
            first_others = {"keys[0]": keys[0], f"keys[{place}]": key}
            raise TypeError(message("keys", expected, **first_others))


def _plain_key(name: str, key: Any) -> Any:
    """Return `key`, which may be a NumPy scalar, as a plain str or int."""
    if isinstance(key, str):
        return plain_string(name, key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if int(key) not in _INT64:
            raise ValueError(message(name, "must fit into int64", **{name: key}))
        return int(key)
    raise TypeError(message(name, "must be a string or an integer", **{name: key}))
