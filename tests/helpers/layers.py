"""The registry of layers: every one in every mode, how to call it, and what it should give.

All tests draw from here. `ONE_OF_EACH` has every public class; `CASES` has every sequence layer in
every mode, with its float64 result. The modes are those that the package's own errors list: a new
one is in every test at once, and fails where `oracles.py` does not know it.
"""

import abc
import ast
import itertools
from functools import cache

import keras
import numpy as np
import pytest
from helpers import oracles
from helpers.strategies import DIM
from keras import ops

import din_layers
from din_layers.testing import DEFAULT_INVARIANTS

NO_EVENT = 0  # the id of an invalid position


def choices(layer, argument):
    """Return what a layer takes for an argument, as its error lists it: but for the bools."""
    with pytest.raises(ValueError, match="must be one of") as caught:
        layer(**{argument: ()})
    listed = str(caught.value).split("must be one of ")[1].split(". Received")[0]
    return [choice for choice in ast.literal_eval(f"[{listed}]") if not isinstance(choice, bool)]


POOLING_MODES = choices(din_layers.SequencePoolingLayer, "mode")
NORMALIZATIONS = choices(din_layers.WeightedSequenceLayer, "weight_normalization")


# One of each --------------------------------------------------------------------------------------

SEQUENCE = np.random.default_rng(1).normal(size=(3, 4, DIM)).astype("float32")
QUERY = np.random.default_rng(2).normal(size=(3, 1, DIM)).astype("float32")
IDS = np.array([[3, 0, 5, 6], [0, 0, 0, 0], [7, 8, 0, 0]], "int32")
WEIGHTS = np.random.default_rng(3).uniform(size=(3, 4)).astype("float32")
LENGTHS = np.array([4, 1, 2], "int32")

# The class, arguments that it needs or that show more, and its inputs: None where the tests of the
# class have their own. A sequence layer keeps the time axis where it can.
ONE_OF_EACH = {
    "attention": (din_layers.AttentionPoolingLayer, {"mode": "sequence"}, [QUERY, SEQUENCE]),
    "pooling": (din_layers.SequencePoolingLayer, {}, SEQUENCE),
    "weighting": (din_layers.WeightedSequenceLayer, {}, [SEQUENCE, WEIGHTS]),
    "augru": (din_layers.AUGRU, {"units": 2, "return_sequences": True}, [SEQUENCE, WEIGHTS]),
    "dice": (din_layers.Dice, {}, SEQUENCE),
    "l2": (din_layers.MiniBatchAwareL2, {"frequencies": [0, 3], "l2": 0.1}, None),
    "gauc": (din_layers.GAUC, {"capacity": 9}, None),
    "vocab": (din_layers.VocabLayer, {"keys": ["a", "b"], "mask_value": "a"}, None),
    "hash": (din_layers.HashLayer, {"num_buckets": 9, "mask_value": ""}, None),
    "valid_positions": (keras.saving.get_registered_object("din_layers>ValidPositions"), {}, None),
}


def made(name, **config):
    """Return one of a class, with the same weights each time, and its inputs."""
    of, own, inputs = ONE_OF_EACH[name]
    keras.utils.set_random_seed(1)
    return of(**{**own, **config}), inputs


SEQUENCE_LAYERS = [x for x in ONE_OF_EACH if "mask_required" in made(x)[0].get_config()]
every_layer = pytest.mark.parametrize("name", SEQUENCE_LAYERS)


# Every sequence layer in every mode ---------------------------------------------------------------


class Case(abc.ABC):
    """A sequence layer in one mode: what it is called on, and what it should give.

    Attributes:
        layer: The class.
        config: Its arguments.
        keeps_time: Whether the output has the time axis of the sequence.
        ordered: Whether the order of the events matters.
        queries: The number of queries that it takes, None for any.
        skips_padding: Whether it takes events out of their padding.
        list_place: Where lists of earlier versions had what tells valid positions; None: nowhere.
    """

    layer = None
    keeps_time = False
    ordered = False
    queries = None
    skips_padding = False
    list_place = 1

    def __init__(self, **config):
        self.config = config

    def build(self, layer):
        """Make the weights of a layer; here it has none."""
        return None

    def nest(self, x):
        """Return what the layer takes for what a batch has."""
        return x

    def unnest(self, output):
        """Return what a batch has for what the layer gave."""
        return output

    @abc.abstractmethod
    def inputs(self, sequence, weights, query):
        """Return what the layer is called on."""

    @abc.abstractmethod
    def row(self, layer, events, weights, query):
        """Return the float64 result of one row from its valid events alone."""

    @property
    def invariants(self):
        """The invariants of masking that it promises."""
        # The state of an AUGRU grows without bound when its scores are far above 1.
        unbounded = {"extreme_values"} if self.ordered else set()
        order = () if self.ordered else ("permutation_invariance",)
        return [name for name in (*DEFAULT_INVARIANTS, *order) if name not in unbounded]

    def make(self, **config):
        """Return a built layer with weights drawn from one seed."""
        layer = self.layer(**self.config, **config)
        self.build(layer)
        randomize(layer)
        return layer

    def expected(self, layer, batch):
        """Return the float64 result of each row on its valid events alone."""
        rows = zip(batch.sequence, batch.valid, batch.weights, batch.query, strict=True)
        return [
            self.row(layer, *(x.astype("float64") for x in (seq[ok], weights[ok], query)))
            for seq, ok, weights, query in rows
        ]


