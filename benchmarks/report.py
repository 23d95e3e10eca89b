"""Medians, tables of them, and the Markdown file that they are kept in."""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

_INTRODUCTION = """\
# Benchmarks

Ratios of medians of interleaved runs: the other's time / our time, so larger is better, unless a
table says otherwise. `python benchmarks/run.py` makes this file, on JAX and PyTorch with
`KERAS_BACKEND` set; each section says how it was made.
"""


def interleaved_medians(
    candidates: Mapping[Any, Callable[[], Any]], runs: int, warm_up: int = 3
) -> dict[Any, float]:
    """Return the median seconds of each candidate.

    The candidates take turns, so that a machine that slows down slows them all; their ratios hold
    where their seconds do not.
    """
    for run in candidates.values():
        for _ in range(warm_up):
            run()
    seconds: dict[Any, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


class Table(NamedTuple):
    """Results of one section: what is compared and how, the headings, the cells as text."""

    note: str
    columns: Sequence[str]
    rows: Iterable[Sequence[str]]

    def __str__(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([self.note, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


Measured = Iterator[Table]
Options = argparse.Namespace  # of `run.py`


def cell(values: Sequence[float]) -> str:
    """Word ratios, such as those of the forward pass and of the training step."""
    return " / ".join(f"{value:.2f}" for value in values)


def versions() -> str:
    """Return one line on what the numbers were measured with."""
    from backends import BACKEND, NAME, device

    packages = {"din-layers": "din_layers", "Keras": "keras", NAME: BACKEND, "NumPy": "numpy"}
    found = [f"{name} {import_module(of).__version__}" for name, of in packages.items()]
    return ", ".join([*found, f"Python {platform.python_version()}", device()])


def section_text(heading: str, tables: Iterable[Table], settings: str) -> str:
    """Return the text of a section of the file."""
    made = f"Measured on {datetime.date.today()} ({settings}) with {versions()}."
    return "\n\n".join([f"## {heading}", *map(str, tables), made]) + "\n"


def update(file: Path, heading: str, text: str, order: Sequence[str]) -> None:
    """Put a section into the file and keep the others, so that each can be measured alone."""
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    sections = {part.partition("\n")[0]: f"## {part}" for part in old.split("\n## ")[1:]}
    sections[heading] = text
    parts = [sections[key].strip() + "\n" for key in order if key in sections]
    file.write_text("\n".join([_INTRODUCTION, *parts]), encoding="utf-8")
