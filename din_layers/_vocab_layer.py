"""VocabLayer: known strings or integers to consecutive ids."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from din_layers._checks import check_integer, message
from din_layers._id_layer import INTEGERS, IdLayer, is_pandas, plain_string

_FIRST_KEY = 2  # 0 is padding, 1 is unknown
_UNKNOWN = 1
_INT64 = range(-(2**63), 2**63)


# Not `keras.layers.StringLookup`: it reserves tokens of its own ("[UNK]", and "" as the mask), and
# it saves its vocabulary one key per line, so that keys with a newline do not survive.
@keras.saving.register_keras_serializable(package="din_layers")
class VocabLayer(IdLayer):
    """Maps known keys to consecutive ids, everything else to 1.

    `keys[i]` becomes `i + 2`, an unknown key 1, and `mask_value` 0. The keys are part of the
    layer's config: a saved model needs no vocabulary file beside it. Give the keys, or let `adapt`
    find them in the training data.

    Missing values (None, NaN, and those of pandas) are errors, never an id. To make padding of
    them, use `column.fillna("")` and `mask_value=""`. Without `mask_value=""`, "" is an ordinary
    string.

    Args:
        keys: The known keys, all strings or all integers, in the order of their ids: a list, a
            tuple, a range, a NumPy array or another ordered iterable. `bytes` are UTF-8. With
            `mask_value=""`, the result of `get_vocabulary(include_special_tokens=False)` of a
            Keras `StringLookup(mask_token="")` gives the same ids as in Keras. `None`: call `adapt`
            before the layer.
        mask_value: The string or integer that means padding, of the keys' type. It becomes 0 even
            if it is one of the keys (its place among the ids is then unused). By default no input
            becomes 0.
        **kwargs: As in every Keras layer, such as `name`.

    Call arguments:
        inputs: Strings if the keys are strings, integers of any integer dtype if they are
            integers: a dense, ragged or sparse tensor, a NumPy array or nested lists. NumPy drops
            NULs from the end of a string in a `str` or `bytes` array; lists and arrays of objects
            keep them. Keras's `fit` and `predict` take strings as tensors only:
            `tf.constant(array)`.
        mask: A Keras mask of `inputs`, which the layer passes on unchanged. It makes no mask
            itself: follow it with `Embedding(layer.vocabulary_size, dim, mask_zero=True)`.

    Input shape:
        Any. Inside a model the layer needs the TensorFlow backend. In `tf.data`, and called on
        data, it works under every backend.

    Output shape:
        That of the input, in the same container: a ragged tensor with the same rows, a sparse
        tensor with the same indices. int32 under every dtype policy; a TensorFlow tensor under
        every backend.

    Raises:
        TypeError: If the keys are a single string, a set, a mapping, or not all strings or all
            integers, if `mask_value` is not of their type, or if the inputs are not.
        ValueError: If there are no keys, if they have duplicates, are not valid Unicode or do not
            fit into int64, if lists have rows of different lengths or several types, if values are
            missing, or if a symbolic input comes under another backend than TensorFlow.

    Example:
        >>> from din_layers import VocabLayer
        >>> layer = VocabLayer(["drama", "comedy"], mask_value="")
        >>> layer([["comedy", "drama"], ["western", ""]]).numpy()
        array([[3, 2],
               [1, 0]], dtype=int32)
        >>> layer.vocabulary_size
        4
        >>> learned = VocabLayer(mask_value="")
        >>> learned.adapt([["comedy", ""], ["comedy", "western"]])
        >>> learned.keys
        ('comedy', 'western')
    """

    output_dtype = "int32"

    def __init__(
        self, keys: Iterable[Any] | None = None, mask_value: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mask_value = None if mask_value is None else _plain_key("mask_value", mask_value)
        self.keys: tuple[Any, ...] | None = None
        self.key_dtype = "string"  # until there are keys, of an empty list among the data
        if keys is not None:
            self._set_keys(_checked_keys(keys))

    def adapt(self, data: Any, max_tokens: int | None = None) -> None:
        """Take the keys from data: the most frequent first, of equally frequent ones the larger.

        Call it before the layer itself. As in Keras's lookup layers, it works on data under every
        backend. `mask_value` becomes no key.

        Args:
            data: Strings or integers in any form that the layer takes, or a `tf.data.Dataset` or
                another iterable of batches of them.
            max_tokens: The largest `vocabulary_size`; rarer keys are left out. `None`: no limit.

        Raises:
            TypeError: If the data are neither strings nor integers, or not of one type.
            ValueError: If the layer has keys already, or the data have none.
        """
        if self.keys is not None:
            expected = "must be called on a layer without keys: make a new one"
            raise ValueError(message("adapt", expected, number_of_keys=len(self.keys)))
        if max_tokens is not None:
            max_tokens = check_integer("max_tokens", max_tokens, _FIRST_KEY + 1)
        counts: Counter[Any] = Counter()
        for batch in _batches(data):
            counts.update(self._values(batch))
        # As bytes, strings sort as Keras sorts them.
        mask = self.mask_value
        counts.pop(mask.encode() if isinstance(mask, str) else mask, None)
        _check_one_type(tuple(counts), "data")
        if not counts:
            raise ValueError(message("data", "must hold a key", data=data))
        by_count = sorted(counts, key=lambda key: (counts[key], key), reverse=True)
        limit = None if max_tokens is None else max_tokens - _FIRST_KEY
        self._set_keys(_checked_keys(by_count[:limit], "data"))

    def _values(self, batch: Any) -> list[Any]:
        """Return the strings, as bytes, or the integers of one batch."""
        import tensorflow as tf

        if isinstance(batch, str | bytes):
            raise TypeError(message("data", "must be a collection of strings", data=batch))
        tensor = self._to_tensor(batch, "data")
        if tensor.dtype.name not in {"string", *INTEGERS}:
            received = {"data_dtype": tensor.dtype.name}
            raise TypeError(message("data", "must be strings or integers", **received))
        if isinstance(tensor, tf.RaggedTensor):
            tensor = tensor.flat_values
        if isinstance(tensor, tf.SparseTensor):
            tensor = tensor.values
        values: list[Any] = tf.reshape(tensor, [-1]).numpy().tolist()
        return values

    def _set_keys(self, keys: tuple[Any, ...]) -> None:
        if self.mask_value is not None and type(self.mask_value) is not type(keys[0]):
            expected = f"must be {_kind(keys)}, as the keys are"
            raise TypeError(message("mask_value", expected, mask_value=self.mask_value))
        self.keys = keys
        self.key_dtype = "string" if isinstance(keys[0], str) else "int64"

    @property
    def _known_keys(self) -> tuple[Any, ...]:
        if self.keys is None:
            expected = "must be given, or found by `adapt`, before the layer is used"
            raise ValueError(message("keys", expected, keys=None))
        return self.keys

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, which is what `Embedding(input_dim=...)` needs."""
        return len(self._known_keys) + _FIRST_KEY

    def build(self, input_shape: Any) -> None:
        """Make the table."""
        import tensorflow as tf

        ids = dict(zip(self._known_keys, range(_FIRST_KEY, self.vocabulary_size), strict=True))
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
        keys = None if self.keys is None else list(self.keys)
        return {**config, "keys": keys, "mask_value": self.mask_value}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VocabLayer":
        """Make a layer from a config, which other classes of this name left the keys out of."""
        if "keys" not in config:
            raise TypeError(message("config", "must have the `keys`", config=config))
        return cls(**config)

    def _check_dtype(self, dtype: str) -> None:
        keys = self._known_keys
        kind = "int64" if dtype in INTEGERS else dtype
        if kind != self.key_dtype:
            expected = f"must be {_kind(keys)}, as the keys are"
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


