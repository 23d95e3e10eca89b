"""How good predictions are: AUC, user-weighted AUC (GAUC), log loss; what a training brought."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

import din_layers
from studies.data import Floats, Ints

NAMES = ["AUC", "GAUC", "log loss"]
Scores = dict[str, float]  # by these names, of a part of the data; NaN where one is not defined


class Epoch(NamedTuple):
    """What one pass over the training part brought."""

    seconds: float  # of processor time, training alone: others on this machine do not count
    scores: dict[str, Scores]  # by the name of the part that was scored


def measure(label: Ints, probability: Floats, user: Ints) -> Scores:
    """All scores."""
    losses = float(log_loss(label, probability.astype(np.float64), labels=[0, 1]))
    scores = (auc(label, probability), gauc(user, label, probability), losses)
    return dict(zip(NAMES, scores, strict=True))


def auc(label: Ints, probability: Floats) -> float:
    one_class = label.min() == label.max()
    return math.nan if one_class else float(roc_auc_score(label, probability))


def gauc(user: Ints, label: Ints, probability: Floats) -> float:
    """Mean of the users' own AUCs, weighted by their rows (DIN paper, section 6.2)."""
    metric = din_layers.GAUC(capacity=len(label), dtype="float64")
    metric.update_state(din_layers.GAUC.targets(label, user), probability)
    return float(metric.result())


def mean_and_spread(values: Sequence[float], form: str = ".4f", *, error: bool = False) -> str:
    """Mean ± standard deviation, or standard error of the mean, over the seeds; one value alone."""
    mean = format(np.mean(values), form)
    if len(values) < 2:
        return mean
    spread = np.std(values, ddof=1) / (math.sqrt(len(values)) if error else 1)
    return f"{mean} ± {format(spread, form.lstrip('+'))}"
