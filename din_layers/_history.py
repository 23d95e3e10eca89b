"""Histories of events: which positions of a batch of sequences are valid, and how they are stored.

A tensor is *aligned* if it has one value for each position: (batch, time, ...) in a padded history,
(events, ...) in a flat one, which is a ragged sequence or the valid events taken out of a padded
one (`_skip_padding.py`). Both have the same operations:

================  ============================
`spread`          per row -> aligned
`sum`, `max` ...  aligned -> per row
`restore`         aligned -> as the sequence
`pad`             aligned -> dense
`unpad`           dense -> as the sequence
================  ============================

So what is computed from events, `Events`, is written once.

Where every event is a history itself, of tags, a row is one event (`nested`). What the caller gave
is folded to such rows on its way in, and what was computed for them unfolded on its way out.
"""

import abc
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor, is_ragged, tensorflow
from din_layers._events import Events
from din_layers._tensors import scalar, select

OfRows = Mapping[str, Tensor]  # what a unit needs of the queries of each row


def is_nested(sequence: Tensor) -> bool:
    """Tell whether the events of a sequence are histories: (batch, time, tags, dim)."""
    return len(sequence.shape) == 4


def history_of(sequence: Tensor) -> "History":
    """Return the history of a sequence, all of whose positions are valid."""
    history = RaggedHistory(sequence) if is_ragged(sequence) else PaddedHistory(sequence)
    return history.nested() if is_nested(sequence) else history


class History(abc.ABC):
    """The rows of a batch and their events.

    Attributes:
        valid: A boolean tensor, (batch, time) or (events,), or None: every position is valid.
    """

    def __init__(self, sequence: Tensor) -> None:
        self._sequence = sequence
        self._outer: History | None = None  # whose events are the rows of this one
        self.valid: Tensor = None

    def nested(self) -> "History":
        """Return the history whose rows are the events of this one."""
        history = history_of(self._fold("sequence", self._sequence))
        history._outer = self
        return history

    def _given(self, name: str, x: Tensor) -> Tensor:
        """Bring what the caller gave to the layout."""
        return self._align(name, self._outer._fold(name, x) if self._outer else x)

    def restrict(self, name: str, valid: Tensor) -> None:
        """Make the positions invalid where `valid`, (batch, time), is False."""
        self.restrict_aligned(ops.cast(self._given(name, valid), "bool"))

    def restrict_aligned(self, valid: Tensor) -> None:
        """Make the positions invalid where aligned `valid` is False."""
        self.valid = valid if self.valid is None else ops.logical_and(self.valid, valid)

    def events(self, name: str, x: Tensor, dtype: str) -> Events:
        """Return what the caller gave, (batch, time, ...), dense or ragged, as events."""
        return Events(self, ops.cast(self._given(name, x), dtype))

    @cached_property
    def count(self) -> Tensor:
        """The number of valid events of each row, float32, (batch, 1)."""
        if self.valid is None:
            return self._row_lengths()
        # Not `valid[..., None]`: LiteRT has no slice that adds an axis to booleans.
        return self.sum(ops.expand_dims(ops.cast(self.valid, "float32"), -1))

    @property
    def divisor(self) -> Tensor:
        """The number of valid events of each row; 1 where there are none."""
        return ops.maximum(self.count, 1.0)

    def per_row(self, name: str, x: Tensor) -> Tensor:
        """Give every event what the caller gave for its row: (batch,) or (batch, 1)."""
        x = ops.reshape(self._outer._fold(name, x) if self._outer else x, (-1,))
        return self.spread(_backend.same_sizes(name, x, self._sequence, axes=1))

    def non_empty(self, per_row: Tensor, otherwise: float) -> Tensor:
        """Replace the values, (batch, dim), of the rows without valid events."""
        return ops.where(self.count > 0, per_row, scalar(otherwise, per_row))

    def where_events(self, x: Tensor) -> Tensor:
        """Zero what belongs, (batch, ...), to rows without valid events."""
        return select(self._has_events(), x)

    def _has_events(self) -> Tensor:
        return ops.squeeze(self.count, 1) > 0

    def pooled(self, per_row: Tensor) -> Tensor:
        """Return (batch, dim) as (batch, 1, dim), or that of nested rows as (batch, time, dim)."""
        return self._outer._unfold(per_row) if self._outer else ops.expand_dims(per_row, 1)

    def mask(self) -> Tensor:
        """Return the valid positions, of nested rows the valid events, as the sequence has them."""
        if self._outer is None:
            return self.restore(self.valid)
        has_events = self._has_events()
        if self.valid is None:  # one number stands for all rows
            has_events = ops.broadcast_to(has_events, ops.shape(self._sequence)[:1])
        return self._outer._unfold(has_events)

    def scores(self, unit: keras.Layer, keys: Tensor, of_rows: OfRows, training: Any) -> Tensor:
        """Return what a local activation unit gives for aligned keys, finite where invalid."""
        of_events = {name: self.spread(x) for name, x in of_rows.items()}
        scores, _ = unit.run(keys, self.valid, of_events, training)
        return scores

    @abc.abstractmethod
    def _align(self, name: str, x: Tensor) -> Tensor:
        """Bring what the caller gave, (batch, time, ...), dense or ragged, to the layout."""

    def _fold(self, name: str, x: Tensor) -> Tensor:
        """Make a row of each event: (batch, time, ...) to (events, ...)."""
        return self._align(name, x)

    def _unfold(self, x: Tensor) -> Tensor:
        """Take rows that `_fold` made to the form of the sequence."""
        return self.restore(x)

    @abc.abstractmethod
    def positions(self) -> Tensor:
        """Return the position in its row of each event."""

    @abc.abstractmethod
    def _row_lengths(self) -> Tensor:
        """Return the number of positions of each row, float32, (batch, 1) or (1, 1)."""

    @abc.abstractmethod
    def spread(self, per_row: Tensor) -> Tensor:
        """Give every event the value of its row."""

    @abc.abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """Sum aligned (..., dim) over each row: (batch, dim)."""

    @abc.abstractmethod
    def max(self, x: Tensor) -> Tensor:
        """Return the largest values of each row, 0 or less for a row without positions."""

    @abc.abstractmethod
    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sum (..., dim) with weights (..., queries) over each row: (batch, queries, dim)."""

    @abc.abstractmethod
    def restore(self, x: Tensor) -> Tensor:
        """Take an aligned tensor to the form of the caller's sequence, dense or ragged."""

    def pad(self, x: Tensor) -> Tensor:
        """Take an aligned tensor to a dense one (batch, time, ...)."""
        return self.restore(x)

    def unpad(self, x: Tensor) -> Tensor:
        """Take a dense tensor (batch, time, ...), all that it holds, to the sequence's form."""
        return self.restore(self._align("x", x))