def _kind(keys: tuple[Any, ...]) -> str:
    return "of type string" if isinstance(keys[0], str) else "of an integer type"


def _batches(data: Any) -> Iterator[Any]:
    """Yield the batches of a dataset, or the data as the only one."""
    import tensorflow as tf

    whole = isinstance(data, str | bytes | list | tuple | Mapping) or not isinstance(data, Iterable)
    # A symbolic tensor has a dtype, too, and no values.
    if whole or hasattr(data, "dtype") or tf.is_tensor(data) or is_pandas(data):
        yield data
    else:
        yield from data


def _checked_keys(keys: Any, name: str = "keys") -> tuple[Any, ...]:
    unordered = isinstance(keys, (str, bytes, set, frozenset, Mapping))
    if unordered or not isinstance(keys, Iterable) or getattr(keys, "ndim", 1) != 1:
        expected = "must be an ordered collection of strings or of integers"
        raise TypeError(message(name, expected, **{name: keys}))
    plain = tuple(_plain_key(f"{name}[{place}]", key) for place, key in enumerate(keys))
    if not plain:
        raise ValueError(message(name, "must not be empty", **{name: keys}))
    _check_one_type(plain, name)
    if len(set(plain)) < len(plain):
        repeated = [key for key, count in Counter(plain).items() if count > 1]
        raise ValueError(message(name, "must not repeat a key", repeated=repeated[:5]))
    return plain


def _check_one_type(keys: tuple[Any, ...], name: str) -> None:
    for place, key in enumerate(keys):
        if type(key) is not type(keys[0]):
            expected = "must be all strings or all integers"
            first_others = {f"{name}[0]": keys[0], f"{name}[{place}]": key}
            raise TypeError(message(name, expected, **first_others))


def _plain_key(name: str, key: Any) -> Any:
    """Return `key`, which may be a NumPy scalar or bytes, as a plain str or int."""
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise ValueError(message(name, "must be valid UTF-8", **{name: key})) from None
    if isinstance(key, str):
        return plain_string(name, key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if int(key) not in _INT64:
            raise ValueError(message(name, "must fit into int64", **{name: key}))
        return int(key)
    raise TypeError(message(name, "must be a string or an integer", **{name: key}))
