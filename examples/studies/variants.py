"""The variants of `ablation` and `million`, apart: the command line knows them without Keras."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from studies.data import HISTORY


class Variant(NamedTuple):
    """One way to build and feed the model."""

    title: str  # what the table calls it
    model: Mapping[str, Any] = {}  # arguments of `build_din`
    history: int = HISTORY  # the most ratings of a history
    mini_batch_aware: bool = True  # whether the weight decay of the films is that of the paper


ALL = 10_000  # no user of a million ratings has as many
MEAN = {"pooling": "mean"}
ABLATION = {
    "din": Variant("DIN: softmax, Dice, mini-batch aware L2, 50 ratings"),
    "mean": Variant("mean pooling", MEAN),
    "sum": Variant("sum pooling", {"pooling": "sum"}),
    "no_softmax": Variant("DIN without softmax", {"softmax": False}),
    "scale": Variant("DIN, scores / sqrt(dim)", {"scale": True}),
    "sigmoid": Variant("DIN with sigmoid", {"activation": "sigmoid"}),
    "prelu": Variant("DIN with PReLU", {"activation": "prelu"}),
    "l2": Variant("DIN with plain L2", mini_batch_aware=False),
    "no_l2": Variant("DIN without regularisation", {"film_l2": 0.0}, mini_batch_aware=False),
    "mean_l2": Variant("mean pooling, plain L2", MEAN, mini_batch_aware=False),
    "mean_no_l2": Variant(
        "mean pooling, no regularisation", {**MEAN, "film_l2": 0.0}, mini_batch_aware=False
    ),
    "din_200": Variant("DIN, 200 ratings", history=200),
    "mean_200": Variant("mean pooling, 200 ratings", MEAN, history=200),
    "din_1000": Variant("DIN, 1000 ratings", history=1000),
    "mean_1000": Variant("mean pooling, 1000 ratings", MEAN, history=1000),
}
MILLION = {
    "din": Variant("DIN, 30 ratings", history=30),
    "mean": Variant("mean pooling, 30 ratings", MEAN, 30),
    "no_softmax": Variant("DIN without softmax", {"softmax": False}, 30),
    "scale": Variant("DIN, scores / sqrt(dim)", {"scale": True}, 30),
    "sigmoid": Variant("DIN with sigmoid", {"activation": "sigmoid"}, 30),
    "no_l2": Variant("DIN without regularisation", {"film_l2": 0.0}, 30),
    "aware": Variant(
        "DIN with mini-batch aware L2", {"film_l2": 0.01, "mini_batch_aware": True}, 30
    ),
    "recency": Variant("DIN that sees how long ago", {"recency": True}, 30),
    "dien": Variant("DIEN, 30 ratings", {"pooling": "evolution"}, 30),
    "bst": Variant("BST, 30 ratings", {"pooling": "transformer"}, 30),
    "din_200": Variant("DIN, 200 ratings", history=200),
    "mean_200": Variant("mean pooling, 200 ratings", MEAN, 200),
    "din_all": Variant("DIN, all ratings", history=ALL),
    "mean_all": Variant("mean pooling, all ratings", MEAN, ALL),
}
VARIANTS = {"ablation": ABLATION, "million": MILLION}  # the first of each is the base
# What an epoch of a million rows takes on two cores.
MINUTES = {
    "ablation": dict.fromkeys(ABLATION, 2.8),
    "million": {
        **{"din": 0.6, "mean": 0.3, "dien": 2, "bst": 1.5, "recency": 0.7},
        **dict.fromkeys(("no_softmax", "scale", "sigmoid", "no_l2", "aware"), 0.6),
        **{"din_200": 3, "mean_200": 1, "din_all": 6, "mean_all": 2},
    },
}
# The attention variants and what they are compared with, all else the same.
MEAN_OF = {
    "din": "mean",
    "l2": "mean_l2",
    "no_l2": "mean_no_l2",
    "din_200": "mean_200",
    "din_1000": "mean_1000",
    "din_all": "mean_all",
}
