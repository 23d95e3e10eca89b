"""The pages of speed, made of `results.md`: docs/speed.md, its picture, and README's table.

    python benchmarks/pages.py      # as at the end of each run of `run.py`

The words around the tables are those of `speed_template.md`.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template

import picture
from report import BACKENDS, Results, Table, read

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS, TEMPLATE = HERE / "results.md", HERE / "speed_template.md"
README, SPEED, PICTURE = ROOT / "README.md", ROOT / "docs/speed.md", ROOT / "docs/speed.png"
BEGIN, END = "<!-- speed: written by benchmarks/pages.py -->\n", "\n<!-- end of speed -->"

CASE = "batch, time, dim, share of events"
# By title of a column, the backend and what it is called there.
DEFAULTS = {
    "TensorFlow": ("TensorFlow", "default"),
    "TensorFlow, XLA": ("TensorFlow", "default, XLA"),
    "JAX": ("JAX", "default"),
    "PyTorch": ("PyTorch", "default"),
}
IN_README = ("512, 100, 64, 0.3", "128, 1000, 64, 0.2", "64, 2000, 32, 0.03", "32, 10, 8, 0.5")
SHARE = "as a share of DeepCTR's"
UNKNOWN, NONE = "-", "Not measured yet."


def measured(results: Results, section: str, number: int = 0) -> dict[str, Table]:
    """Return a table of a section by backend, where there is one."""
    found = {on: results[section, on].tables for on in BACKENDS if (section, on) in results}
    return {on: tables[number] for on, tables in found.items() if len(tables) > number}


def beside(results: Results, section: str, columns: Mapping[str, tuple[str, str]]) -> Table:
    """Put columns, each of a backend, side by side."""
    tables = measured(results, section)
    cells = {
        (on, name, row[0]): cell
        for on, table in tables.items()
        for row in table.rows
        for name, cell in zip(table.columns, row, strict=True)
    }
    labels = dict.fromkeys(row[0] for table in tables.values() for row in table.rows)
    rows = [
        [label, *(cells.get((*of, label), UNKNOWN) for of in columns.values())] for label in labels
    ]
    return Table("", ["", *columns], rows)


def stacked(results: Results, section: str, number: int = 0) -> str:
    """Put the tables of all backends below each other."""
    tables = measured(results, section, number)
    columns = list(dict.fromkeys(name for table in tables.values() for name in table.columns))
    rows = []
    for on, table in tables.items():
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            rows.append([on, *(cells.get(name, "") for name in columns)])
    return str(Table("", ["", *columns], rows)) if rows else NONE


def each(results: Results, section: str, number: int = 0) -> str:
    """Return the tables of all backends one by one, where they have columns of their own."""
    tables = measured(results, section, number)
    return "\n\n".join(str(table._replace(note=f"{on}:")) for on, table in tables.items()) or NONE


def defaults(results: Results) -> Table:
    """Return how many times as fast as the naive layer the default is."""
    return beside(results, "attention", DEFAULTS)._replace(columns=[CASE, *DEFAULTS])


def speed(results: Results) -> str:
    """Return the page."""
    curves = measured(results, "length")
    caption = next((table.note for table in curves.values()), "")
    drawn = f"![{caption}]({PICTURE.name})\n\n*{caption}*" if curves else NONE
    every = {on: (on, "forward / train") for on in BACKENDS}
    made = [f"- {on}: {results['attention', on].made}" for on in measured(results, "attention")]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        picture=drawn,
        defaults=defaults(results),
        made="\n".join(made),
        attention=each(results, "attention"),
        dice_attention=each(results, "dice"),
        dice=stacked(results, "dice", 1),
        calls=stacked(results, "calls"),
        first_call=each(results, "first_call"),
        memory=stacked(results, "memory"),
        candidates=stacked(results, "candidates"),
        labels=stacked(results, "labels"),
        fit=stacked(results, "fit"),
        pooling=beside(results, "pooling", every),
        ids=beside(results, "ids", {on: (on, "ratio") for on in BACKENDS}),
    )


def short(results: Results) -> str:
    """Return README's table, which ends with a whole DIN."""
    table = defaults(results)
    rows = [row for row in table.rows if row[0] in IN_README]
    shares = beside(results, "fit", DEFAULTS).rows
    rows += [["`fit` of a DIN / DeepCTR's rate", *row[1:]] for row in shares if row[0] == SHARE]
    return str(table._replace(rows=rows))


def with_table(readme: str, table: str) -> str:
    """Return README with another table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{README.name} must have the lines {BEGIN.strip()} and {END.strip()}.")
    return "".join([before, BEGIN, "\n", table, "\n", END, after])


def write() -> None:
    results = read(RESULTS)
    SPEED.write_text(speed(results), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    README.write_text(with_table(readme, short(results)), encoding="utf-8")
    curves = measured(results, "length")
    if curves:
        picture.draw(curves).savefig(PICTURE, dpi=picture.DPI)


if __name__ == "__main__":
    write()
