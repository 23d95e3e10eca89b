"""Values of the events of a history, and what may be computed from them.

Padding is replaced by a number before anything is computed with it. Selecting afterwards is not
enough: where an invalid position holds NaN, `0 * NaN` in the backward pass reaches the weights.
Nor is a sentinel such as -1e9, which loses against a valid -2e9 and is -inf in float16.

Which number it must be depends on the operation: 0 for a sum, -inf for a maximum. So `Events` know
what stands at their invalid positions, and every operation first puts there what it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._tensors import scalar, select

if TYPE_CHECKING:
    from din_layers._history import History

_INFINITY = float("inf")


@dataclass(frozen=True)
class Events:
    """Values (..., dim), one for each position of a history, in the history's own layout.

    Attributes:
        history: The history.
        values: The values.
        fill: What `values` hold at invalid positions; None: anything, NaN included.
    """

    history: "History"
    values: Tensor
    fill: float | None = None

    def filled(self, fill: float) -> "Events":
        """Return the same events with `fill` at the invalid positions."""
        if fill == self.fill:
            return self
        return Events(self.history, select(self.history.valid, self.values, fill), fill)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Events":
        """Apply a function to the values, valid or not."""
        return Events(self.history, function(self.values))

    def times(self, other: "Events") -> "Events":
        """Multiply by other values of the same events."""
        known = self.fill is not None and other.fill is not None
        fill = self.fill * other.fill if known else None  # type: ignore[operator]
        return Events(self.history, self.values * other.values, fill)

    def over(self, per_row: Tensor) -> "Events":
        """Divide by the number (batch, dim) of each event's row; over 0 the result is 0."""
        # What stands at padding is not known: 0 over the NaN of a valid event is NaN.
        return self.map(lambda x: _backend.divide_no_nan(x, self.history.spread(per_row)))

    def sum(self) -> Tensor:
        """Sum over each row: (batch, dim)."""
        return self.history.sum(self.filled(0.0).values)

    def max(self) -> Tensor:
        """Return the largest values of each row, 0 for a row without events: (batch, dim)."""
        largest = self.history.max(self.filled(-_INFINITY).values)
        lowest = scalar(-_INFINITY, largest)
        # Not `non_empty(largest, 0.0)`: the converter to ONNX makes a product of that selection,
        # and of -inf a NaN.
        return _backend.maximum(largest, self.history.non_empty(lowest, 0.0))

    def mean(self) -> Tensor:
        """Average over each row: (batch, dim)."""
        ones = self._ones()
        # A sum of large numbers may overflow where their mean does not: divide first.
        share = 1.0 / ops.cast(self.history.divisor, ones.dtype)
        shares = Events(self.history, ones * self.history.spread(share), 0.0)
        # Not `squeeze`: a graph that does not know `dim` does not know that this axis is 1 either.
        return ops.sum(shares.weighted_sum(self), axis=1)

    def _ones(self) -> Tensor:
        """Return a 1 for each valid position, (..., 1), 0 elsewhere."""
        valid = self.history.valid
        if valid is None:
            return ops.ones_like(self.values[..., :1])
        return ops.expand_dims(ops.cast(valid, self.values.dtype), -1)

    def weighted_sum(self, events: "Events") -> Tensor:
        """Sum other values with these, (..., queries), as weights: (batch, queries, dim)."""
        events = events if events.fill is not None else events.filled(0.0)
        return self.history.weighted_sum(self.filled(0.0).values, events.values)

    def softmax(self) -> "Events":
        """Normalise scores (..., queries) over the valid events of each row; 0 where invalid."""
        scores = self.filled(-_INFINITY).values
        # The largest score only keeps `exp` in range. Not -inf, which without events would be
        # subtracted from itself.
        lowest = scalar(float(np.finfo(keras.backend.standardize_dtype(scores.dtype)).min), scores)
        top = _backend.maximum(self.history.max(ops.stop_gradient(scores)), lowest)
        unnormalised = Events(self.history, ops.exp(scores - self.history.spread(top)), 0.0)
        total = unnormalised.sum()
        # 0 without events, else at least the 1 of the largest score. Where both were the same, the
        # gradient of a maximum would be shared.
        total = _backend.maximum(total, scalar(0.5, total))
        # Selected again: beside a valid NaN all positions of a row are NaN.
        return unnormalised.map(lambda values: values / self.history.spread(total)).filled(0.0)

    def restored(self) -> Tensor:
        """Return the values in the form of the sequence, dense or ragged, 0 where invalid."""
        return self.history.restore(self.filled(0.0).values)

    def padded(self) -> Tensor:
        """Return the values as a dense tensor (batch, time, ...), 0 where invalid."""
        return self.history.pad(self.filled(0.0).values)
