"""Which positions of a history are real events, and the arithmetic over them.

This is the only file that knows about padding. A layer turns its inputs into a history with
`HistoryReader`, asks it for the events, and reduces them with the operations below. The laws about
invalid positions hold because these operations keep them, in either representation:

==================  ==========================  ===================================
                    `PaddedHistory`             `FlatHistory` (TensorFlow)
==================  ==========================  ===================================
aligned tensors     (batch, time, ...)          (events, ...): no padding at all
tensors per row     (batch, ...)                the same
`events`, `keep`    zero at invalid positions   the same
`spread`            per row -> aligned          the same
`sum`, `max` ...    aligned -> per row          the same
`softmax`           over a row's valid events   the same
`restore`, `pad`    aligned -> the caller's     the same
`unpad`             the opposite of `pad`       the same
==================  ==========================  ===================================

A flat history is a ragged sequence (`RaggedHistory`) or a padded one whose valid events were taken
out (`PackedHistory`).

Padding is replaced by zeros before anything is computed with it. Selecting afterwards is not
enough: where an invalid position holds NaN, `0 * NaN` in the backward pass reaches the weights.
Nor is a sentinel such as -1e9, which loses against a valid -2e9 and is -inf in float16.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers._checks import Shape, check_axes, check_numeric, check_ragged, message

Tensor = Any


def is_ragged(x: Tensor) -> bool:
    """Tell whether `x` is a `tf.RaggedTensor` or its symbolic counterpart."""
    return hasattr(x, "row_splits") or bool(getattr(x, "ragged", False))


def wide_dtype(dtype: str) -> str:
    """Return the dtype to sum values of `dtype` in: 70 events of 1,000 overflow float16."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def select(valid: Tensor, x: Tensor, fill: float = 0.0) -> Tensor:
    """Put `fill` where `valid`, which has the leading axes of `x`, is False; None is all True."""
    if valid is None:
        return x
    missing_axes = len(x.shape) - len(valid.shape)
    valid = ops.reshape(ops.cast(valid, "bool"), (*ops.shape(valid), *[1] * missing_axes))
    return ops.where(valid, x, _scalar(fill, x))


