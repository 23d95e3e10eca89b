"""Pooling of a history to one vector."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
from keras import ops

from din_layers._backend import Tensor
from din_layers._checks import check_choice
from din_layers._events import Events
from din_layers._sequence_layer import SequenceLayer
from din_layers._tensors import wide_dtype


def _sqrtn(events: Events) -> Tensor:
    total = events.sum()
    return total / ops.sqrt(ops.cast(events.history.divisor, total.dtype))


_MODES: dict[str, Callable[[Events], Tensor]] = {
    "sum": Events.sum,
    "mean": Events.mean,
    "max": Events.max,
    "sqrtn": _sqrtn,
}


@keras.saving.register_keras_serializable(package="din_layers")
class SequencePoolingLayer(SequenceLayer):
    """Pool the valid events of each history to one vector, or the tags of each event.

    Events may be nested: each has several tags, (batch, time, tags, dim). The tags of each event
    become one vector, (batch, time, dim). A mask tells the next layer which events have any tag;
    `keras.layers.TimeDistributed` would lose it.

    Args:
        mode: `"sum"`, `"mean"`, `"max"` or `"sqrtn"` (the sum divided by the square root of the
            number of valid events).
        mask_required: Whether a dense sequence without `lengths`, `ids` or a mask is a ValueError.
            Its name before 0.4, `supports_masking`, works with a warning.
        hist_mask_value: The id of an invalid position, if you pass `ids`.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: The sequence, float (batch, time, dim), dense or `tf.RaggedTensor`. The list
            `[sequence, lengths]` of earlier versions works too.
        {validity}

    For nested events the sequence is (batch, time, tags, dim), ids and mask are (batch, time,
    tags), and lengths, the numbers of tags, are (batch, time) or (batch, time, 1). A
    `tf.RaggedTensor` may be ragged in time, in tags or in both.

    Cost:
        That of all positions of a dense sequence, or of the events of a ragged one.

    Output shape:
        (batch, 1, dim) in the compute dtype, without a mask; zeros for a history without valid
        events. For nested events (batch, time, dim), ragged if the sequence is; zeros for an event
        without valid tags, which the mask for the next layer, (batch, time), marks as invalid.

    Raises:
        ValueError: An unknown mode, a wrong shape, or no mask with `mask_required=True`.
        TypeError: Lengths or ids of a wrong dtype.

    Example:
        >>> sequence = np.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]], "float32")
        >>> layer = din_layers.SequencePoolingLayer("mean")
        >>> layer(sequence, lengths=np.array([2])).numpy()
        array([[[2., 4.]]], dtype=float32)
    """

    axes: ClassVar = {"sequence": "batch time dim or batch time tags dim"}
    output_axes = "batch 1 dim"

    def __init__(
        self,
        mode: str = "mean",
        mask_required: bool = False,
        hist_mask_value: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(hist_mask_value, mask_required, **kwargs)
        self.mode = check_choice("mode", mode, _MODES)

    def call(self, inputs: Any, mask: Any = None) -> Tensor:
        given = self._read(inputs, mask)
        history = given.history
        events = history.events("sequence", given.sequence, wide_dtype(self.compute_dtype))
        pooled = _MODES[self.mode](events)
        return history.pooled(ops.cast(pooled, self.compute_dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
