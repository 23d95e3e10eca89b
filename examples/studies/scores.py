"""How good predictions are: AUC, user-weighted AUC (GAUC), log loss; and how to say a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

import din_layers
from studies.data import Floats, Ints

TITLES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}


@dataclass(frozen=True)
class Scores:
    """The scores of a part of the data; NaN where one is not defined."""

    auc: float
    gauc: float
    log_loss: float


def measure(label: Ints, probability: Floats, user: Ints | None = None) -> Scores:
    """All scores; GAUC only if it is known whose the rows are."""
    return Scores(
        auc=auc(label, probability),
        gauc=math.nan if user is None else gauc(user, label, probability),
        log_loss=float(log_loss(label, probability.astype(np.float64), labels=[0, 1])),
    )


def auc(label: Ints, probability: Floats) -> float:
    """Area under the ROC curve, NaN if there is only one class."""
    if label.min() == label.max():
        return math.nan
    return float(roc_auc_score(label, probability))


def gauc(user: Ints, label: Ints, probability: Floats) -> float:
    """Mean of the users' own AUCs, weighted by their rows (DIN paper, section 6.2)."""
    metric = din_layers.GAUC(capacity=len(label), dtype="float64")
    metric.update_state(np.stack([label, user], axis=1), probability)
    return float(metric.result())


def mean_and_spread(values: Sequence[float], form: str = ".4f", *, error: bool = False) -> str:
    """Mean and standard deviation over the seeds, or standard error of the mean; one value alone.

    Args:
        values: One number for each seed.
        form: How to write the mean.
        error: Whether the spread is the standard error of the mean.
    """
    mean = format(np.mean(values), form)
    if len(values) < 2:
        return mean
    spread = np.std(values, ddof=1) / (math.sqrt(len(values)) if error else 1)
    return f"{mean} ± {format(spread, form.lstrip('+'))}"