class History(abc.ABC):
    """The rows of a batch and their events.

    Attributes:
        valid: A boolean tensor, (batch, time) or (events,), or None: every position is valid.
    """

    def __init__(self, sequence: Tensor) -> None:
        self._sequence = sequence
        self.valid: Tensor = None

    def restrict(self, valid: Tensor) -> None:
        """Make the positions invalid where `valid`, (batch, time), is False."""
        self._restrict_aligned(ops.cast(self._align(valid), "bool"))

    def restrict_to_lengths(self, lengths: Tensor) -> None:
        """Make the positions of each row from `lengths`, (batch,), on invalid."""
        self._restrict_aligned(_before(self._positions(), self.spread(_wide(lengths))))

    def _restrict_aligned(self, valid: Tensor) -> None:
        self.valid = valid if self.valid is None else ops.logical_and(self.valid, valid)

    def keep(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Put `fill` at the invalid positions of an aligned tensor."""
        return select(self.valid, x, fill)

    def aligned(self, x: Tensor, dtype: str) -> Tensor:
        """Align what the caller gave, (batch, time, ...), whatever it holds where invalid."""
        return ops.cast(self._align(x), dtype)

    def events(self, x: Tensor, dtype: str, fill: float = 0.0) -> Tensor:
        """Align what the caller gave, (batch, time, ...), with `fill` where invalid."""
        return self.keep(self.aligned(x, dtype), fill)

    @cached_property
    def count(self) -> Tensor:
        """The number of valid events of each row, float32, (batch, 1)."""
        if self.valid is None:
            return self._row_lengths()
        # Not `valid[..., None]`: LiteRT has no slice that adds an axis to booleans.
        return self.sum(ops.expand_dims(ops.cast(self.valid, "float32"), -1))

    def non_empty(self, per_row: Tensor, otherwise: float) -> Tensor:
        """Replace the values, (batch, dim), of the rows without valid events."""
        return ops.where(self.count > 0, per_row, _scalar(otherwise, per_row))

    def max(self, x: Tensor) -> Tensor:
        """Return the largest values (..., dim) of the valid events of each row: (batch, dim)."""
        largest = self._largest(self.keep(x, -float("inf")))
        # Not `non_empty(largest, 0.0)`: the converter to ONNX makes a product of that selection,
        # and of -inf a NaN.
        return ops.maximum(largest, self.non_empty(_scalar(-float("inf"), x), 0.0))

    def mean(self, x: Tensor) -> Tensor:
        """Average aligned (..., dim), zero where invalid, over each row: (batch, dim)."""
        share = 1.0 / ops.cast(self.non_empty(self.count, 1.0), x.dtype)
        # A sum of large numbers may overflow where their mean does not: divide first.
        shares = self.keep(ops.ones_like(x[..., :1]) * self.spread(share))
        return ops.squeeze(self.weighted_sum(shares, x), 1)

    def softmax(self, scores: Tensor) -> Tensor:
        """Normalise scores (..., queries) over the valid events of each row, 0 where invalid."""
        # The largest score only keeps `exp` in range; the result does not depend on it.
        top = ops.stop_gradient(self.max(scores))
        # An invalid score may lie above `top`: were it not zeroed first, its `exp` could overflow.
        unnormalised = self.keep(ops.exp(self.keep(scores - self.spread(top))))
        return unnormalised / self.spread(self.non_empty(self.sum(unnormalised), 1.0))

    def packed(self) -> "History":
        """Return the same history without its padding, where that can be taken out."""
        return self

    @abc.abstractmethod
    def _align(self, x: Tensor) -> Tensor:
        """Bring what the caller gave, (batch, time, ...), dense or ragged, to the events."""

    @abc.abstractmethod
    def _positions(self) -> Tensor:
        """Return the position in its row of each event."""

    @abc.abstractmethod
    def _row_lengths(self) -> Tensor:
        """Return the number of positions of each row, float32, (batch, 1) or (1, 1)."""

    @abc.abstractmethod
    def _largest(self, x: Tensor) -> Tensor:
        """Return the largest values per row, 0 or less for a row without positions."""

    @abc.abstractmethod
    def spread(self, per_row: Tensor) -> Tensor:
        """Give every event the value of its row."""

    @abc.abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """Sum aligned (..., dim), zero where invalid, over each row: (batch, dim)."""

    @abc.abstractmethod
    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sum (..., dim) with weights (..., queries) over each row: (batch, queries, dim)."""

    @abc.abstractmethod
    def restore(self, x: Tensor) -> Tensor:
        """Take an aligned tensor to the form of the caller's sequence, dense or ragged."""

    @abc.abstractmethod
    def pad(self, x: Tensor) -> Tensor:
        """Take an aligned tensor, zero where invalid, to a dense one (batch, time, ...)."""

    def unpad(self, x: Tensor) -> Tensor:
        """Take a dense tensor (batch, time, ...), with all that it holds, to an aligned one."""
        return self._align(x)


class PaddedHistory(History):
    """Events in a dense tensor (batch, time, ...), some of whose positions may be invalid."""

    def packed(self) -> History:
        return self if self.valid is None else PackedHistory(self)

    def _align(self, x: Tensor) -> Tensor:
        return x.to_tensor(shape=[None, ops.shape(self._sequence)[1]]) if is_ragged(x) else x

    def _positions(self) -> Tensor:
        return ops.arange(ops.shape(self._sequence)[1])[None, :]

    def _row_lengths(self) -> Tensor:
        return ops.reshape(ops.cast(ops.shape(self._sequence)[1], "float32"), (1, 1))

    def _largest(self, x: Tensor) -> Tensor:
        if x.shape[1] == 0:  # PyTorch has no maximum of nothing
            return ops.sum(x, axis=1)
        return ops.max(x, axis=1, initial=-float("inf"))

    def spread(self, per_row: Tensor) -> Tensor:
        return ops.expand_dims(per_row, 1)

    def sum(self, x: Tensor) -> Tensor:
        return ops.sum(x, axis=1)

    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        return ops.matmul(ops.transpose(weights, (0, 2, 1)), x)

    def restore(self, x: Tensor) -> Tensor:
        return x

    def pad(self, x: Tensor) -> Tensor:
        return x


class FlatHistory(History):
    """The events of all rows one after the other, each with the row that it belongs to.

    Attributes:
        rows: The row of each event, (events,), in order.
        batch: The number of rows.
    """

    rows: Tensor
    batch: Tensor

    def _largest(self, x: Tensor) -> Tensor:
        return self._with_last_rows(_tf().math.segment_max(x, self.rows))

    def spread(self, per_row: Tensor) -> Tensor:
        tf = _tf()

        @tf.custom_gradient
        def gather(x: Tensor) -> Any:
            # TensorFlow's own gradient of a gather does not know that `rows` are in order.
            return tf.gather(x, self.rows), self.sum

        return gather(per_row)

    def sum(self, x: Tensor) -> Tensor:
        return self._with_last_rows(_tf().math.segment_sum(x, self.rows))

    def _with_last_rows(self, per_row: Tensor) -> Tensor:
        """Append the rows after the last event, which the segment operations leave out.

        They rely on the order of `rows`, and are faster for it than those that take any order.
        """
        tf = _tf()
        missing = ops.cast(self.batch, "int32") - tf.shape(per_row)[0]
        return tf.pad(per_row, [[0, missing], *[[0, 0]] * (len(per_row.shape) - 1)])

    def weighted_sum(self, weights: Tensor, x: Tensor) -> Tensor:
        return self.sum(ops.expand_dims(weights, 2) * ops.expand_dims(x, 1))


class RaggedHistory(FlatHistory):
    """Events in a ragged tensor."""

    def __init__(self, sequence: Tensor) -> None:
        super().__init__(sequence)
        self.rows, self.batch = _rows(sequence), sequence.nrows()

    def _align(self, x: Tensor) -> Tensor:
        if is_ragged(x):
            return _values_aligned_with(self._sequence, x)
        return _tf().gather_nd(x, ops.stack([self.rows, self._positions()], axis=1))

    def _positions(self) -> Tensor:
        starts = _tf().gather(self._sequence.row_starts(), self.rows)
        return ops.arange(ops.shape(self.rows)[0], dtype=starts.dtype.name) - starts

    def _row_lengths(self) -> Tensor:
        return ops.cast(self._sequence.row_lengths(), "float32")[:, None]

    def restore(self, x: Tensor) -> Tensor:
        return self._sequence.with_values(x)

    def pad(self, x: Tensor) -> Tensor:
        return self.restore(x).to_tensor()


class PackedHistory(FlatHistory):
    """The valid events of a padded history, taken out of their padding."""

    def __init__(self, padded: PaddedHistory) -> None:
        super().__init__(padded._sequence)
        self._padded = padded
        self._indices = _tf().where(padded.valid)
        self.rows, self.batch = self._indices[:, 0], ops.shape(padded.valid)[0]

    def _align(self, x: Tensor) -> Tensor:
        return _tf().gather_nd(x, self._indices)

    def _positions(self) -> Tensor:
        return self._indices[:, 1]

    def _row_lengths(self) -> Tensor:
        return self._padded.count

    def restore(self, x: Tensor) -> Tensor:
        tf = _tf()
        shape = tf.concat([tf.shape(self._padded.valid), tf.shape(x)[1:]], axis=0)
        return tf.scatter_nd(self._indices, x, tf.cast(shape, self._indices.dtype))

    def pad(self, x: Tensor) -> Tensor:
        return self.restore(x)


@dataclass(frozen=True)
class HistoryReader:
    """Reads what tells which positions of a sequence are valid, and ANDs it.

    That is any number of masks, boolean (batch, time), and of companions in any order: integer
    lengths (batch,) or (batch, 1), and integer or string ids (batch, time).

    Attributes:
        sequence_name: The name of the sequence (batch, time, dim) in messages.
        companion_name: The name of a companion in messages.
        hist_mask_value: The id of an invalid position.
        mask_required: Whether a dense sequence without a mask is an error.
        single_event_ids: Whether (batch, 1) beside a sequence of one position are ids; only there
            does the shape leave open whether they are ids or lengths.
    """

    sequence_name: str
    companion_name: str
    hist_mask_value: int | str
    mask_required: bool = False
    single_event_ids: bool = False

    @classmethod
    def of_sequence(cls, hist_mask_value: int | str, mask_required: bool) -> "HistoryReader":
        """Return the reader of the layers that are called on `[sequence, lengths]`."""
        # Who sets the id of an invalid position gives ids, also beside a single position.
        ids = hist_mask_value != 0
        return cls("sequence", "lengths", hist_mask_value, mask_required, single_event_ids=ids)

    def check(
        self, sequence: Tensor, companions: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> None:
        """Check static shapes and dtypes of real or symbolic tensors."""
        axes = {self.sequence_name: (_shape(sequence), "batch time dim")}
        check_axes(**axes)
        check_numeric(self.sequence_name, sequence)
        check_ragged(self.sequence_name, sequence)
        for mask in masks:
            check_axes(**axes, mask=(_shape(mask), "batch time"))
            check_numeric("mask", mask)
            check_ragged("mask", mask, rows_of=sequence)
        if self.mask_required and not masks and not is_ragged(sequence):
            expected = "must be given, or attached to the sequence, with `supports_masking=True`"
            raise ValueError(message("mask", expected, mask=None, sequence_shape=_shape(sequence)))
        for companion in companions:
            self._check_companion(companion, sequence, axes)
            check_ragged(self.companion_name, companion, rows_of=sequence)

    def read(
        self, sequence: Tensor, companions: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> History:
        """Return the history of real tensors that passed `check`."""
        history = RaggedHistory(sequence) if is_ragged(sequence) else PaddedHistory(sequence)
        for mask in masks:
            history.restrict(mask)
        for companion in companions:
            if self._are_lengths(companion, sequence):
                history.restrict_to_lengths(ops.reshape(companion, (-1,)))
            elif companion.shape[1] is None and not is_ragged(companion):
                self._restrict_by_either(history, companion, sequence)
            else:
                self._restrict_by_ids(history, companion)
        return history

    def _are_lengths(self, companion: Tensor, sequence: Tensor) -> bool:
        shape = _shape(companion)
        if len(shape) != 2:
            return len(shape) < 2
        return shape[1] == 1 and not (self.single_event_ids and _shape(sequence)[1] == 1)

    def _check_companion(
        self, companion: Tensor, sequence: Tensor, sequence_axes: dict[str, tuple[Shape, str]]
    ) -> None:
        name, shape = self.companion_name, _shape(companion)
        lengths = self._are_lengths(companion, sequence)
        axes = ("batch 1" if len(shape) == 2 else "batch") if lengths else "batch time"
        expected = "must have shape (batch, time) for ids, (batch,) or (batch, 1) for lengths"
        check_axes(expected, **sequence_axes, **{name: (shape, axes)})
        dtype = keras.backend.standardize_dtype(companion.dtype)
        strings = isinstance(self.hist_mask_value, str) and not lengths
        if not (dtype == "string" if strings else "int" in dtype):
            expected = "must be strings like `hist_mask_value`" if strings else "must be integers"
            if dtype == "string" and not lengths:
                expected += ", or strings if `hist_mask_value` is one"
            if dtype == "bool":
                expected += " (a mask goes into `mask`)"
            received = {f"{name}_dtype": dtype, f"{name}_shape": shape}
            raise TypeError(message(name, expected, **received))

    def _restrict_by_either(self, history: History, companion: Tensor, sequence: Tensor) -> None:
        """Restrict by lengths (batch, 1) or ids (batch, time): a graph sees which when it runs."""
        if isinstance(self.hist_mask_value, str):
            return self._restrict_by_ids(history, companion)  # strings are no lengths
        width = ops.shape(companion)[1]
        if is_ragged(sequence):  # beside which dense ids may be wider than the longest row
            time = ops.maximum(ops.cast(sequence.bounding_shape(1), "int32"), width)
        else:
            time = ops.shape(sequence)[1]
        lengths = ops.equal(width, 1)
        if self.single_event_ids:
            lengths = ops.logical_and(lengths, ops.not_equal(time, 1))
        by_lengths = _before(ops.arange(time)[None, :], companion[:, :1])
        by_ids = self._valid_ids(companion)
        history.restrict(
            ops.logical_or(
                ops.logical_and(lengths, by_lengths),
                ops.logical_and(ops.logical_not(lengths), by_ids),
            )
        )

    def _restrict_by_ids(self, history: History, ids: Tensor) -> None:
        valid = self._valid_ids(ids.values if is_ragged(ids) else ids)
        history.restrict(ids.with_values(valid) if is_ragged(ids) else valid)

    def _valid_ids(self, ids: Tensor) -> Tensor:
        if isinstance(self.hist_mask_value, str):
            return _tf().not_equal(ids, self.hist_mask_value)
        bounds = np.iinfo(keras.backend.standardize_dtype(ids.dtype))
        if not bounds.min <= self.hist_mask_value <= bounds.max:
            return ops.ones_like(ids, dtype="bool")  # no id of this dtype is the mask value
        return ops.not_equal(ids, ops.cast(self.hist_mask_value, ids.dtype))


def masks_of(mask: Tensor, inputs: Sequence[Tensor], unread: int = 0) -> list[Tensor]:
    """Return the masks of the history that Keras's `mask` argument holds.

    Args:
        mask: None, the mask of the history, or a list of one for each input.
        inputs: The inputs of the layer.
        unread: How many of the first inputs are not part of the history.
    """
    if isinstance(mask, list | tuple):
        if len(mask) != len(inputs):
            expected = "must be one mask or a list of one for each input"
            raise ValueError(message("mask", expected, masks=len(mask), inputs=len(inputs)))
        mask = list(mask[unread:])
    else:
        mask = [mask]
    return [m for m in mask if m is not None]


def _rows(sequence: Tensor) -> Tensor:
    """Return the row of each value, as `value_rowids` does.

    That pads on its way: one long history among short ones would cost as much as if all were long.
    """
    tf = _tf()
    starts = sequence.row_splits[1:-1]  # where each row but the first starts
    values = tf.shape(sequence.values)[0]
    # Empty rows at the end start after the last value.
    started = tf.math.unsorted_segment_sum(tf.ones_like(starts), starts, values + 1)
    return tf.cumsum(started)[:-1]


def _values_aligned_with(sequence: Tensor, x: Tensor) -> Tensor:
    """Return the values of a ragged tensor that must have the rows of `sequence`."""
    if x.row_splits is sequence.row_splits:
        return x.values
    # Eagerly `check_ragged` has compared them; in a graph the values are known here only.
    tf = _tf()
    splits = [ops.cast(ragged.row_splits, "int64") for ragged in (x, sequence)]
    error = "A ragged input must have the same row lengths as the sequence."
    with tf.control_dependencies([tf.debugging.assert_equal(*splits, message=error)]):
        return tf.identity(x.values)


def _before(positions: Tensor, lengths: Tensor) -> Tensor:
    lengths = _wide(lengths)
    return ops.cast(positions, lengths.dtype) < lengths


def _wide(lengths: Tensor) -> Tensor:
    """Widen integers that cannot hold every position; unsigned 64 bits do not fit signed ones."""
    dtype = keras.backend.standardize_dtype(lengths.dtype)
    return lengths if dtype in ("int64", "uint64", "uint32") else ops.cast(lengths, "int32")


def _shape(x: Tensor) -> Shape:
    return tuple(x.shape)


def _scalar(value: float, like: Tensor) -> Tensor:
    return ops.cast(value, like.dtype)


def _tf() -> Any:
    # Only ragged tensors and strings need TensorFlow; the other backends work without it.
    import tensorflow as tf

    return tf