def randomize(layer):
    """Draw all weights, so that none is at a value, such as 0, that hides a mistake."""
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        value = rng.normal(0, 0.7, weight.shape)
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.name else value)


class Pooling(Case):
    """A pooling layer."""

    layer = din_layers.SequencePoolingLayer

    def inputs(self, sequence, weights, query):
        return sequence

    def row(self, layer, events, weights, query):
        return oracles.pool(layer.mode, events)[None]


class Nested(Pooling):
    """A pooling layer that is given a batch as the events of one history: each row is an event."""

    list_place = None

    def nest(self, x):
        return keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), x)

    def unnest(self, output):
        return ops.expand_dims(output[0], 1)


class Weighting(Case):
    """A weighting layer."""

    layer = din_layers.WeightedSequenceLayer
    keeps_time = True

    def inputs(self, sequence, weights, query):
        return [sequence, weights]

    def row(self, layer, events, weights, query):
        return events * oracles.normalize(layer.weight_normalization, weights)[:, None]


class Attention(Case):
    """An attention layer."""

    layer = din_layers.AttentionPoolingLayer
    list_place = 2

    def __init__(self, **config):
        super().__init__(**{"att_hidden_units": (5, 4), **config})
        self.keeps_time = config.get("mode") == "sequence"
        self.queries = 1 if self.keeps_time else None
        self.skips_padding = config.get("skip_padding", False)

    def build(self, layer):
        layer.build([(None, None, DIM), (None, None, DIM)])

    def inputs(self, sequence, weights, query):
        return [query, sequence]

    def row(self, layer, events, weights, query):
        scores = oracles.attention_scores(query, events, *mlp(layer), scale=layer.scale)
        weights = oracles.normalize(layer.weight_normalization, scores)
        return oracles.attend(layer.mode, weights, events)


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


class Evolving(Case):
    """An AUGRU; at invalid positions it carries the state."""

    layer = din_layers.AUGRU
    ordered = True
    SCORES = 8  # the weights, 0 to 8, over this are scores between 0 and 1

    def __init__(self, **config):
        super().__init__(**{"units": DIM, **config})
        self.keeps_time = config.get("return_sequences", False)

    def build(self, layer):
        layer.build([(None, None, DIM), (None, None)])

    def inputs(self, sequence, weights, query):
        return [sequence, weights / self.SCORES]

    def row(self, layer, events, weights, query):
        states = oracles.augru(events, weights / self.SCORES, *gates(layer))
        return states[1:] if self.keeps_time else states[-1]


def gates(layer):
    """Return, in float64 and as DIEN's paper has them, the weights of u, r and the candidate."""
    kernels, recurrent, (biases, state_biases) = [
        np.split(np.float64(w), 3, axis=-1) for w in layer.get_weights()[:2]
    ] + [[np.split(b, 3) for b in np.float64(layer.get_weights()[2])]]
    z, r, candidate = zip(kernels, recurrent, biases, state_biases, strict=True)
    # Keras's gate keeps the old state, the paper's takes the new one: 1 - sigmoid(x) = sigmoid(-x).
    return tuple(-w for w in z), r, candidate


ATTENTION_MODES = itertools.product(
    choices(din_layers.AttentionPoolingLayer, "mode"),
    choices(din_layers.AttentionPoolingLayer, "weight_normalization"),
)
# Of each family the first case stands for it where all would take too long.
FAMILIES = [
    {f"pool_{mode}": Pooling(mode=mode) for mode in POOLING_MODES},
    {f"pool_tags_{mode}": Nested(mode=mode) for mode in POOLING_MODES},
    {f"weigh_{kind}": Weighting(weight_normalization=kind) for kind in NORMALIZATIONS},
    {
        **{
            f"attend_{mode}_{kind}": Attention(mode=mode, weight_normalization=kind)
            for mode, kind in ATTENTION_MODES
        },
        "attend_scaled": Attention(scale=True),
        "attend_dice": Attention(att_activation="dice"),
        "attend_linear": Attention(att_hidden_units=()),
        "attend_skip": Attention(skip_padding=True),
        "attend_sequence_skip_raw_dice": Attention(
            skip_padding=True, mode="sequence", weight_normalization=None, att_activation="dice"
        ),
    },
    {"evolve": Evolving(), "evolve_sequence": Evolving(return_sequences=True)},
]
CASES = {name: case for family in FAMILIES for name, case in family.items()}


def cases_of(*kinds):
    """Return the names of all cases of some classes."""
    return [name for name, case in CASES.items() if type(case) in kinds]


@cache
def layer_of(name, dtype="float32", hist_mask_value=NO_EVENT):
    """Return a built layer with weights drawn once; tests must not train it."""
    return CASES[name].make(hist_mask_value=hist_mask_value, dtype=dtype)
