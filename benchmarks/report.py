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

BACKENDS = ("TensorFlow", "JAX", "PyTorch")
_INTRODUCTION = """\
# Benchmarks

Ratios of medians of interleaved runs: the other's time / our time, so larger is better, unless a
table says otherwise. Of the attention, "padded" is `skip_padding=False`, "skipping" `True`,
"default" `None`. `python benchmarks/run.py` makes this file, on JAX and PyTorch with
`KERAS_BACKEND` set; each section says how it was made. [The speed page](../docs/speed.md) is made
of it.
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
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"{self.note}\n\n{text}" if self.note else text


Measured = Iterator[Table]
Options = argparse.Namespace  # of `run.py`


def cell(values: Sequence[float]) -> str:
    """Word ratios, such as those of the forward pass and of the training step."""
    return " / ".join(f"{value:.2f}" for value in values)


def milliseconds(seconds: float) -> str:
    """Word a time."""
    return f"{1000 * seconds:.2f}"


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
    sections = _sections(file) if file.exists() else {}
    sections[heading] = text
    parts = [sections[key].strip() + "\n" for key in order if key in sections]
    file.write_text("\n".join([_INTRODUCTION, *parts]), encoding="utf-8")


def _sections(file: Path) -> dict[str, str]:
    parts = file.read_text(encoding="utf-8").split("\n## ")[1:]
    return {part.partition("\n")[0]: f"## {part}" for part in parts}


class Section(NamedTuple):
    """What the file says of a section on a backend."""

    tables: Sequence[Table]
    made: str


Results = Mapping[tuple[str, str], Section]  # by the names of section and backend


def read(file: Path) -> Results:
    """Read the tables back."""
    results = {}
    for heading, text in _sections(file).items():
        _, *blocks, made = text.strip().split("\n\n")
        tables = []
        for note, lines in zip(blocks[::2], blocks[1::2], strict=True):
            columns, _, *rows = [
                [cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()
            ]
            tables.append(Table(note, columns, rows))
        name, backend = heading.partition(":")[0].split(" on ")
        results[name, backend] = Section(tables, made)
    return results
