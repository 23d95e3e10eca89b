"""The picture of docs/speed.md: a training step where only the padding grows, by backend."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from report import Table

DPI = 160
APART = 1.45  # at least, between two labels, as a factor
STYLES = {
    "naive": {"color": "0.35", "linewidth": 1.6, "marker": "s"},
    "padded": {"color": "#b3592a", "linewidth": 1.6, "marker": "D"},
    "default": {"color": "#0b5fa5", "linewidth": 3.0, "marker": "o"},
}


def draw(curves: Mapping[str, Table]) -> Figure:
    """Draw the curves of each backend in a panel of its own; all have the same axes."""
    figure = Figure(figsize=(3.5 * len(curves) + 0.3, 3.9), layout="constrained")
    panels = figure.subplots(1, len(curves), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (backend, table) in zip(panels, curves.items(), strict=True):
        _draw_panel(axes, backend, np.array(table.rows, float), table.columns[1:])
    panels[0].set_ylabel("a training step, milliseconds")
    figure.supxlabel("positions of a history: the events stay the same, the rest is padding")
    return figure


def _draw_panel(axes: Axes, backend: str, rows: np.ndarray, names: list[str]) -> None:
    lengths, times = rows[:, 0], dict(zip(names, rows[:, 1:].T, strict=True))
    for name, of in times.items():
        axes.plot(lengths, of, markersize=4, **STYLES[name])
    axes.set(xscale="log", yscale="log")
    axes.set_title(backend, fontsize=13, fontweight="bold")
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 5)  # room for the labels
    ticks = [10, 100, 1000, 4000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    naive, height = times["naive"][-1], 0.0
    for name, of in sorted(times.items(), key=lambda item: item[1][-1]):
        height = max(of[-1], height * APART)
        ratio = "" if name == "naive" else f"\n{naive / of[-1]:.2g} × faster"  # noqa: RUF001
        text = f"{name}{ratio}"
        axes.text(lengths[-1] * 1.15, height, text, color=STYLES[name]["color"], va="center")
