"""Section `imports`: `import din_layers` against `import keras`, in fresh processes."""

import subprocess
import sys
from functools import partial

from report import Measured, Options, Table, cell, interleaved_medians
from tqdm import tqdm


def run(module: str, counts: dict[str, int], progress: tqdm) -> None:
    """Import a module in a fresh process and note how many modules that are."""
    program = f"import sys, {module}; print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    counts[module] = int(done.stdout)
    progress.update()


def measure(options: Options) -> Measured:
    modules, counts = ("keras", "din_layers"), {}
    runs, warm_up = (1, 0) if options.quick else (max(options.runs // 2, 3), 1)
    with tqdm(total=2 * (runs + warm_up), unit="process", leave=False) as progress:
        imports = {module: partial(run, module, counts, progress) for module in modules}
        medians = interleaved_medians(imports, runs, warm_up)
    ratio = medians["din_layers"] / medians["keras"]
    yield Table(
        "Whole processes that only import: time of `din_layers` / time of `keras`. Smaller is"
        " better.",
        ["", "keras", "din_layers", "ratio"],
        [
            ["seconds", *(f"{medians[module]:.2f}" for module in modules), cell([ratio])],
            ["modules", *(str(counts[module]) for module in modules), ""],
        ],
    )
