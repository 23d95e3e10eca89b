"""The variants of the ablation, apart so that the command line knows them without Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studies.data import HISTORY


@dataclass(frozen=True)
class Variant:
    """One way to build and feed the model."""

    title: str  # what the table calls it
    history: int = HISTORY  # the most ratings of a history
    mini_batch_aware: bool = True  # whether the weight decay of the films is that of the paper
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # arguments of `build_din`


MEAN = {"pooling": "mean"}
BASE = "din"
VARIANTS = {
    BASE: Variant("DIN: softmax, Dice, mini-batch aware L2, 50 ratings"),
    "mean": Variant("mean pooling", model=MEAN),
    "sum": Variant("sum pooling", model={"pooling": "sum"}),
    "no_softmax": Variant("DIN without softmax", model={"softmax": False}),
    "scale": Variant("DIN, scores / sqrt(dim)", model={"scale": True}),
    "sigmoid": Variant("DIN with sigmoid", model={"activation": "sigmoid"}),
    "prelu": Variant("DIN with PReLU", model={"activation": "prelu"}),
    "l2": Variant("DIN with plain L2", mini_batch_aware=False),
    "no_l2": Variant("DIN without regularisation", mini_batch_aware=False, model={"film_l2": 0.0}),
    "mean_l2": Variant("mean pooling, plain L2", mini_batch_aware=False, model=MEAN),
    "mean_no_l2": Variant(
        "mean pooling, no regularisation", mini_batch_aware=False, model={**MEAN, "film_l2": 0.0}
    ),
    "din_200": Variant("DIN, 200 ratings", history=200),
    "mean_200": Variant("mean pooling, 200 ratings", history=200, model=MEAN),
    "din_1000": Variant("DIN, 1000 ratings", history=1000),
    "mean_1000": Variant("mean pooling, 1000 ratings", history=1000, model=MEAN),
}
# The attention variants and what they are compared with, all else the same.
MEAN_OF = {"din": "mean", "l2": "mean_l2", "no_l2": "mean_no_l2"} | {
    f"din_{history}": f"mean_{history}" for history in (200, 1000)
}
