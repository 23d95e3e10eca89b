"""Weighting of the events of a history."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers._checks import (
    Shape,
    as_list,
    check_axes,
    check_bool,
    check_choice,
    check_id,
    check_numeric,
    check_ragged,
    first_shape,
    message,
)
from din_layers._history import (
    History,
    HistoryReader,
    Tensor,
    is_ragged,
    masks_of,
    wide_dtype,
)
from din_layers._numeric_layer import NumericLayer
from din_layers._valid_positions import valid_positions


def _divide_by_sum(history: History, weights: Tensor) -> Tensor:
    weights = _relative(history, weights)
    return ops.divide_no_nan(weights, history.spread(history.sum(weights)))


def _divide_by_norm(history: History, weights: Tensor) -> Tensor:
    weights = _relative(history, weights)
    squares = history.sum(ops.square(weights))
    # Where `squares` is 0, all weights are; the root of 1 has a finite gradient there.
    norm = ops.sqrt(ops.where(squares > 0, squares, ops.ones_like(squares)))
    return weights / history.spread(norm)


def _relative(history: History, weights: Tensor) -> Tensor:
    """Divide by about the largest weight, so that no sum overflows and no square vanishes.

    The normalised weights, and so their gradients, do not depend on this divisor.
    """
    top = ops.stop_gradient(history.max(ops.abs(weights)))
    # XLA multiplies by the reciprocal, and takes that for 0 where it is no normal number.
    largest = float(np.finfo(keras.backend.standardize_dtype(weights.dtype)).max) / 2**8
    return ops.divide_no_nan(weights, history.spread(ops.minimum(top, largest)))


_NORMALISE: dict[str | None, Callable[[History, Tensor], Tensor]] = {
    "softmax": History.softmax,
    "sum": _divide_by_sum,
    "sqrtn": _divide_by_norm,
    None: lambda history, weights: weights,
}
_SYNONYMS = {True: "softmax", False: None}


@keras.saving.register_keras_serializable(package="din_layers")
class WeightedSequenceLayer(NumericLayer):
    """Multiply each event of a history by its weight.

    Args:
        weight_normalization: What happens to the weights of a history first: `True` or
            `"softmax"`, the softmax over its valid events; `"sum"`, division by their sum;
            `"sqrtn"`, division by the root of the sum of their squares; `False` or `None`,
            nothing. A history whose sum, or sum of squares, is 0 gives zeros.
        supports_masking: If `True`, calling the layer on a dense sequence without a mask is a
            ValueError. Keras's attribute of this name is always `True`: the layer reads masks
            in any case.
        hist_mask_value: The id of an invalid position, where ids tell which positions are valid.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Followed by a `SequencePoolingLayer`, this is `tf.nn.embedding_lookup_sparse` with weights:

    ==========  ==================================  ========================================
    combiner    with weights                        without weights
    ==========  ==================================  ========================================
    `"sum"`     normalization `None`, mode "sum"    `SequencePoolingLayer("sum")` alone
    `"mean"`    normalization `"sum"`, mode "sum"   `SequencePoolingLayer("mean")` alone
    `"sqrtn"`   normalization `"sqrtn"`, mode "sum" `SequencePoolingLayer("sqrtn")` alone
    ==========  ==================================  ========================================

    Mode "mean" after a normalisation divides by the number of events a second time.

    Call arguments:
        inputs: A list of the sequence, float (batch, time, dim), and last the weights, float
            (batch, time) or (batch, time, 1), ragged if the sequence is. Between them may stand
            what tells which positions are valid: integer lengths (batch,) or (batch, 1), where
            more than `time` counts as `time` and less than 0 as 0; or integer or string ids
            (batch, time), valid where they differ from `hist_mask_value`. Beside a sequence of
            one position, (batch, 1) are lengths unless `hist_mask_value` is set.
        mask: The Keras mask, boolean (batch, time), or a list of one for each input; Keras passes
            those that `Embedding(mask_zero=True)` and `Masking` attach.

    All sources of validity are ANDed; without any, every position is valid. Invalid positions may
    hold anything, NaN included, in the sequence and in the weights, and get zero gradients.

    Cost:
        A dense sequence costs what all its positions cost, a ragged one what its events cost.

    Output shape:
        (batch, time, dim) in the compute dtype, ragged if the sequence is, zero at invalid
        positions. The mask goes on to the next layer.

    Raises:
        ValueError: An unknown normalization, a wrong shape, or no mask with
            `supports_masking=True`.
        TypeError: Lengths or ids of a wrong dtype.

    Example:
        >>> sequence = np.array([[[1.0], [2.0], [9.0]]], "float32")
        >>> weights = np.array([[1.0, 3.0, 7.0]], "float32")
        >>> weighted = din_layers.WeightedSequenceLayer("sum")([sequence, np.array([2]), weights])
        >>> weighted.numpy()
        array([[[0.25],
                [1.5 ],
                [0.  ]]], dtype=float32)
        >>> din_layers.SequencePoolingLayer("sum")(weighted).numpy()
        array([[[1.75]]], dtype=float32)
    """

    def __init__(
        self,
        weight_normalization: bool | str | None = True,
        supports_masking: bool = False,
        hist_mask_value: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        choices = [*_SYNONYMS, *_NORMALISE]
        self.weight_normalization = check_choice(
            "weight_normalization", weight_normalization, choices
        )
        self.mask_required = check_bool("supports_masking", supports_masking)
        self.hist_mask_value = check_id("hist_mask_value", hist_mask_value)
        self.reader = HistoryReader.of_sequence(self.hist_mask_value, self.mask_required)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        sequence, companions, weights, masks = self._checked(inputs, mask)
        history = self.reader.read(sequence, companions, masks)
        dtype = wide_dtype(self.compute_dtype)
        weights = history.events(weights, dtype)
        events = history.events(sequence, dtype)
        if len(weights.shape) < len(events.shape):
            weights = ops.expand_dims(weights, -1)
        weights = self._normalise(history, weights)
        return history.restore(ops.cast(events * weights, self.compute_dtype))

    def compute_output_spec(self, inputs: Tensor, mask: Tensor = None) -> keras.KerasTensor:
        sequence, *_ = self._checked(inputs, mask)
        shape = self.compute_output_shape(sequence.shape)
        return keras.KerasTensor(shape, self.compute_dtype, ragged=is_ragged(sequence))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the shape of the sequence from a list that begins with it."""
        return first_shape(input_shape)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> Tensor:
        sequence, companions, _, masks = self._checked(inputs, previous_mask)
        return valid_positions(self.reader, sequence, companions, masks)

    def _normalise(self, history: History, weights: Tensor) -> Tensor:
        name = self.weight_normalization
        return _NORMALISE[_SYNONYMS[name] if isinstance(name, bool) else name](history, weights)

    def _checked(
        self, inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        expected = "a list [sequence, weights] or [sequence, lengths, weights]"
        inputs = as_list(inputs, 2, expected)
        sequence, *companions, weights = inputs
        masks = masks_of(mask, inputs)
        self.reader.check(sequence, companions, masks)
        check_axes(
            "must have shape (batch, time) or (batch, time, 1)",
            sequence=(tuple(sequence.shape), "batch time dim"),
            weights=(
                tuple(weights.shape),
                "batch time" if len(weights.shape) == 2 else "batch time 1",
            ),
        )
        check_numeric("weights", weights)
        check_ragged("weights", weights, rows_of=sequence)
        if is_ragged(weights) != is_ragged(sequence):
            expected = "must be ragged if and only if `sequence` is"
            received = {
                "sequence_shape": tuple(sequence.shape),
                "weights_shape": tuple(weights.shape),
            }
            raise TypeError(message("weights", expected, **received))
        return sequence, companions, weights, masks

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_normalization": self.weight_normalization,
            "supports_masking": self.mask_required,
            "hist_mask_value": self.hist_mask_value,
        }
