"""How fast the layers are: one command for all numbers.

    pip install -e ".[examples]"
    python benchmarks/run.py                          # everything, in about fifteen minutes
    KERAS_BACKEND=jax python benchmarks/run.py        # the same on JAX; so also on torch
    python benchmarks/run.py --only attention fit     # some sections
    python benchmarks/run.py --only length            # the picture of docs/speed.md
    python benchmarks/run.py --peers runs             # also DeepCTR and torch-rechub

Prints one table for each section and writes it to `benchmarks/results.md` as soon as it is
measured, in the place of the section's former numbers; so what was interrupted goes on with
`--only`. From that file come docs/speed.md, its picture and README's table (`pages.py`). Each
section is the file of its name in this folder. `accelerator.sh` measures on a GPU.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pages
from report import BACKENDS, section_text, update
from tqdm import tqdm

SECTIONS = {
    "attention": "the attention against the layer as it is commonly written",
    "length": "a training step where only the padding grows",
    "dice": "training with Dice",
    "calls": "what one eager call costs",
    "first_call": "what the compiler takes",
    "candidates": "many candidates against one history",
    "labels": "training with many labels for one history",
    "pooling": "pooling, weighting, AUGRU and Dice against what Keras has",
    "ids": "VocabLayer and HashLayer against Keras's StringLookup, IntegerLookup and Hashing",
    "fit": "`fit` of a whole DIN on MovieLens, against DeepCTR's and torch-rechub's",
    "memory": "peak memory of a training step over long histories",
}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Measure how fast the layers are, as ratios.",
        epilog="Sections: " + "; ".join(f"{name}, {what}" for name, what in SECTIONS.items()),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, every = result.add_argument, list(SECTIONS)
    add("--only", nargs="+", choices=every, default=every, metavar="SECTION", help="to measure")
    add("--runs", type=int, default=20, help="that a median is taken of")
    peers = "folder of environments with the others' DIN for `fit`, made with pip if it has none"
    add("--peers", type=Path, metavar="DIR", help=peers)
    add("--half", action="store_true", help="every other row of `attention`, where time is dear")
    add("--quick", action="store_true", help="tiny sizes, to see that it runs; needs --out")
    elsewhere = "where the tables go; no page is made of other files"
    add("--out", type=Path, default=pages.RESULTS, metavar="FILE", help=elsewhere)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    if options.runs < 1:
        parser().error(f"argument --runs: must be at least 1, not {options.runs}")
    if not options.out.absolute().parent.is_dir():
        parser().error(f"argument --out: no folder {options.out.absolute().parent}")
    if options.quick and options.out == pages.RESULTS:
        parser().error("argument --quick: needs --out, its numbers mean nothing")
    from backends import NAME  # only now, since this imports TensorFlow, JAX or PyTorch

    headings = {
        (name, on): f"{name} on {on}: {what}" for name, what in SECTIONS.items() for on in BACKENDS
    }
    with tqdm([name for name in SECTIONS if name in options.only], leave=False) as progress:
        for name in progress:
            progress.set_description(name)
            tables = list(importlib.import_module(name).measure(options))
            if not tables:
                continue  # nothing to measure on this backend
            heading = headings[name, NAME]
            text = section_text(heading, tables, f"--runs {options.runs}")
            update(options.out, heading, text, list(headings.values()))
            progress.write(text)
    if options.out == pages.RESULTS:
        pages.write()
    print(f"wrote {options.out}", file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Each candidate is a function of its own, which TensorFlow takes for one traced again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    main()
