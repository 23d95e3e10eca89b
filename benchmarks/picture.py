"""The picture of docs/speed.md: a training step where only the padding grows, by backend."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from report import Table

DPI = 160
APART = 0.17  # of the height of a panel: a label has two lines
STYLES = {
    "naive": {"color": "0.35", "linewidth": 1.6, "marker": "s"},
    "padded": {"color": "#b3592a", "linewidth": 1.6, "marker": "D"},
    "default": {"color": "#0b5fa5", "linewidth": 3.0, "marker": "o"},
}


def draw(curves: Mapping[str, Table]) -> Figure:
    """Draw the curves of each backend in a panel of its own; all have the same axes."""
    figure = Figure(figsize=(3.15 * len(curves) + 0.3, 3.8), layout="constrained")
    panels = figure.subplots(1, len(curves), sharex=True, sharey=True, squeeze=False)[0]
    numbers = {backend: np.array(table.rows, float) for backend, table in curves.items()}
    times = np.concatenate([rows[:, 1:].ravel() for rows in numbers.values()])
    panels[0].set(xscale="log", yscale="log", ylim=(times.min() / 1.5, times.max() * 1.5))
    panels[0].set_ylabel("a training step, milliseconds")
    panels[0].yaxis.set_major_formatter("{x:,g}")
    for axes, (backend, table) in zip(panels, curves.items(), strict=True):
        axes.set_title(backend, fontsize=13, fontweight="bold")
        _draw_panel(axes, numbers[backend], table.columns[1:])
    figure.supxlabel(
        "positions of a history: the same events, ever more padding  (×: speed, naive is 1)",  # noqa: RUF001
        fontsize=11,
    )
    return figure


def _draw_panel(axes: Axes, rows: np.ndarray, names: Sequence[str]) -> None:
    lengths, times = rows[:, 0], dict(zip(names, rows[:, 1:].T, strict=True))
    for name, of in times.items():
        axes.plot(lengths, of, markersize=4, **STYLES[name])
    axes.set_xlim(lengths[0] / 1.3, lengths[-1] * 5)  # room for the labels
    axes.spines["bottom"].set_bounds(lengths[0] / 1.3, lengths[-1])
    ticks = [length for length in (10, 100, 1000, 4000) if length <= lengths[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    ends = {name: of[-1] for name, of in times.items()}
    low, high = np.log(axes.get_ylim())
    names = sorted(ends, key=ends.__getitem__)
    heights = spread([(np.log(ends[name]) - low) / (high - low) for name in names])
    for name, height in zip(names, heights, strict=True):
        ratio = ends["naive"] / ends[name]
        digits = 0 if ratio >= 10 else 1
        axes.text(
            lengths[-1] * 1.2,
            height,
            f"{name}\n{ratio:,.{digits}f} ×",  # noqa: RUF001
            transform=axes.get_xaxis_transform(),  # x as the data, y as a share of the panel
            color=STYLES[name]["color"],
            fontweight="bold" if name == "default" else None,
            verticalalignment="center",
        )


def spread(heights: Sequence[float]) -> list[float]:
    """Move ascending heights, shares of a panel, until no label lies on another."""
    result, lowest = [], APART / 2
    for height in heights:
        result.append(max(height, lowest))
        lowest = result[-1] + APART
    highest = 1 - APART / 2
    for place in reversed(range(len(result))):
        result[place] = min(result[place], highest)
        highest = result[place] - APART
    return result
