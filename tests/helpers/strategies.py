"""Draws all inputs of the layers, out of the public strategies."""

from dataclasses import dataclass

import keras
import numpy as np
from hypothesis import strategies as st

from din_layers.testing import masks
from din_layers.testing._strategies import values

DIM = 3
# JAX compiles every operation for every shape, so it gets few of them.
SIZES = {"min_time": 0}
if keras.backend.backend() == "jax":
    SIZES |= {"min_batch": 2, "max_batch": 2, "max_time": 3}


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

    def garbage_where_invalid(self, garbage):
        """Return the batch with `garbage` at the invalid positions."""
        sequence, weights = self.sequence.copy(), self.weights.copy()
        sequence[~self.valid] = garbage
        weights[~self.valid] = garbage
        return Batch(sequence, self.valid, weights, self.query)


@st.composite
def batches(draw, prefix=False, shape=None, queries=None):
    """Draw a batch.

    Args:
        draw: Hypothesis's.
        prefix: Whether the valid positions are the first ones of each row, as lengths need.
        shape: (batch, time), or None: batch from 1, time from 0.
        queries: The number of queries, or None: 1 to 3.
    """
    sizes = SIZES
    if shape:
        batch, time = shape
        sizes = {"min_batch": batch, "max_batch": batch, "min_time": time, "max_time": time}
    valid = draw(masks(padding="right" if prefix else "any", **sizes))
    queries = queries or draw(st.integers(1, 3))
    return Batch(
        sequence=draw(values((*valid.shape, DIM))),
        valid=valid,
        weights=draw(values(valid.shape, low=0)),
        query=draw(values((len(valid), queries, DIM))),
    )
