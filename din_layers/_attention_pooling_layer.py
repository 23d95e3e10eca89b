"""DIN's attention pooling of a history by a candidate."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from din_layers._checks import (
    LARGEST_SIZE,
    Shape,
    as_list,
    check_axes,
    check_bool,
    check_choice,
    check_id,
    check_integer,
    check_number,
    check_numeric,
    message,
)
from din_layers._dice import Dice
from din_layers._history import (
    History,
    HistoryReader,
    Tensor,
    is_ragged,
    masks_of,
    wide_dtype,
)
from din_layers._local_activation_unit import Activation, LocalActivationUnit
from din_layers._numeric_layer import NumericLayer
from din_layers._valid_positions import valid_positions

_INPUTS = "a list [query, keys] or [query, keys, history_ids]"


@keras.saving.register_keras_serializable(package="din_layers")
class AttentionPoolingLayer(NumericLayer):
    """Pool a history to one vector for each query, by how strongly its events answer the query.

    DIN's local activation unit scores every pair of query q and event k by an MLP on
    `[q, k, q - k, q * k]` and a linear unit; the scores, normalised or not, weight the events.

    Args:
        att_hidden_units: The sizes of the MLP's hidden layers.
        att_activation: The activation of the hidden layers: what `keras.layers.Dense` takes, a
            Keras layer (each hidden layer gets its own copy), or `"dice"`. Invalid positions do
            not enter the statistics of `Dice` or `BatchNormalization`.
        weight_normalization: Whether the weights are the softmax of the scores over the valid
            events, or the scores themselves, as in the paper.
        mode: `"sum"`, the weighted sum of the events, or `"sequence"`, the weighted events (for
            one query only).
        hist_mask_value: The id of an invalid position, an integer or a string like the ids.
        scale: Whether to divide the scores by the square root of `dim`.
        skip_padding: Whether padded input is computed like ragged input, from its valid events
            alone. It pays where at most half of the positions are valid; the number of events
            varies, so XLA cannot compile the layer then. Other backends than TensorFlow compute the
            padding all the same.
        dropout: The share of the weights that is dropped in training, 0 to 1, as in
            `keras.layers.Attention`.
        seed: The seed of `dropout`.
        kernel_initializer: Initializer of all kernels.
        bias_initializer: Initializer of all biases.
        kernel_regularizer: Regularizer of all kernels.
        bias_regularizer: Regularizer of all biases.
        kernel_constraint: Constraint of all kernels.
        bias_constraint: Constraint of all biases.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list `[query, keys]` or `[query, keys, history_ids]`. `query`, float
            (batch, queries, dim), holds the candidates; `keys`, float (batch, time, dim), the
            history, dense or `tf.RaggedTensor`; `history_ids`, integer or string (batch, time),
            are valid where they differ from `hist_mask_value`. Instead of ids, or beside them,
            integer lengths (batch,) or (batch, 1) may stand there, where more than `time` counts
            as `time` and less than 0 as 0. Beside one position, (batch, 1) are ids.
        mask: The Keras mask of the history, boolean (batch, time), or a list of one for each
            input, that of the query first; Keras passes those that `Embedding(mask_zero=True)`
            and `Masking` attach. The mask of `query` is not used: every query gets its result.
        return_attention_scores: Whether to return `(output, scores)`.

    All sources of validity are ANDed; without any, every position is valid. Invalid positions may
    hold anything, NaN included, and get zero gradients.

    Cost:
        Dense keys cost what batch x time positions cost, padding included; ragged ones, or
        `skip_padding=True`, what the events cost. The (batch, time, 4 dim) concatenation is never
        built, and of the first hidden layer's work the part that only the history enters is done
        once for all queries. `python benchmarks/run.py` measures it.

    Output shape:
        `mode="sum"`: (batch, queries, dim), without a mask. `mode="sequence"`:
        (batch, time, dim), ragged if `keys` is, zero at invalid positions; the mask goes on to
        the next layer. The scores are dense, (batch, queries, time), zero at invalid positions;
        they are the weights after normalisation and dropout. All have the compute dtype. A
        history without valid events gives zeros.

    Raises:
        ValueError: An argument out of range or a wrong shape.
        TypeError: An argument of a wrong type, ids or lengths of a wrong dtype.

    Example:
        >>> layer = din_layers.AttentionPoolingLayer(att_hidden_units=(8, 4))
        >>> query = np.ones((2, 1, 3), "float32")
        >>> keys = np.ones((2, 5, 3), "float32")
        >>> history_ids = np.array([[7, 3, 2, 0, 0], [0, 0, 0, 0, 0]])
        >>> output, scores = layer([query, keys, history_ids], return_attention_scores=True)
        >>> output.numpy().round(4)
        array([[[1., 1., 1.]],
        <BLANKLINE>
               [[0., 0., 0.]]], dtype=float32)
        >>> scores.numpy().round(4)
        array([[[0.3333, 0.3333, 0.3333, 0.    , 0.    ]],
        <BLANKLINE>
               [[0.    , 0.    , 0.    , 0.    , 0.    ]]], dtype=float32)

    Reference:
        Deep Interest Network for Click-Through Rate Prediction, section 4.3,
        https://arxiv.org/abs/1706.06978
    """

    def __init__(
        self,
        att_hidden_units: Sequence[int] = (80, 40),
        att_activation: Any = "sigmoid",
        weight_normalization: bool = True,
        mode: str = "sum",
        hist_mask_value: int | str = 0,
        scale: bool = False,
        skip_padding: bool = False,
        dropout: float = 0.0,
        seed: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.att_hidden_units = _check_units(att_hidden_units)
        self.att_activation = _get_activation(att_activation)
        self.weight_normalization = check_bool("weight_normalization", weight_normalization)
        self.mode = check_choice("mode", mode, ("sum", "sequence"))
        self.hist_mask_value = check_id("hist_mask_value", hist_mask_value)
        self.scale = check_bool("scale", scale)
        self.skip_padding = check_bool("skip_padding", skip_padding)
        # How many events there are is known at run time only, which XLA cannot compile.
        self.supports_jit = not self._skips_padding
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)
        self.seed = None if seed is None else check_integer("seed", seed, 0, _largest_seed())
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

        self.reader = HistoryReader(
            "keys", "history_ids", self.hist_mask_value, single_event_ids=True
        )
        self.unit = LocalActivationUnit(
            [(self._dense(units), self._activation()) for units in self.att_hidden_units],
            self._dense(1),
            dtype=self.dtype_policy,
        )
        self.score_dropout = keras.layers.Dropout(
            self.dropout, seed=self.seed, dtype=self.dtype_policy
        )

    @property
    def _skips_padding(self) -> bool:
        # A model trained with it must load everywhere: elsewhere the padding is computed.
        return self.skip_padding and keras.backend.backend() == "tensorflow"

    def _dense(self, units: int) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            # An initializer gives the same values each time: every layer needs its own.
            kernel_initializer=_copy(self.kernel_initializer),
            bias_initializer=_copy(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
        )

    def _activation(self) -> Activation:
        if self.att_activation == "dice":
            return Dice(dtype=self.dtype_policy)
        if isinstance(self.att_activation, keras.Layer):
            layer: Activation = _copy(self.att_activation, dtype=self.dtype_policy)
            return layer
        function: Activation = self.att_activation
        return function

    def build(self, input_shape: Any) -> None:
        query, keys = _query_and_keys(input_shape)
        self._check_shapes(query, keys)
        self.dim = keys[-1]
        self.unit.build((None, self.dim))

    def call(
        self, inputs: Tensor, mask: Tensor = None, return_attention_scores: bool = False
    ) -> Any:
        query, keys, companions, masks = self._checked(inputs, mask)
        query = ops.cast(query, self.compute_dtype)
        history = self.reader.read(keys, companions, masks)
        if self._skips_padding:
            history = history.packed()
        # Ones where invalid: they weigh 0 in any case, and some activations, such as one that
        # divides by a norm, have no gradient at the 0 that a query of zeros would make of zeros.
        events = history.events(keys, wide_dtype(self.compute_dtype), fill=1.0)
        weights = self._weights(history, events, query)
        output = self._pool(history, events, weights)
        if not return_attention_scores:
            return output
        scores = ops.transpose(history.pad(weights), (0, 2, 1))
        return output, ops.cast(scores, self.compute_dtype)

    def _weights(self, history: History, events: Tensor, query: Tensor) -> Tensor:
        scores = ops.cast(self.unit(events, query=query, history=history), events.dtype)
        if self.scale:
            scores = scores / ops.sqrt(ops.cast(events.shape[-1], scores.dtype))
        weights = history.softmax(scores) if self.weight_normalization else history.keep(scores)
        return ops.cast(self.score_dropout(weights), events.dtype)

    def _pool(self, history: History, events: Tensor, weights: Tensor) -> Tensor:
        if self.mode == "sum":
            return ops.cast(history.weighted_sum(weights, events), self.compute_dtype)
        # There is one query: its axis gives way to that of `dim`.
        weights = ops.expand_dims(ops.squeeze(weights, -1), -1)
        return history.restore(ops.cast(events * weights, self.compute_dtype))

    def compute_output_spec(
        self, inputs: Tensor, mask: Tensor = None, return_attention_scores: bool = False
    ) -> Any:
        query, keys, _, _ = self._checked(inputs, mask)
        shape = self.compute_output_shape([query.shape, keys.shape])
        ragged = self.mode == "sequence" and is_ragged(keys)
        output = keras.KerasTensor(shape, self.compute_dtype, ragged=ragged)
        if not return_attention_scores:
            return output
        scores = (shape[0], query.shape[1], keys.shape[1])
        return output, keras.KerasTensor(scores, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the shape of the output, without that of the scores."""
        query, keys = _query_and_keys(input_shape)
        batch = keys[0] if query[0] is None else query[0]
        return (batch, query[1] if self.mode == "sum" else keys[1], keys[2])

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> Tensor:
        """Return the mask of the weighted events, or None for their sum."""
        if self.mode == "sum":
            return None
        _, keys, companions, masks = self._checked(inputs, previous_mask)
        return valid_positions(self.reader, keys, companions, masks)

    def _checked(
        self, inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        inputs = as_list(inputs, 2, _INPUTS)
        query, keys, *companions = inputs
        if is_ragged(query):
            raise TypeError(message("query", "must be dense", query_shape=query.shape))
        check_numeric("query", query)
        self._check_shapes(tuple(query.shape), tuple(keys.shape))
        masks = masks_of(mask, inputs, unread=1)
        self.reader.check(keys, companions, masks)
        return query, keys, companions, masks

    def _check_shapes(self, query: tuple[int | None, ...], keys: tuple[int | None, ...]) -> None:
        axes = {"query": (query, "batch queries dim"), "keys": (keys, "batch time dim")}
        check_axes(**axes)
        received = {"query_shape": query, "keys_shape": keys}
        if keys[-1] is None or query[-1] is None:
            name = "keys" if keys[-1] is None else "query"
            raise ValueError(message(name, "must have a known `dim`", **received))
        if self.built and keys[-1] != self.dim:
            expected = f"must have the `dim` that the layer was built with, {self.dim}"
            raise ValueError(message("keys", expected, **received))
        if self.mode == "sequence" and query[1] not in (1, None):
            expected = 'must have shape (batch, 1, dim) when `mode="sequence"`'
            raise ValueError(message("query", expected, **received))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "att_hidden_units": list(self.att_hidden_units),
            "att_activation": _serialize_activation(self.att_activation),
            "weight_normalization": self.weight_normalization,
            "mode": self.mode,
            "hist_mask_value": self.hist_mask_value,
            "scale": self.scale,
            "skip_padding": self.skip_padding,
            "dropout": self.dropout,
            "seed": self.seed,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _query_and_keys(input_shape: Any) -> tuple[Shape, Shape]:
    several = isinstance(input_shape, list | tuple) and len(input_shape) > 1
    if not several or not isinstance(input_shape[0], list | tuple):
        raise ValueError(message("inputs", f"must be {_INPUTS}", input_shape=input_shape))
    query, keys, *_ = input_shape
    return tuple(query), tuple(keys)


def _check_units(units: Any) -> tuple[int, ...]:
    if isinstance(units, str | bytes | bytearray) or not isinstance(units, Sequence):
        expected = "must be a list or tuple of integers"
        raise TypeError(message("att_hidden_units", expected, att_hidden_units=units))
    return tuple(check_integer("att_hidden_units", size, 1, LARGEST_SIZE) for size in units)


def _largest_seed() -> int:
    """Return the largest that Keras's `SeedGenerator` takes."""
    return {"tensorflow": 2**63, "jax": 2**32}.get(keras.backend.backend(), 2**31) - 1


def _get_activation(identifier: Any) -> Any:
    if isinstance(identifier, str) and identifier == "dice":
        return identifier
    expected = 'must be "dice", a Keras layer, or an activation that Keras knows'
    if isinstance(identifier, type):
        raise TypeError(message("att_activation", expected, att_activation=identifier))
    try:
        return keras.activations.get(identifier)
    except (TypeError, ValueError) as error:
        if identifier and isinstance(identifier, dict):
            raise  # out of a saved file: Keras says what is wrong with it, `safe_mode` for one
        raise ValueError(message("att_activation", expected, att_activation=identifier)) from error


def _serialize_activation(activation: Any) -> Any:
    if activation == "dice":
        return activation
    if isinstance(activation, keras.Layer):
        return keras.saving.serialize_keras_object(activation)
    return keras.activations.serialize(activation)


def _copy(original: Any, **overrides: Any) -> Any:
    if not hasattr(original, "get_config"):  # None, or a plain function
        return original
    return original.__class__.from_config({**original.get_config(), **overrides})
