"""Draws all test data: shapes and masks first, values second."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

DIM = 3


@dataclass(frozen=True)
class Batch:
    """Padded histories with what a sequence layer may want beside them, in NumPy or tensors."""

    sequence: np.ndarray  # float32 (batch, time, DIM)
    valid: np.ndarray  # bool (batch, time)
    weights: np.ndarray  # float32 (batch, time), not negative
    query: np.ndarray  # float32 (batch, queries, DIM)

    @property
    def parts(self):
        """The four arrays in order."""
        return self.sequence, self.valid, self.weights, self.query

    @property
    def lengths(self):
        """The number of valid positions of each row."""
        if isinstance(self.valid, np.ndarray):
            return self.valid.sum(1)
        return tf.reduce_sum(tf.cast(self.valid, tf.int64), axis=1)

    def take(self, rows):
        """Return the batch of some rows."""
        return Batch(*(x[rows] for x in self.parts))

    def with_time(self, order, invalid=()):
        """Return the batch with its positions reordered; those in `invalid` made invalid."""
        valid = self.valid[:, order]
        valid[:, list(invalid)] = False
        return Batch(self.sequence[:, order], valid, self.weights[:, order], self.query)

    def garbage_where_invalid(self, garbage):
        """Return the batch with `garbage` at the invalid positions."""
        sequence, weights = self.sequence.copy(), self.weights.copy()
        sequence[~self.valid] = garbage
        weights[~self.valid] = garbage
        return Batch(sequence, self.valid, weights, self.query)


@st.composite
def values(draw, shape, low=-40, high=40):
    """Draw float32 tenths from -4 to 4, all of them at once from one seed.

    Hypothesis's own arrays are mostly one repeated element, under which a wrong divisor or a wrong
    order does not show. Tenths tie and are 0 now and then.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (rng.integers(low, high + 1, shape) / 10).astype(np.float32)


@st.composite
def row_masks(draw, time, kinds=("prefix", "suffix", "holes", "empty", "full")):
    """Draw one row's validity (time,): a prefix, a suffix, with holes, empty or full."""
    kind = draw(st.sampled_from(kinds))
    if kind == "holes":
        return np.array(draw(st.lists(st.booleans(), min_size=time, max_size=time)), bool)
    length = {"empty": 0, "full": time}.get(kind)
    length = draw(st.integers(0, time)) if length is None else length
    positions = np.arange(time)
    return positions >= time - length if kind == "suffix" else positions < length


@st.composite
def batches(draw, prefix=False, shape=None, queries=None):
    """Draw a batch.

    Args:
        draw: Hypothesis's.
        prefix: Whether the valid positions are the first ones of each row, as lengths need.
        shape: (batch, time), or None: batch from 1, time from 0.
        queries: The number of queries, or None: 1 to 3.
    """
    batch, time = shape or (draw(st.integers(1, 4)), draw(st.integers(0, 6)))
    kinds = (
        ("prefix", "empty", "full") if prefix else ("prefix", "suffix", "holes", "empty", "full")
    )
    valid = np.array([draw(row_masks(time, kinds)) for _ in range(batch)], bool)
    queries = queries or draw(st.integers(1, 3))
    return Batch(
        sequence=draw(values((batch, time, DIM))),
        valid=valid.reshape(batch, time),
        weights=draw(values((batch, time), low=0)),
        query=draw(values((batch, queries, DIM))),
    )


def garbage():
    """What may stand at an invalid position: NaN, the infinities, the largest numbers."""
    largest = float(np.finfo(np.float32).max)
    return st.sampled_from([np.nan, np.inf, -np.inf, largest, -largest, 3e9, -2e9])
