"""Pooling of a history to one vector."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from din_layers._checks import Shape, as_list, check_bool, check_choice, check_id, first_shape
from din_layers._history import (
    History,
    HistoryReader,
    Tensor,
    masks_of,
    wide_dtype,
)
from din_layers._numeric_layer import NumericLayer


def _sum(history: History, x: Tensor) -> Tensor:
    return history.sum(history.keep(x))


def _mean(history: History, x: Tensor) -> Tensor:
    return history.mean(history.keep(x))


def _sqrtn(history: History, x: Tensor) -> Tensor:
    count = ops.cast(history.non_empty(history.count, 1.0), x.dtype)
    return _sum(history, x) / ops.sqrt(count)


_MODES: dict[str, Callable[[History, Tensor], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "max": History.max,
    "sqrtn": _sqrtn,
}


@keras.saving.register_keras_serializable(package="din_layers")
class SequencePoolingLayer(NumericLayer):
    """Pool the valid events of each history to one vector.

    Args:
        mode: `"sum"`, `"mean"`, `"max"` or `"sqrtn"` (the sum divided by the square root of the
            number of valid events).
        supports_masking: If `True`, calling the layer on a dense sequence without a mask is a
            ValueError. Keras's attribute of this name is always `True`: the layer reads masks
            in any case.
        hist_mask_value: The id of an invalid position, where ids tell which positions are valid.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: The sequence, float (batch, time, dim), dense or `tf.RaggedTensor`; or a list of
            it and of what tells which positions are valid: integer lengths (batch,) or
            (batch, 1), where more than `time` counts as `time` and less than 0 as 0; or integer
            or string ids (batch, time), valid where they differ from `hist_mask_value`. Beside
            a sequence of one position, (batch, 1) are lengths unless `hist_mask_value` is set.
        mask: The Keras mask, boolean (batch, time); Keras passes the one that
            `Embedding(mask_zero=True)` and `Masking` attach to the sequence.

    All sources of validity are ANDed; without any, every position is valid. Invalid positions may
    hold anything, NaN included, and get zero gradients.

    Cost:
        A dense sequence costs what all its positions cost, a ragged one what its events cost.

    Output shape:
        (batch, 1, dim) in the compute dtype; zeros for a history without valid events. Carries no
        mask.

    Raises:
        ValueError: An unknown mode, a wrong shape, or no mask with `supports_masking=True`.
        TypeError: Lengths or ids of a wrong dtype.

    Example:
        >>> sequence = np.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]], "float32")
        >>> layer = din_layers.SequencePoolingLayer("mean")
        >>> layer([sequence, np.array([2])]).numpy()
        array([[[2., 4.]]], dtype=float32)
    """

    def __init__(
        self,
        mode: str = "mean",
        supports_masking: bool = False,
        hist_mask_value: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mode = check_choice("mode", mode, _MODES)
        self.mask_required = check_bool("supports_masking", supports_masking)
        self.hist_mask_value = check_id("hist_mask_value", hist_mask_value)
        self.reader = HistoryReader.of_sequence(self.hist_mask_value, self.mask_required)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        sequence, companions, masks = self._checked(inputs, mask)
        history = self.reader.read(sequence, companions, masks)
        x = history.aligned(sequence, wide_dtype(self.compute_dtype))
        pooled = _MODES[self.mode](history, x)
        return ops.cast(ops.expand_dims(pooled, 1), self.compute_dtype)

    def compute_output_spec(self, inputs: Tensor, mask: Tensor = None) -> keras.KerasTensor:
        sequence, _, _ = self._checked(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(sequence.shape), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return (batch, 1, dim) for the shape of the sequence, or a list that begins with it."""
        batch, _, dim = first_shape(input_shape)
        return (batch, 1, dim)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> None:
        """Return None: the output has no time axis left."""

    def _checked(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        inputs = as_list(inputs, 1, "a sequence or a list [sequence, lengths]")
        sequence, *companions = inputs
        masks = masks_of(mask, inputs)
        self.reader.check(sequence, companions, masks)
        return sequence, companions, masks

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mode": self.mode,
            "supports_masking": self.mask_required,
            "hist_mask_value": self.hist_mask_value,
        }
