"""The variants of the ablation, apart so that the command line knows them without Keras."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from studies.data import HISTORY


class Variant(NamedTuple):
    """One way to build and feed the model."""

    title: str  # what the table calls it
    model: Mapping[str, Any] = {}  # arguments of `build_din`
    history: int = HISTORY  # the most ratings of a history
    mini_batch_aware: bool = True  # whether the weight decay of the films is that of the paper


MEAN = {"pooling": "mean"}
BASE = "din"
VARIANTS = {
    BASE: Variant("DIN: softmax, Dice, mini-batch aware L2, 50 ratings"),
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
# The attention variants and what they are compared with, all else the same.
MEAN_OF = {
    "din": "mean",
    "l2": "mean_l2",
    "no_l2": "mean_no_l2",
    "din_200": "mean_200",
    "din_1000": "mean_1000",
}
