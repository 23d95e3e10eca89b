"""Every way to tell a layer which positions are valid, and every case with every one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from helpers.backend import BACKEND
from helpers.layers import CASES, FAMILIES, NO_EVENT, layer_of
from helpers.strategies import DIM, Batch
from keras import ops

STRING_NO_EVENT = "none"


@dataclass(frozen=True)
class Source:
    """A way to tell a layer which positions are valid.

    Attributes:
        read: From a mask (batch, time) to the keywords that say the same.
        prefix: Whether it can only tell prefixes.
        ragged: Whether the sequence itself is ragged.
        hist_mask_value: The id of an invalid position.
    """

    read: Callable[[Any], dict[str, Any]]
    prefix: bool = False
    ragged: bool = False
    hist_mask_value: int | str = NO_EVENT

    @property
    def padding(self):
        """Where invalid positions may stand, as `check_masking` has it."""
        return "right" if self.prefix else "any"

    @property
    def needs_tensorflow(self):
        """Whether it exists on the TensorFlow backend only."""
        return self.ragged or isinstance(self.hist_mask_value, str)

    def call(self, case, layer, batch, **kwargs):
        """Call a layer on a batch of NumPy arrays or tensors."""
        inputs, keywords = self.inputs(case, batch)
        return case.unnest(layer(inputs, **keywords, **case.nest(kwargs)))

    def inputs(self, case, batch):
        """Return what to call the layer with: its inputs, and the keywords beside them."""
        sequence, valid, weights, query = map(ops.convert_to_tensor, batch.parts)
        keywords = self.read(valid)
        if self.ragged:
            sequence, weights = as_ragged(sequence, valid), as_ragged(weights, valid)
        return case.nest((case.inputs(sequence, weights, query), keywords))

    def rows(self, case, output, batch):
        """Return the output of each row at its valid positions, or its whole pooled output."""
        if self.ragged and case.keeps_time:
            return [np.asarray(row, "float64") for row in output]
        output = np.asarray(ops.convert_to_numpy(output)).astype("float64")
        if not case.keeps_time:
            return list(output)
        if not case.ordered:  # invalid positions of AUGRU carry the state
            np.testing.assert_array_equal(output[~batch.valid], 0, "invalid positions must be zero")
        return [row[ok] for row, ok in zip(output, batch.valid, strict=True)]


def as_ragged(x, valid):
    """Return the valid positions of `x`, (batch, time, ...), as a ragged tensor."""
    import tensorflow as tf

    lengths = tf.reduce_sum(tf.cast(valid, tf.int64), axis=1)
    return tf.RaggedTensor.from_row_lengths(tf.boolean_mask(x, valid), lengths)


def as_padded(x, valid):
    """Return a ragged tensor as a dense one, with zeros at invalid positions."""
    import tensorflow as tf

    shape = tf.concat([tf.shape(valid), tf.shape(x.values)[1:]], axis=0)
    return tf.scatter_nd(tf.where(valid), x.values, tf.cast(shape, tf.int64))


def ids(valid):
    """Ids of events from 1 up, 0 where invalid."""
    return ops.where(valid, ops.cumsum(ops.ones_like(valid, "int32"), axis=1), NO_EVENT)


def string_ids(valid):
    import tensorflow as tf

    return tf.where(valid, "film ä", STRING_NO_EVENT)


def lengths(valid, dtype="int32"):
    return ops.cast(ops.sum(ops.cast(valid, "int32"), axis=1), dtype)


SOURCES = {
    "mask": Source(lambda valid: {"mask": valid}),
    "ids": Source(lambda valid: {"ids": ids(valid)}),
    "string_ids": Source(lambda valid: {"ids": string_ids(valid)}, hist_mask_value=STRING_NO_EVENT),
    "lengths": Source(lambda valid: {"lengths": lengths(valid)}, prefix=True),
    "column_lengths": Source(
        lambda valid: {"lengths": ops.expand_dims(lengths(valid, "int16"), 1)}, prefix=True
    ),
    "ragged": Source(lambda valid: {}, ragged=True),
    "all": Source(
        lambda valid: {"ids": ids(valid), "lengths": lengths(valid, "int8"), "mask": valid},
        prefix=True,
    ),
}


# Every case with one source, and every source with one case of each layer: a source is read alike
# for every mode and on every backend. Slow are, on TensorFlow, every case with ragged events, which
# have operations of their own, and with all that can be given together.
USUAL = {(name, "mask") for name in CASES} | {
    (next(iter(family)), source) for family in FAMILIES for source in SOURCES
}
SLOW = {(name, source) for name in CASES for source in ("ragged", "all")} - USUAL


def pairs(parameters, slow=()):
    """Return those parameters (case, source, ...) that are tested; some cases are slow, too."""
    chosen = USUAL | SLOW if BACKEND == "tensorflow" else USUAL
    return [
        pytest.param(*x, marks=pytest.mark.slow if x[:2] in SLOW or x[0] in slow else [])
        for x in parameters
        if x[:2] in chosen
    ]


def make(name, source, dtype="float32"):
    """Return a case, its source and its layer."""
    case, source = CASES[name], SOURCES[source]
    if BACKEND != "tensorflow" and source.needs_tensorflow:
        pytest.skip("strings and ragged tensors in a model are TensorFlow's")
    return case, source, layer_of(name, dtype, source.hist_mask_value)


def as_function(case, source, layer):
    """Return `apply(sequence, mask)` for `check_masking`, on sequences of `CHANNELS` channels.

    The last channel gives the weights, so that they have padding and gradients as the sequence has.
    The query is a variable, so that its gradients are checked too.
    """
    shape = (1, case.queries or 2, DIM)
    query = keras.Variable(np.random.default_rng(5).normal(size=shape).astype("float32"))

    def apply(channels, valid):
        queries = ops.broadcast_to(query, (ops.shape(channels)[0], *shape[1:]))
        # From -4 to 4 the values are drawn, from 0 to 8 are the weights: their sum is not near 0.
        batch = Batch(channels[..., :DIM], valid, channels[..., DIM] + 4.0, queries)
        output = source.call(case, layer, batch)
        return as_padded(output, valid) if case.keeps_time and source.ragged else output

    return apply


CHANNELS = DIM + 1
