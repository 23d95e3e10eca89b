"""The mask that a layer which keeps the time axis passes on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from din_layers._checks import check_bool, check_id, message
from din_layers._history import HistoryReader, Tensor, is_ragged


def valid_positions(
    reader: HistoryReader, sequence: Tensor, companions: Sequence[Tensor], masks: Sequence[Tensor]
) -> Tensor:
    """Return the mask (batch, time), ragged if the sequence is, or None where all is valid."""
    if not companions:
        if not masks:
            return None
        if len(masks) == 1 and is_ragged(masks[0]) == is_ragged(sequence):
            return masks[0]
    if isinstance(sequence, keras.KerasTensor):
        layer = ValidPositions(**dataclasses.asdict(reader))
        return layer(sequence, companions=list(companions), masks=list(masks))
    return _combine(reader, sequence, companions, masks)


def _combine(
    reader: HistoryReader, sequence: Tensor, companions: Sequence[Tensor], masks: Sequence[Tensor]
) -> Tensor:
    history = reader.read(sequence, companions, masks)
    return history.restore(history.valid)


def _checked_reader(
    sequence_name: str, companion_name: str, hist_mask_value: int | str, **flags: bool
) -> HistoryReader:
    for name, value in (("sequence_name", sequence_name), ("companion_name", companion_name)):
        if not isinstance(value, str):
            raise TypeError(message(name, "must be a string", **{name: value}))
    for name, flag in flags.items():
        check_bool(name, flag)
    check_id("hist_mask_value", hist_mask_value)
    return HistoryReader(sequence_name, companion_name, hist_mask_value, **flags)


@keras.saving.register_keras_serializable(package="din_layers")
class ValidPositions(keras.Layer):
    """Combine all sources of validity to one mask.

    A functional model records the masks that it passes on as tensors of its graph, so what
    computes them must be a layer that is saved with the model. Keras's own `Embedding` leaves a
    `NotEqual` there in the same way.

    Args:
        **kwargs: The attributes of a `HistoryReader`, and those of every Keras layer.
    """

    def __init__(self, **kwargs: Any) -> None:
        fields = [field.name for field in dataclasses.fields(HistoryReader)]
        self._reader_config = {key: kwargs.pop(key) for key in fields if key in kwargs}
        super().__init__(**kwargs)
        self.reader = _checked_reader(**self._reader_config)
        self.supports_masking = True

    def call(self, sequence: Tensor, companions: Any = (), masks: Any = ()) -> Tensor:
        """Return the mask (batch, time), ragged if the sequence is."""
        return _combine(self.reader, sequence, companions, masks)

    def compute_output_spec(
        self, sequence: Tensor, companions: Any = (), masks: Any = ()
    ) -> keras.KerasTensor:
        return keras.KerasTensor(sequence.shape[:2], "bool", ragged=is_ragged(sequence))

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> None:
        """Return None: a mask has no mask."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._reader_config}
