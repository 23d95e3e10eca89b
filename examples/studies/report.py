"""The one table of the studies, and their pictures."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.data import Floats
from studies.scores import NAMES, Run, Scores, mean_and_spread

FEW = 20_000  # training rows; with fewer, the seed moves the scores more than the pooling does


def table(rows: Mapping[str, Mapping[str, object]]) -> str:
    """One line for each row, by its name; the columns of all rows, empty where one has none."""
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").to_string()


def score_columns(of_seeds: Sequence[Scores]) -> dict[str, str]:
    """Mean and spread of each score over the seeds; without users there is no GAUC."""
    values = {name: [one[name] for one in of_seeds] for name in NAMES}
    return {name: mean_and_spread(x) for name, x in values.items() if not np.isnan(x).all()}


def score_row(runs: Sequence[Run]) -> dict[str, str]:
    """The row of a model: its scores after the last epoch, its size and its time."""
    seconds = np.median([epoch.seconds for run in runs for epoch in run.epochs])
    return {
        **score_columns([run.epochs[-1].scores["test"] for run in runs]),
        "parameters": f"{runs[0].parameters:,}",
        "s / epoch": f"{seconds:.1f}",
    }


def print_scores(runs: Mapping[str, Sequence[Run]], trained_with: int) -> None:
    """Print the table of the models, and what it does not say."""
    print(f"\n{table({name: score_row(of_model) for name, of_model in runs.items()})}")
    print(
        "On what was held out. GAUC: the mean of the users' own AUCs, weighted by their ratings.\n"
        "Seconds are of processor time. Another seed alone moves a score by .003 or so."
    )
    if trained_with < FEW:
        print(f"Only {trained_with:,} rows to train with: too few to tell the models apart.")


def shorten(title: str, length: int) -> str:
    """Cut a title in front of its year, " (1995)"."""
    return title if len(title) <= length else f"{title[: length - 8].rstrip()}…{title[-7:]}"


def save(figure: Figure, file: Path) -> None:
    with warnings.catch_warnings():
        # Titles in scripts that the font lacks are drawn as boxes; the rest stays readable.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, dpi=110)


def draw_training(runs: Mapping[str, Sequence[Run]], file: Path) -> None:
    """Draw log loss and held-out AUC after each epoch, of the first seed of each model."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, aucs = figure.subplots(1, 2)
    for place, (name, (run, *_)) in enumerate(runs.items()):
        style = {"color": f"C{place}", "marker": "osD"[place]}
        held_out = pd.DataFrame([epoch.scores["test"] for epoch in run.epochs])
        epochs, training = held_out.index + 1, [epoch.log_loss for epoch in run.epochs]
        losses.plot(epochs, training, "--", **style, mfc="white", label=f"{name}, training")
        losses.plot(epochs, held_out["log loss"], **style, label=f"{name}, held out")
        aucs.plot(epochs, held_out["AUC"], **style, label=name)
    low, high = aucs.get_ylim()
    margin = max(0.0, 0.02 - (high - low)) / 2  # so that noise does not look like a difference
    aucs.set(ylim=(low - margin, high + margin), title="AUC on what was held out")
    losses.set(title="Log loss (training: mean while the epoch runs)")
    for axes in (losses, aucs):
        axes.set(xlabel="epoch", xlim=(0.7, len(epochs) + 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"Training: {', '.join(runs)}")
    save(figure, file)


def heat_map(weights: Floats, row_labels: list[str], column_labels: list[str]) -> Figure:
    """Draw weights relative to a plain mean: red is more than 1, blue is less, as many times."""
    # At least from a quarter to four times, so that noise does not look like attention.
    doublings = max(2, math.ceil(math.log2(weights.max())))
    most = 2.0**doublings
    # Titles, names of the axes and the scale need their room, however few films there are.
    width, height = 4.6 + 0.36 * max(len(column_labels), 8), 4.0 + 0.34 * max(len(row_labels), 8)
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
    axes.tick_params(labelsize=9, length=0)
    axes.set_xlabel("the user's history, old to new, with the rating given")
    axes.set_ylabel("film in question, with the rating given later, by predicted probability p")
    ticks = 2.0 ** np.arange(-doublings, doublings + 1)
    bar = figure.colorbar(image, ax=axes, pad=0.01, ticks=ticks, format="{x:g} ×")  # noqa: RUF001
    bar.minorticks_off()
    bar.set_label("attention weight, times that of a plain mean (logarithmic scale)")
    return figure
