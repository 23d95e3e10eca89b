"""The variants of `million`, apart: the command line knows them without Keras."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """One way to build and feed the model."""

    title: str  # what the table calls it
    model: Mapping[str, Any] = {}  # arguments of `build_ranker`
    history: int = 30  # the most ratings of a history


ALL = 10_000  # no user of a million ratings has as many
MEAN = {"pooling": "mean"}
VARIANTS = {  # the first one is the base
    "din": Variant("DIN, 30 ratings"),
    "mean": Variant("mean pooling, 30 ratings", MEAN),
    "no_softmax": Variant("DIN without softmax", {"softmax": False}),
    "scale": Variant("DIN, scores / sqrt(dim)", {"scale": True}),
    "sigmoid": Variant("DIN with sigmoid", {"activation": "sigmoid"}),
    "no_l2": Variant("DIN without regularisation", {"film_l2": 0.0}),
    "aware": Variant("DIN with mini-batch aware L2", {"film_l2": 0.01, "mini_batch_aware": True}),
    "recency": Variant("DIN that sees how long ago", {"recency": True}),
    "dien": Variant("DIEN, 30 ratings", {"pooling": "evolution"}),
    "bst": Variant("BST, 30 ratings", {"pooling": "transformer"}),
    "din_200": Variant("DIN, 200 ratings", history=200),
    "mean_200": Variant("mean pooling, 200 ratings", MEAN, 200),
    "din_all": Variant("DIN, all ratings", history=ALL),
    "mean_all": Variant("mean pooling, all ratings", MEAN, ALL),
}
# What the attention is compared with, all else the same.
MEAN_OF = {"din": "mean", "din_200": "mean_200", "din_all": "mean_all"}
