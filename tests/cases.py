"""Every sequence layer in every mode, and every way to tell it which positions are valid."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np
import oracles
import pytest
from backend import BACKEND
from keras import ops
from strategies import DIM, Batch

import din_layers
from din_layers.testing import DEFAULT_INVARIANTS

NO_EVENT = 0  # the id of an invalid position
STRING_NO_EVENT = "none"
SCORES = 8  # AUGRU's scores are the weights, 0 to 8, over this: its scores lie between 0 and 1


@dataclass(frozen=True)
class Case:
    """A sequence layer in one mode.

    Attributes:
        layer: The class.
        config: Its arguments.
    """

    layer: type
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self):
        """Which inputs it takes."""
        return {
            din_layers.SequencePoolingLayer: "pool",
            din_layers.WeightedSequenceLayer: "weigh",
            din_layers.AttentionPoolingLayer: "attend",
            din_layers.AUGRU: "evolve",
        }[self.layer]

    @property
    def keeps_time(self):
        """Whether the output has the time axis of the sequence."""
        return (
            self.kind == "weigh"
            or self.config.get("mode") == "sequence"
            or self.config.get("return_sequences", False)
        )

    @property
    def ordered(self):
        """Whether the order of the events matters."""
        return self.kind == "evolve"

    @property
    def queries(self):
        """The number of queries that it takes, None for any."""
        return 1 if self.config.get("mode") == "sequence" else None

    @property
    def invariants(self):
        """The invariants of masking that it promises."""
        # The state of an AUGRU grows without bound when its scores are far above 1.
        unbounded = {"extreme_values"} if self.ordered else set()
        order = () if self.ordered else ("permutation_invariance",)
        return [name for name in (*DEFAULT_INVARIANTS, *order) if name not in unbounded]

    @property
    def skips_padding(self):
        """Whether it takes events out of their padding, which only TensorFlow does."""
        return self.config.get("skip_padding", False)

    def make(self, **config):
        """Return a built layer with weights drawn from one seed."""
        layer = self.layer(**self.config, **config)
        if self.kind == "attend":
            layer.build([(None, None, DIM), (None, None, DIM)])
            randomize(layer)
        if self.kind == "evolve":
            layer.build([(None, None, DIM), (None, None)])
            randomize(layer)
        return layer

    def expected(self, layer, batch):
        """Return the float64 result of each row on its valid events alone."""
        rows = zip(batch.sequence, batch.valid, batch.weights, batch.query, strict=True)
        return [
            self._expected_row(layer, *(x.astype("float64") for x in (seq[ok], weights[ok], query)))
            for seq, ok, weights, query in rows
        ]

    def _expected_row(self, layer, events, weights, query):
        if self.kind == "pool":
            return oracles.pool(self.config["mode"], events)[None]
        if self.kind == "weigh":
            return oracles.weigh(self.config["weight_normalization"], events, weights)
        if self.kind == "evolve":
            states = oracles.augru(events, weights / SCORES, *gates(layer))
            return states[1:] if self.keeps_time else states[-1]
        scores = oracles.attention_scores(query, events, *mlp(layer), scale=layer.scale)
        weights = oracles.softmax(scores) if layer.weight_normalization else scores
        return events * weights if self.keeps_time else oracles.attend(weights, events)


def mlp(layer):
    """Return kernels, biases and activations of an attention layer's MLP, in float64."""
    dense = [[np.float64(w) for w in d.get_weights()] for d in layer.unit.dense_layers]

    def activation(fn):
        if not isinstance(fn, din_layers.Dice):
            return {"sigmoid": oracles.sigmoid}[fn.__name__]
        alpha, mean, variance = (np.float64(w) for w in fn.get_weights())
        return lambda x: oracles.dice(x, mean, variance, alpha, fn.epsilon)

    activations = [activation(fn) for fn in layer.unit.activations]
    return [d[0] for d in dense], [d[1] for d in dense], [*activations, lambda x: x]


def gates(layer):
    """Return, in float64 and as DIEN's paper has them, the weights of u, r and the candidate."""
    kernels, recurrent, (biases, state_biases) = [
        np.split(np.float64(w), 3, axis=-1) for w in layer.get_weights()[:2]
    ] + [[np.split(b, 3) for b in np.float64(layer.get_weights()[2])]]
    z, r, candidate = zip(kernels, recurrent, biases, state_biases, strict=True)
    # Keras's gate keeps the old state, the paper's takes the new one: 1 - sigmoid(x) = sigmoid(-x).
    return tuple(-w for w in z), r, candidate


def attention(**config):
    return Case(din_layers.AttentionPoolingLayer, {"att_hidden_units": (5, 4), **config})


CASES = {
    **{
        f"pool_{mode}": Case(din_layers.SequencePoolingLayer, {"mode": mode})
        for mode in ("sum", "mean", "max", "sqrtn")
    },
    **{
        f"weigh_{norm}": Case(din_layers.WeightedSequenceLayer, {"weight_normalization": norm})
        for norm in (True, "sum", "sqrtn", False)
    },
    "attend": attention(),
    "attend_raw": attention(weight_normalization=False),
    "attend_scaled": attention(scale=True),
    "attend_dice": attention(att_activation="dice"),
    "attend_skip": attention(skip_padding=True),
    "attend_sequence_skip_raw_dice": attention(
        skip_padding=True, mode="sequence", weight_normalization=False, att_activation="dice"
    ),
    "evolve": Case(din_layers.AUGRU, {"units": DIM}),
    "evolve_sequence": Case(din_layers.AUGRU, {"units": DIM, "return_sequences": True}),
    "attend_linear": attention(att_hidden_units=()),
    "attend_sequence": attention(mode="sequence"),
    "attend_sequence_raw_dice": attention(
        mode="sequence", weight_normalization=False, att_activation="dice"
    ),
}


@cache
def layer_of(name, dtype="float32", hist_mask_value=NO_EVENT):
    """Return a built layer with weights drawn once; tests must not train it."""
    return CASES[name].make(hist_mask_value=hist_mask_value, dtype=dtype)


def randomize(layer):
    """Draw all weights, so that none is at a value, such as 0, that hides a mistake."""
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        value = rng.normal(0, 0.7, weight.shape)
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.name else value)


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
        return layer(inputs, **{**keywords, **kwargs})

    def inputs(self, case, batch):
        """Return what to call the layer with: its inputs, and the keywords beside them."""
        sequence, valid, weights, query = map(ops.convert_to_tensor, batch.parts)
        keywords = self.read(valid)
        if self.ragged:
            sequence, weights = as_ragged(sequence, valid), as_ragged(weights, valid)
        return {
            "pool": sequence,
            "weigh": [sequence, weights],
            "attend": [query, sequence],
            "evolve": [sequence, weights / SCORES],
        }[case.kind], keywords

    def rows(self, case, output, batch):
        """Return the output of each row at its valid positions, or its whole pooled output."""
        if self.ragged and case.keeps_time:
            return [np.asarray(row, "float64") for row in output]
        output = np.asarray(ops.convert_to_numpy(output)).astype("float64")
        if not case.keeps_time:
            return list(output)
        if case.kind != "evolve":  # whose invalid positions carry the state
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


def make(name, source, dtype="float32"):
    """Return a case, its source and its layer."""
    case, source = CASES[name], SOURCES[source]
    if BACKEND != "tensorflow" and source.needs_tensorflow:
        pytest.skip("strings and ragged tensors in a model are TensorFlow's")
    if BACKEND != "tensorflow" and case.skips_padding:
        pytest.skip("skip_padding has no effect: as the case without it")
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
