"""The one table of the studies, and their pictures."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from studies.data import Floats
from studies.scores import NAMES, Scores, mean_and_spread


def table(rows: Mapping[str, Mapping[str, object]]) -> str:
    """One line for each row, by its name; the columns of all rows, empty where one has none."""
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").to_string()


def score_columns(of_seeds: Sequence[Scores]) -> dict[str, str]:
    """Mean and spread of each score over the seeds."""
    return {name: mean_and_spread([one[name] for one in of_seeds]) for name in NAMES}


def shorten(title: str, length: int) -> str:
    """Cut a title in front of its year, " (1995)"."""
    return title if len(title) <= length else f"{title[: length - 8].rstrip()}…{title[-7:]}"


def save(figure: Figure, file: Path) -> None:
    with warnings.catch_warnings():
        # Titles in scripts that the font lacks are drawn as boxes; the rest stays readable.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, dpi=110)


def heat_map(weights: Floats, row_labels: list[str], column_labels: list[str]) -> Figure:
    """Draw weights relative to a plain mean: red is more than 1, blue is less, as many times."""
    # At least from a quarter to four times, so that noise does not look like attention.
    doublings = max(2, math.ceil(math.log2(weights.max())))
    most = 2.0**doublings
    # Titles, names of the axes and the scale need their room, however few films there are.
    width, height = 5.5 + 0.36 * max(len(column_labels), 8), 4.0 + 0.36 * max(len(row_labels), 8)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    # Clipped, because a weight of 0 has no logarithm and would be left blank.
    image = axes.imshow(
        weights.clip(1 / most, most), cmap="RdBu_r", norm=LogNorm(1 / most, most), aspect="auto"
    )
    # parse_math: "$" is a character of some titles, not the start of a formula.
    turned = {"rotation": 60, "horizontalalignment": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(column_labels)), column_labels, parse_math=False, **turned)
    axes.set_yticks(range(len(row_labels)), row_labels, parse_math=False)
    axes.tick_params(labelsize=13, length=0)
    axes.set_xlabel("the user's history, old to new, and its ratings", size=14)
    axes.set_ylabel("films in question, ratings given later", size=14)
    ticks = 2.0 ** np.arange(-doublings, doublings + 1)
    bar = figure.colorbar(image, ax=axes, pad=0.01, ticks=ticks, format="{x:g} ×")  # noqa: RUF001
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=13)
    bar.set_label("attention, times that of a plain mean", size=14)
    return figure
