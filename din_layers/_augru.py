"""DIEN's recurrent layer, which lets the attention decide how much each event changes the state."""

import inspect
from typing import Any, ClassVar

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._checks import (
    LARGEST_SIZE,
    Shape,
    check_axes,
    check_bool,
    check_integer,
    message,
)
from din_layers._history import History
from din_layers._inputs import Inputs
from din_layers._sequence_layer import SequenceLayer


@keras.saving.register_keras_serializable(package="din_layers")
class AUGRUCell(keras.layers.GRUCell):
    """One step of `AUGRU`: a GRU's step, taken as far as the score says.

    The last feature of the input is the score, the others are the event: `keras.layers.RNN` takes
    one tensor. Arguments, weights and states are those of `keras.layers.GRUCell`, without dropout.
    """

    def build(self, input_shape: Any) -> None:
        super().build((*input_shape[:-1], input_shape[-1] - 1))

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        event, score = inputs[..., :-1], inputs[..., -1:]
        (state,) = states
        proposed, _ = super().call(event, states, training=training)
        # With proposed = (1 - u) state + u candidate, this is
        # (1 - score u) state + score u candidate; at a score of 0 it is the state to the last bit.
        state = (1 - score) * state + score * proposed
        return state, [state]


@keras.saving.register_keras_serializable(package="din_layers")
class AUGRU(SequenceLayer):
    """GRU with attentional update gate: events change the state as far as their scores say.

    For event x and score a of each step, with `*` elementwise and sigmoid as the
    `recurrent_activation`, tanh as the `activation`:

        u  = sigmoid(W_u x + U_u h + b_u)               update gate
        r  = sigmoid(W_r x + U_r h + b_r)               reset gate
        h~ = tanh(W_h x + b_h + r * (U_h h + c_h))      candidate
        h  = (1 - a u) * h + a u * h~                   new state

    The score scales the update gate: at 0 the state stays as it is, at 1 the step is that of a GRU.
    The reset gate applies after the recurrent product, as in the paper. The weights have the order
    and shapes of those of `keras.layers.GRU`, so you can copy them between the two. Keras's first
    gate is 1 - u, which keeps the old state; c_h is part of Keras's bias.

    Args:
        units: The size of the state.
        return_sequences: Whether to return the state after each event, not only after the last.
        return_state: Whether to return `(output, state)`, where `state` is the last one.
        activation: Activation of the candidate.
        recurrent_activation: Activation of the gates.
        use_bias: Whether gates and candidate have biases.
        kernel_initializer: Initializer of the kernel (dim, 3 units), which meets the events.
        recurrent_initializer: Initializer of the kernel (units, 3 units), which meets the state.
        bias_initializer: Initializer of the biases (2, 3 units): of the events, of the state.
        kernel_regularizer: Regularizer of the kernel.
        recurrent_regularizer: Regularizer of the recurrent kernel.
        bias_regularizer: Regularizer of the biases.
        kernel_constraint: Constraint of the kernel.
        recurrent_constraint: Constraint of the recurrent kernel.
        bias_constraint: Constraint of the biases.
        hist_mask_value: The id of an invalid position, if you pass `ids`.
        mask_required: Whether a dense sequence without `lengths`, `ids` or a mask is a ValueError.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list `[sequence, scores]`. The sequence is float (batch, time, dim), dense or
            `tf.RaggedTensor`; the scores are float (batch, time) or (batch, time, 1), ragged if
            the sequence is, or dense. They may also be (batch, 1, time), the form in which
            `AttentionPoolingLayer` returns the scores of one query. The list
            `[sequence, lengths, scores]` of earlier versions works too.
        initial_state: The state before the first event, float (batch, units), or a list that
            holds it, as in Keras. By default zeros.
        {validity}

    At invalid positions, wherever they stand, the state stays as it is. The layer does not
    normalise the scores; those of DIEN lie between 0 and 1.

    Output shape:
        (batch, units), without a mask. With `return_sequences=True` (batch, time, units), ragged
        if the sequence is; invalid positions hold the state before them, and the mask goes on to
        the next layer. With `return_state=True` also the last state, (batch, units). All have the
        compute dtype. A history without valid events gives the initial state.

    Raises:
        ValueError: An argument out of range, a wrong shape, or no mask with `mask_required=True`.
        TypeError: An argument of a wrong type, lengths or ids of a wrong dtype.

    Example:
        >>> sequence = np.ones((2, 3, 4), "float32")
        >>> scores = np.array([[0.2, 0.7, 0.1], [0.0, 0.0, 0.0]], "float32")
        >>> layer = din_layers.AUGRU(5, return_sequences=True)
        >>> states = layer([sequence, scores], lengths=np.array([2, 3]))
        >>> states.shape
        TensorShape([2, 3, 5])
        >>> bool((states[0, 2] == states[0, 1]).numpy().all())  # two events only: carried
        True
        >>> states[1, 2].numpy()  # no event counts
        array([0., 0., 0., 0., 0.], dtype=float32)

    Reference:
        Deep Interest Evolution Network for Click-Through Rate Prediction, sections 4.2 (the GRU)
        and 4.3 (AUGRU), https://arxiv.org/abs/1809.03672
    """

    axes: ClassVar = {
        "sequence": "batch time dim",
        "scores": "batch time or batch time 1 or batch 1 time",
    }
    optional = ("initial_state",)
    has_weights = True

    def __init__(
        self,
        units: int,
        return_sequences: bool = False,
        return_state: bool = False,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        hist_mask_value: int | str = 0,
        *,
        mask_required: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(hist_mask_value, mask_required, **kwargs)
        self.units = check_integer("units", units, 1, LARGEST_SIZE)
        self.return_sequences = check_bool("return_sequences", return_sequences)
        self.return_state = check_bool("return_state", return_state)
        self.output_axes = f"batch{' time' * self.return_sequences} {self.units}"
        self._state_hides_mask = False
        # In mixed precision in float32, as its weights are: a state in half precision stands still
        # under many small scores.
        cell = AUGRUCell(
            self.units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=check_bool("use_bias", use_bias),
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            name="cell",
            dtype=self.variable_dtype,
        )
        # No underscore: the name is the path of the weights in files.
        self.rnn = keras.layers.RNN(
            cell,
            return_sequences=self.return_sequences,
            return_state=True,
            name="rnn",
            dtype=self.variable_dtype,
        )

    def _keywords(self) -> tuple[str, ...]:
        keywords = super()._keywords()
        return keywords[:-1] if self._state_hides_mask else keywords

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AUGRU":
        layer: AUGRU = super().from_config(config)
        # Keras passes a layer no attached mask beside a second tensor. Before 0.4 `initial_state`
        # was one, so padding counted; models of then go on as they were trained.
        layer._state_hides_mask = "mask_required" not in config
        return layer

    def build(self, input_shape: Any) -> None:
        self._dim = self._sizes(self.input_names.shapes(input_shape))["dim"]
        self.rnn.build((None, None, self._dim + 1))

    def call(self, inputs: Any, mask: Any = None, initial_state: Any = None) -> Any:
        given = self._read(inputs, mask, initial_state=initial_state)
        history = given.history
        # Zero where invalid, the score too, and a score of 0 carries the state: the recurrence
        # itself needs no mask.
        steps = self._steps(history, given.sequence, given.tensors["scores"])
        start = keras.tree.flatten(given.tensors.get("initial_state", ()))
        start = [_backend.same_sizes("initial_state", x, given.sequence, axes=1) for x in start]
        output, state = self._recur(steps, start or None)
        output, state = (ops.cast(x, self.compute_dtype) for x in (output, state))
        if self.return_sequences:
            output = history.unpad(output)
        return (output, state) if self.return_state else output

    def _recur(self, steps: Tensor, initial_state: Any) -> tuple[Tensor, Tensor]:
        if steps.shape[1]:
            output, state = self.rnn(steps, initial_state=initial_state)
            return output, state
        # `keras.layers.RNN` cannot do without a step. Where there may be none, one that changes
        # nothing comes first.
        steps = ops.pad(steps, [[0, 0], [1, 0], [0, 0]])
        output, state = self.rnn(steps, initial_state=initial_state)
        return (output[:, 1:] if self.return_sequences else output), state

    def _steps(self, history: History, sequence: Tensor, scores: Tensor) -> Tensor:
        """Return the events (batch, time, dim + 1), each with its score as its last feature."""
        if _is_row(scores.shape):
            scores = ops.squeeze(scores, 1)
        events = history.events("sequence", sequence, self.variable_dtype)
        scores = history.events("scores", scores, self.variable_dtype).values
        column = ops.reshape(scores, (*ops.shape(events.values)[:-1], 1))
        return events.map(lambda values: ops.concatenate([values, column], -1)).padded()

    def compute_output_spec(self, inputs: Any, mask: Any = None, initial_state: Any = None) -> Any:
        output = self._output_spec(self._read(inputs, mask, initial_state=initial_state))
        if not self.return_state:
            return output
        return output, keras.KerasTensor((output.shape[0], self.units), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output, and with `return_state=True` that of the state."""
        output = super().compute_output_shape(input_shape)
        return (output, (output[0], self.units)) if self.return_state else output

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of the states after each event, or None for the last state."""
        mask = super().compute_mask(inputs, previous_mask)
        return [mask, None] if self.return_state else mask

    def _check(self, given: Inputs) -> None:
        super()._check(given)
        if "initial_state" in given.tensors:
            self._check_initial_state(given.sequence, given.tensors["initial_state"])

    def _check_initial_state(self, sequence: Tensor, initial_state: Any) -> None:
        states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
        if len(states) != 1:
            expected = "must be one state, or a list of one"
            raise ValueError(message("initial_state", expected, states=len(states)))
        check_axes(
            sequence=(tuple(sequence.shape), "batch time dim"),
            initial_state=(tuple(states[0].shape), f"batch {self.units}"),
        )

    def get_config(self) -> dict[str, Any]:
        config, cell = super().get_config(), self.rnn.cell.get_config()
        if self._state_hides_mask:
            del config["mask_required"]
        names = inspect.signature(AUGRU.__init__).parameters
        return {
            **config,
            **{name: value for name, value in cell.items() if name in names},
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
        }


def _is_row(shape: Shape) -> bool:
    """Tell (batch, 1, time) from (batch, time, 1); (batch, 1, 1) is one score in either form."""
    return len(shape) == 3 and shape[1] == 1 and shape[2] != 1
