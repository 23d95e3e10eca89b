"""How a sequence layer is wired into the tests: what it is called on, and what it should give."""

import numpy as np

from din_layers.testing import DEFAULT_INVARIANTS


class Case:
    """A sequence layer in one mode; the subclasses stand beside the layers' own tests.

    Attributes:
        layer: The class.
        config: Its arguments.
        keeps_time: Whether the output has the time axis of the sequence.
        ordered: Whether the order of the events matters.
        queries: The number of queries that it takes, None for any.
        skips_padding: Whether it takes events out of their padding.
        list_place: Where lists of earlier versions had what tells valid positions; None: nowhere.
    """

    keeps_time = False
    ordered = False
    queries = None
    skips_padding = False
    list_place = 1

    def __init__(self, layer, config):
        self.layer, self.config = layer, config

    def build(self, layer):
        """Make the weights of a layer, if it has any."""

    def nest(self, x):
        """Return what the layer takes for what a batch has."""
        return x

    def unnest(self, output):
        """Return what a batch has for what the layer gave."""
        return output

    def inputs(self, sequence, weights, query):
        """Return what the layer is called on."""
        raise NotImplementedError

    def row(self, layer, events, weights, query):
        """Return the float64 result of one row from its valid events alone."""
        raise NotImplementedError

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
