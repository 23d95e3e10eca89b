"""DIN's attention pooling of a history by a candidate."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._checks import (
    LARGEST_SIZE,
    check_bool,
    check_choice,
    check_integer,
    check_normalization,
    check_number,
    message,
)
from din_layers._dice import Dice
from din_layers._events import Events
from din_layers._history import History, OfRows
from din_layers._inputs import Inputs
from din_layers._local_activation_unit import Activation, LocalActivationUnit
from din_layers._sequence_layer import SequenceLayer
from din_layers._skip_padding import attend_to_events
from din_layers._tensors import wide_dtype


@keras.saving.register_keras_serializable(package="din_layers")
class AttentionPoolingLayer(SequenceLayer):
    """Pool a history to one vector for each query, by how strongly its events answer the query.

    DIN's local activation unit scores every pair of query q and event k by an MLP on
    `[q, k, q - k, q * k]` and a linear unit; the scores, normalised or not, weight the events.

    Args:
        att_hidden_units: The sizes of the MLP's hidden layers.
        att_activation: The activation of the hidden layers: what `keras.layers.Dense` takes, a
            Keras layer (each hidden layer gets its own copy), `"prelu"` or `"dice"`. Invalid
            positions enter neither the statistics of `Dice` or `BatchNormalization` nor the loss
            of an `activity_regularizer`, which is the mean over pairs of query and event.
        weight_normalization: `"softmax"` or `True`: the weights are the softmax of the scores over
            the valid events. `None` or `False`: they are the scores, as in the paper.
        mode: `"sum"`, the weighted sum of the events, or `"sequence"`, the weighted events (for
            one query only).
        hist_mask_value: The id of an invalid position, an integer or a string like the ids.
        scale: Whether to divide the scores by the square root of `dim`.
        skip_padding: Whether to compute only the valid events of padded input, with the same
            results. `None`: where that pays, as far as the backend can know. TensorFlow's graphs
            for inference, which are what is exported, compute the padding with `None` and skip it
            with `True`. On JAX and under XLA the events are scored in loops, which have no second
            derivatives and no forward mode: use `False` for these. Some code computes the padding
            even with `True`: `torch.compile`, eager code on JAX, a JAX batch that is spread over
            devices, and JAX and XLA if an activation other than `Dice` has batch statistics,
            random numbers or losses.
        dropout: The share of the weights to drop in training, 0 to 1, as in
            `keras.layers.Attention`.
        seed: The seed of `dropout`.
        kernel_initializer: Initializer of all kernels.
        bias_initializer: Initializer of all biases.
        kernel_regularizer: Regularizer of all kernels.
        bias_regularizer: Regularizer of all biases.
        kernel_constraint: Constraint of all kernels.
        bias_constraint: Constraint of all biases.
        mask_required: Whether dense keys without `lengths`, `ids` or a mask are a ValueError.
        use_query_mask: Whether, with `mode="sum"`, the mask of `query` goes on to the next layer,
            and padded queries stay out of batch statistics. Files of versions before 0.5, which
            did neither, load with `False`.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list `[query, keys]`. `query`, float (batch, queries, dim), holds the candidates;
            `keys`, float (batch, time, dim), the history, dense or `tf.RaggedTensor`. The list
            `[query, keys, history_ids]` of earlier versions works too.
        return_attention_scores: Whether to return `(output, scores)`.
        {validity}

    Padded queries get results too. In training these differ from those at inference if the
    activation masks its output, as `Dice` does; their loss does not count.

    Cost:
        That of the valid events where padding is skipped, and for ragged keys; otherwise that of
        batch x time positions. The layer never builds the (batch, time, 4 dim) concatenation, and
        computes what depends on the history alone once for all queries.

    Output shape:
        `mode="sum"`: (batch, queries, dim); the mask of `query` goes on to the next layer.
        `mode="sequence"`: (batch, time, dim), ragged if `keys` is, zero at invalid positions; the
        mask of `keys` goes on. The scores are dense, (batch, queries, time), zero at invalid
        positions; they are the weights after normalisation and dropout. All have the compute
        dtype. A history without valid events gives zeros.

    Raises:
        ValueError: An argument out of range, a wrong shape, or no mask with `mask_required=True`.
        TypeError: An argument of a wrong type, ids or lengths of a wrong dtype.

    Example:
        >>> layer = din_layers.AttentionPoolingLayer(att_hidden_units=(8, 4))
        >>> query = np.ones((2, 1, 3), "float32")
        >>> keys = np.ones((2, 5, 3), "float32")
        >>> history_ids = np.array([[7, 3, 2, 0, 0], [0, 0, 0, 0, 0]])
        >>> output, scores = layer([query, keys], ids=history_ids, return_attention_scores=True)
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

    axes: ClassVar = {"query": "batch queries dim", "keys": "batch time dim"}
    ids_first = True
    has_weights = True

    def __init__(
        self,
        att_hidden_units: Sequence[int] = (80, 40),
        att_activation: Any = "sigmoid",
        weight_normalization: bool | str | None = "softmax",
        mode: str = "sum",
        hist_mask_value: int | str = 0,
        scale: bool = False,
        skip_padding: bool | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        mask_required: bool = False,
        use_query_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        dense_layers = kwargs.pop("dense_layers", None)  # out of the config of a quantized layer
        super().__init__(hist_mask_value, mask_required, **kwargs)
        self.att_hidden_units = _check_units(att_hidden_units)
        self.att_activation = _get_activation(att_activation)
        self.weight_normalization = check_normalization(weight_normalization, ("softmax", None))
        self.mode = check_choice("mode", mode, ("sum", "sequence"))
        self.output_axes = "batch queries dim" if mode == "sum" else "batch time dim"
        self.scale = check_bool("scale", scale)
        self.skip_padding = (
            None if skip_padding is None else check_bool("skip_padding", skip_padding)
        )
        self.use_query_mask = check_bool("use_query_mask", use_query_mask)
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)
        largest = _backend.largest_seed()
        self.seed = None if seed is None else check_integer("seed", seed, 0, largest)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        # The names are those of the weights, and without them Keras would count.
        *hidden, last = [
            *(self._dense(units, f"hidden_{i}") for i, units in enumerate(self.att_hidden_units)),
            self._dense(1, "score"),
        ]
        if dense_layers:
            *hidden, last = map(_with_changes, [*hidden, last], dense_layers)
        # No underscore: the name is the path of the weights in files.
        self.unit = LocalActivationUnit(
            [(dense, self._activation(f"activation_{i}")) for i, dense in enumerate(hidden)],
            last,
            name="unit",
            dtype=self.dtype_policy,
        )
        if not self.trainable:  # out of a config, whose inner layers were made just now
            self.unit.trainable = False
        self._score_dropout = keras.layers.Dropout(
            self.dropout, seed=self.seed, dtype=self.dtype_policy
        )

    def _dense(self, units: int, name: str) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            name=name,
            # An initializer gives the same values each time: every layer needs its own.
            kernel_initializer=_copy(self.kernel_initializer),
            bias_initializer=_copy(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
        )

    def _activation(self, name: str) -> Activation:
        if self.att_activation == "dice":
            return Dice(name=name, dtype=self.dtype_policy)
        if isinstance(self.att_activation, keras.Layer):
            layer: Activation = _copy(self.att_activation, name=name, dtype=self.dtype_policy)
            return layer
        function: Activation = self.att_activation
        return function

    def build(self, input_shape: Any) -> None:
        self._dim = self._sizes(self.input_names.shapes(input_shape))["dim"]
        self.unit.build((None, self._dim))

    def enable_lora(self, rank: int, **kwargs: Any) -> None:
        """Freeze the kernels and train matrices of a low rank beside them.

        Args:
            rank: The rank.
            **kwargs: As in `keras.layers.Dense.enable_lora`.
        """
        for dense in self.unit.dense_layers:
            dense.enable_lora(rank, **kwargs)

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        given = self._read(inputs, mask)
        history, keys, query = given.history, given.sequence, given.tensors["query"]
        query = _backend.same_sizes("query", query, keys, axes=1)
        if self.mode == "sequence":
            query = _backend.single("query", query)
        # A query of a row without events decides nothing: were it NaN, the gradients would be.
        query = history.where_events(ops.cast(query, self.compute_dtype))
        of_rows = self.unit.of_rows(query, self._query_mask(given) if training else None)

        def attend(history: History) -> tuple[Tensor, Events]:
            return self._attend(history, keys, of_rows, training)

        output, weights = attend_to_events(self.skip_padding, attend, history, self.unit, training)
        if not return_attention_scores:
            return output
        scores = ops.transpose(weights.padded(), (0, 2, 1))
        return output, ops.cast(scores, self.compute_dtype)

    def _attend(
        self, history: History, keys: Tensor, of_rows: OfRows, training: Any
    ) -> tuple[Tensor, Events]:
        dtype = wide_dtype(self.compute_dtype)
        # Ones where invalid: they weigh 0 in any case, and some activations, such as one that
        # divides by a norm, have no gradient at the 0 that a query of zeros would make of zeros.
        events = history.events("keys", keys, dtype).filled(1.0)
        scores = history.scores(
            self.unit, ops.cast(events.values, self.compute_dtype), of_rows, training
        )
        weights = self._weights(Events(history, ops.cast(scores, dtype)), training)
        return ops.cast(self._pool(events, weights), self.compute_dtype), weights

    def _weights(self, scores: Events, training: Any) -> Events:
        dtype = scores.values.dtype
        if self.scale:
            scores = scores.map(lambda values: values / ops.sqrt(ops.cast(self._dim, dtype)))
        weights = scores.softmax() if self.weight_normalization else scores.filled(0.0)
        if self.dropout:
            weights = weights.map(
                lambda values: ops.cast(self._score_dropout(values, training=training), dtype)
            )
        return weights

    def _pool(self, events: Events, weights: Events) -> Tensor:
        if self.mode == "sum":
            return weights.weighted_sum(events)
        # There is one query: its axis gives way to that of `dim`. A graph may not know it is one.
        return events.times(weights.map(lambda values: values[..., :1])).restored()

    def compute_output_spec(
        self,
        inputs: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        given = self._read(inputs, mask)
        output = self._output_spec(given)
        if not return_attention_scores:
            return output
        shape = (output.shape[0], given.tensors["query"].shape[1], given.sequence.shape[1])
        return output, keras.KerasTensor(shape, self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of what the output has the axis of: the events or the queries."""
        if self.mode == "sequence":
            return super().compute_mask(inputs, previous_mask)
        return self._query_mask(self._open(inputs, previous_mask))

    def _query_mask(self, given: Inputs) -> Tensor:
        used = self.use_query_mask and self.mode == "sum"
        return given.other_masks.get("query") if used else None

    def _check(self, given: Inputs) -> None:
        super()._check(given)
        query = given.tensors["query"]
        if self.mode == "sequence" and _backend.known_size(query, 1) not in (1, None):
            expected = 'must have shape (batch, 1, dim) when `mode="sequence"`'
            received = {f"{name}_shape": tuple(x.shape) for name, x in given.tensors.items()}
            raise ValueError(message("query", expected, **received))

    def get_config(self) -> dict[str, Any]:
        changes = [_changes(dense) for dense in self.unit.dense_layers]
        return {
            **super().get_config(),
            **({"dense_layers": changes} if any(changes) else {}),
            "att_hidden_units": list(self.att_hidden_units),
            "att_activation": self.att_activation
            if self.att_activation == "dice"
            else keras.activations.serialize(self.att_activation),
            "weight_normalization": self.weight_normalization,
            "mode": self.mode,
            "scale": self.scale,
            "skip_padding": self.skip_padding,
            "use_query_mask": self.use_query_mask,
            "dropout": self.dropout,
            "seed": self.seed,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttentionPoolingLayer":
        # What a model was trained on, it goes on with.
        layer: AttentionPoolingLayer = super().from_config({"use_query_mask": False, **config})
        return layer


def _check_units(units: Any) -> tuple[int, ...]:
    if isinstance(units, str | bytes | bytearray) or not isinstance(units, Sequence):
        expected = "must be a list or tuple of integers"
        raise TypeError(message("att_hidden_units", expected, att_hidden_units=units))
    return tuple(check_integer("att_hidden_units", size, 1, LARGEST_SIZE) for size in units)


def _get_activation(identifier: Any) -> Any:
    if isinstance(identifier, str) and identifier == "dice":
        return identifier
    if isinstance(identifier, str) and identifier == "prelu":  # in Keras a layer alone
        return keras.layers.PReLU()
    expected = (
        'must be "dice", "prelu", a Keras layer, or the name or function of an activation in '
        "`keras.activations`"
    )
    if isinstance(identifier, type):
        raise TypeError(message("att_activation", expected, att_activation=identifier))
    try:
        return keras.activations.get(identifier)
    except (TypeError, ValueError) as error:
        if identifier and isinstance(identifier, dict):
            raise  # out of a saved file: Keras says what is wrong with it, `safe_mode` for one
        raise ValueError(message("att_activation", expected, att_activation=identifier)) from error


def _changes(dense: keras.layers.Dense) -> dict[str, Any]:
    """Return what `quantize` and `enable_lora` change of a layer's config."""
    config = dense.get_config()
    names = ["quantization_config", "lora_rank", "lora_alpha"]
    names += ["dtype"] if dense.quantization_mode else []
    return {name: config[name] for name in names if config.get(name)}


def _with_changes(dense: keras.layers.Dense, changes: dict[str, Any]) -> keras.layers.Dense:
    return _copy(dense, **changes) if changes else dense


def _copy(original: Any, **overrides: Any) -> Any:
    if not hasattr(original, "get_config"):  # None, or a plain function
        return original
    return original.__class__.from_config({**original.get_config(), **overrides})