class PaddedHistory(History):
    """Events in a dense tensor (batch, time, ...), some of whose positions may be invalid."""

    def _align(self, name: str, x: Tensor) -> Tensor:
        if is_ragged(x):
            x = x.to_tensor(shape=[None, *ops.shape(self._sequence)[1 : len(x.shape)]])
        return _backend.same_sizes(name, x, self._sequence, axes=2)

    def _fold(self, name: str, x: Tensor) -> Tensor:
        batch, time, *rest = ops.shape(x := self._align(name, x))
        return ops.reshape(x, (batch * time, *rest))

    def _unfold(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (*ops.shape(self._sequence)[:2], *ops.shape(x)[1:]))

    def _has_events(self) -> Tensor:
        return super()._has_events() if self.valid is None else ops.any(self.valid, axis=1)

    def positions(self) -> Tensor:
        return ops.arange(ops.shape(self._sequence)[1])[None, :]

    def _row_lengths(self) -> Tensor:
        return ops.reshape(ops.cast(ops.shape(self._sequence)[1], "float32"), (1, 1))

    def spread(self, per_row: Tensor) -> Tensor:
        return ops.expand_dims(per_row, 1)

    def sum(self, x: Tensor) -> Tensor:
        return ops.sum(x, axis=1)

    def max(self, x: Tensor) -> Tensor:
        return _backend.largest_of_time(x)

    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        if _backend.backend() == "jax" and weights.shape[-1] == 1:
            # One pass, into which XLA takes what made `x`: no second copy of the history.
            return ops.sum(weights * x, axis=1, keepdims=True)
        return _backend.matmul(ops.transpose(weights, (0, 2, 1)), x)

    def restore(self, x: Tensor) -> Tensor:
        return x


class FlatHistory(History):
    """The events of all rows one after the other, each with the row that it belongs to.

    Attributes:
        rows: The row of each event, (events,), in order.
        batch: The number of rows.
    """

    rows: Tensor
    batch: Tensor

    def spread(self, per_row: Tensor) -> Tensor:
        return _backend.gather_rows(per_row, self.rows, self.batch)

    def sum(self, x: Tensor) -> Tensor:
        return _backend.segment_sum(x, self.rows, self.batch)

    def max(self, x: Tensor) -> Tensor:
        return _backend.segment_max(x, self.rows, self.batch)

    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        return self.sum(ops.expand_dims(weights, 2) * ops.expand_dims(x, 1))


class RaggedHistory(FlatHistory):
    """Events in a ragged tensor."""

    def __init__(self, sequence: Tensor) -> None:
        super().__init__(sequence)
        self.rows, self.batch = _backend.row_ids(sequence), sequence.nrows()

    def _align(self, name: str, x: Tensor) -> Tensor:
        if is_ragged(x):
            return _backend.values_in_rows_of(self._sequence, x)
        return tensorflow().gather_nd(x, ops.stack([self.rows, self.positions()], axis=1))

    def positions(self) -> Tensor:
        starts = tensorflow().gather(self._sequence.row_starts(), self.rows)
        return ops.arange(ops.shape(self.rows)[0], dtype=starts.dtype.name) - starts

    def _row_lengths(self) -> Tensor:
        return ops.cast(self._sequence.row_lengths(), "float32")[:, None]

    def restore(self, x: Tensor) -> Tensor:
        return self._sequence.with_values(x)

    def pad(self, x: Tensor) -> Tensor:
        return self.restore(x).to_tensor()
