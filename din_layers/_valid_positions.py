"""The mask that a layer which keeps the time axis hands on."""

from collections.abc import Sequence
from typing import Any

import keras

from din_layers._backend import Tensor, is_ragged
from din_layers._checks import check_bool, check_id
from din_layers._history import is_nested
from din_layers._old_lists import name_companions
from din_layers._sources import Id, Sources, read_history


def valid_positions(
    sequence: Tensor, sources: Sources, masks: Sequence[Tensor], hist_mask_value: Id
) -> Tensor:
    """Return the mask (batch, time), ragged if the sequence is, or None where all is valid.

    An event of tags is valid if it has any.
    """
    nested, ragged = is_nested(sequence), is_ragged(sequence)
    if not sources and not masks and not (nested and ragged):
        return None
    if not sources and not nested and len(masks) == 1 and is_ragged(masks[0]) == ragged:
        return masks[0]
    if isinstance(sequence, keras.KerasTensor):
        return ValidPositions(hist_mask_value)(sequence, sources=dict(sources), masks=list(masks))
    return read_history(sequence, sources, masks, hist_mask_value).mask()


@keras.saving.register_keras_serializable(package="din_layers")
class ValidPositions(keras.Layer):
    """Combine all that tells valid positions to one mask.

    A functional model records the masks that it hands on as tensors of its graph, so what computes
    them must be a layer that is saved with the model. Keras's own `Embedding` leaves a `NotEqual`
    there in the same way.

    Args:
        hist_mask_value: The id of an invalid position.
        single_event_ids: In files before 0.4: whether ids are meant where a companion could also
            be lengths. Other names in those files are ignored.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self, hist_mask_value: Id = 0, single_event_ids: bool = False, **kwargs: Any
    ) -> None:
        for name in ("sequence_name", "companion_name", "mask_required"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.hist_mask_value = check_id("hist_mask_value", hist_mask_value)
        self._ids_first = check_bool("single_event_ids", single_event_ids)
        self.supports_masking = True

    def __call__(self, sequence: Tensor, companions: Sequence[Tensor] = (), **kwargs: Any) -> Any:
        """Name the companions of a file before 0.4, and call the layer."""
        if companions:
            names = name_companions(companions, sequence, self._ids_first)
            kwargs["sources"] = dict(zip(names, companions, strict=True))
        return super().__call__(sequence, **kwargs)

    def call(self, sequence: Tensor, sources: Any = None, masks: Any = ()) -> Tensor:
        """Return the mask (batch, time), ragged if the sequence is."""
        return read_history(sequence, sources or {}, masks, self.hist_mask_value).mask()

    def compute_output_spec(
        self, sequence: Tensor, sources: Any = None, masks: Any = ()
    ) -> keras.KerasTensor:
        return keras.KerasTensor(sequence.shape[:2], "bool", ragged=is_ragged(sequence))

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> None:
        """Return None: a mask has no mask."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hist_mask_value": self.hist_mask_value}
