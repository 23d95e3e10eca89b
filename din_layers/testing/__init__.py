"""Property-based tests of masks, for any Keras layer or model, on every backend.

>>> from din_layers import testing
>>> pool = din_layers.SequencePoolingLayer("mean")
>>> testing.check_masking(lambda sequence, mask: pool(sequence, mask=mask))

`check_masking` draws padded histories and looks for a counterexample to each of `INVARIANTS`.
`check_ids` does so for a whole model that starts from padded ids, also for a saved one
(`python -m din_layers.testing model.keras`). `check_round_trip` saves and loads. `masks`,
`padded_sequences`, `histories` and `garbage` are Hypothesis strategies for your own tests.

The module needs Hypothesis: `pip install "din-layers[testing]"`.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    message = '`din_layers.testing` needs Hypothesis: pip install "din-layers[testing]"'
    raise ImportError(message) from error

from din_layers.testing._check_ids import IDS_INVARIANTS, check_ids
from din_layers.testing._check_masking import check_masking
from din_layers.testing._check_round_trip import RoundTripError, check_round_trip
from din_layers.testing._gradients import gradients
from din_layers.testing._invariants import DEFAULT_INVARIANTS, INVARIANTS, MaskingError
from din_layers.testing._strategies import garbage, histories, masks, padded_sequences

__all__ = [
    "DEFAULT_INVARIANTS",
    "IDS_INVARIANTS",
    "INVARIANTS",
    "MaskingError",
    "RoundTripError",
    "check_ids",
    "check_masking",
    "check_round_trip",
    "garbage",
    "gradients",
    "histories",
    "masks",
    "padded_sequences",
]
