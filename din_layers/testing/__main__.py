"""`python -m din_layers.testing model.keras`: check the masking of a saved model."""

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import keras

from din_layers.testing._check_ids import IDS_DEFAULT, IDS_INVARIANTS, ModelOnIds
from din_layers.testing._invariants import MaskingError
from din_layers.testing._search import applies, search
from din_layers.testing._strategies import PADDINGS


def main(arguments: list[str] | None = None) -> int:
    """Print a table of invariants; return 1 if one fails, 2 if the file is unusable."""
    options = _parser().parse_args(arguments)
    try:
        subject = _load(options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"{options.model}: {_reason(error)}", file=sys.stderr)
        return 2
    print(f"{options.model}: history {', '.join(x.name for x in subject.history)}")
    return 1 if _check(subject, options) else 0


def _reason(error: Exception) -> str:
    """Return one line; Keras names a class that it does not know after pages of configs."""
    if unknown := re.search(r"Could not locate \w+ '[^']+'", str(error)):
        return f"{unknown[0]}: name the module that registers it with --import"
    return str(error).strip().splitlines()[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m din_layers.testing",
        description="Check the masking of a saved Keras model that starts from padded ids.",
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add("model", type=Path, help="a .keras file")
    history = "an input with the time axis; may be repeated"
    add("--history", action="append", metavar="INPUT", help=history)
    add("--output", help="the output to check, if the model has several")
    vocabulary = "the number of ids of an input that feeds no Embedding; may be repeated"
    add("--vocabulary", action="append", default=[], metavar="INPUT=N", help=vocabulary)
    padding = f"where padding may stand {default}"
    add("--padding", choices=PADDINGS, default="right", help=padding)
    add("--order", action="store_true", help="check permutation_invariance too")
    imports = "a module that registers the model's classes; may be repeated"
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=imports)
    add("--max-examples", type=int, default=20, help=f"for each invariant {default}")
    add("--seed", type=int, default=0, help=f"of the search {default}")
    return parser


def _load(options: argparse.Namespace) -> ModelOnIds:
    for module in options.imports:
        importlib.import_module(module)
    vocabulary = {}
    for given in options.vocabulary:
        name, _, size = given.partition("=")
        if not size.isdigit():
            raise ValueError(f"`--vocabulary` must be INPUT=N. Received: {given}")
        vocabulary[name] = int(size)
    if not options.model.is_file():
        raise ValueError("no such file")
    model: Any = keras.models.load_model(options.model, compile=False)
    return ModelOnIds(model, options.history, options.output, vocabulary, options.padding, None)


def _check(subject: ModelOnIds, options: argparse.Namespace) -> list[MaskingError]:
    """Print the verdict on each invariant, and the counterexamples; return these."""
    failures = []
    for name in IDS_INVARIANTS if options.order else IDS_DEFAULT:
        print(f"  {name:<24}", end="", flush=True)
        if not applies(name, subject):
            says = {"loss_skips_padding": "the output has no time axis"}
            why = says.get(name, "the length is fixed and padding on one side, see --padding")
            print(f"says nothing: {why}")
            continue
        try:
            search(subject, name, options.max_examples, options.seed)
        except MaskingError as error:
            failures.append(error)
        print("FAILS" if failures and failures[-1].invariant == name else "holds", flush=True)
    for failure in failures:
        print(f"\n{failure}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
