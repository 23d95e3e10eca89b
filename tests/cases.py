"""Every sequence layer in every mode, and every way to tell it which positions are valid."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import oracles
import tensorflow as tf
from strategies import DIM

import din_layers

NO_EVENT = 0  # the id of an invalid position
STRING_NO_EVENT = "none"
SCORES = 4  # AUGRU's scores are the weights, 0 to 4, over this: its scores lie between 0 and 1


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
        """Whether the order of the events matters (law 6 does not hold)."""
        return self.kind == "evolve"

    @property
    def queries(self):
        """The number of queries that it takes, None for any."""
        return 1 if self.config.get("mode") == "sequence" else None

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
        read: From a batch to (companions, mask) beside the padded sequence.
        prefix: Whether it can only tell prefixes.
        ragged: Whether the sequence itself is ragged.
        hist_mask_value: The id of an invalid position.
    """

    read: Callable[[Any], tuple[list[Any], Any]]
    prefix: bool = False
    ragged: bool = False
    hist_mask_value: int | str = NO_EVENT

    def call(self, case, layer, batch, companions=(), **kwargs):
        """Call a layer on a batch of NumPy arrays or tensors, with further companions."""
        inputs, mask = self.inputs(case, batch, companions)
        output = layer(inputs, mask=mask, **kwargs)
        if case.kind == "evolve" and case.keeps_time and not self.ragged:
            # Invalid positions carry the state. The laws are about what the valid ones give.
            return tf.where(batch.valid[..., None], output, tf.zeros_like(output))
        return output

    def inputs(self, case, batch, companions=()):
        """Return what to call the layer with: inputs, and the mask of the sequence among them."""
        own_companions, mask = self.read(batch)
        query, sequence, weights = map(
            tf.convert_to_tensor, (batch.query, batch.sequence, batch.weights)
        )
        if self.ragged:
            sequence, weights = as_ragged(sequence, batch), as_ragged(weights, batch)
        before, after = {
            "pool": ([], []),
            "weigh": ([], [weights]),
            "attend": ([query], []),
            "evolve": ([], [weights / SCORES]),
        }[case.kind]
        inputs = [*before, sequence, *own_companions, *companions, *after]
        if len(inputs) == 1:
            return sequence, mask
        return inputs, None if mask is None else [mask if x is sequence else None for x in inputs]

    def rows(self, case, output, batch):
        """Return the output of each row at its valid positions, or its whole pooled output."""
        if not case.keeps_time:
            return list(np.asarray(output, "float64"))
        if self.ragged:
            return [np.asarray(row, "float64") for row in output]
        output = np.asarray(output, "float64")
        np.testing.assert_array_equal(output[~batch.valid], 0, "invalid positions must be zero")
        return [row[ok] for row, ok in zip(output, batch.valid, strict=True)]


def as_ragged(x, batch):
    """Return the valid positions of `x`, (batch, time, ...), as a ragged tensor."""
    return tf.RaggedTensor.from_row_lengths(tf.boolean_mask(x, batch.valid), batch.lengths)


def ids(batch):
    """Ids of events, 0 where invalid."""
    return np.where(
        batch.valid, np.arange(batch.valid.size).reshape(batch.valid.shape) + 1, NO_EVENT
    )


def string_ids(batch):
    return tf.constant(np.where(batch.valid, "film ä", STRING_NO_EVENT).astype(object), tf.string)


SOURCES = {
    "mask": Source(lambda batch: ([], tf.convert_to_tensor(batch.valid))),
    "ids": Source(lambda batch: ([tf.constant(ids(batch))], None)),
    "string_ids": Source(
        lambda batch: ([string_ids(batch)], None), hist_mask_value=STRING_NO_EVENT
    ),
    "lengths": Source(lambda batch: ([tf.convert_to_tensor(batch.lengths)], None), prefix=True),
    "column_lengths": Source(
        lambda batch: ([tf.cast(batch.lengths, tf.int32)[:, None]], None), prefix=True
    ),
    "ragged": Source(lambda batch: ([], None), ragged=True),
    "all": Source(
        lambda batch: (
            [tf.constant(ids(batch), tf.int64), tf.cast(batch.lengths, tf.int8)],
            tf.convert_to_tensor(batch.valid),
        ),
        prefix=True,
    ),
}


def make(name, source, dtype="float32"):
    """Return a case, its source and its layer."""
    source = SOURCES[source]
    return CASES[name], source, layer_of(name, dtype, source.hist_mask_value)
