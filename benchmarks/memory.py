"""Section `memory`: peak memory of a training step over long histories, in fresh processes."""

import ctypes
import subprocess
import sys
from pathlib import Path

from attention import Scored, Shape, histories
from backends import BACKEND, NAIVE, WAYS, Run
from report import Measured, Options, Table, cell
from tqdm import tqdm


def measure(options: Options) -> Measured:
    shape = (2, 30, 4, 0.2) if options.quick else (128, 1000, 64, 0.2)
    ways = [NAIVE, *WAYS[-1:]] if options.quick else [NAIVE, *WAYS]
    peaks = {}
    for way in tqdm(ways, unit="process", leave=False):
        command = [sys.executable, __file__, way, *map(str, shape)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[way] = float(run.stdout)
    ratios = [cell([peaks[NAIVE] / peak]) for peak in peaks.values()]
    yield Table(
        f"A training step, batch, time, dim, fill = {', '.join(map(str, shape))}: the most memory"
        " that it takes beyond what the process holds before it.",
        ["", *peaks],
        [["MiB", *(f"{peak:.0f}" for peak in peaks.values())], ["naive / ours", *ratios]],
    )


def _step(way: str, shape: Shape) -> Run:
    batch, time, dim, fill = shape
    scored = Scored(dim, ways=[] if way == NAIVE else [way])
    return scored.run(way, True, *histories(batch, time, fill))


def peak_of_step(way: str, shape: Shape) -> float:
    """Return in MiB how far a training step lifts the peak of this process."""
    _step(way, (2, 30, 4, 0.2))()  # what the backend needs for a first function
    step = _step(way, shape)
    if BACKEND == "jax":  # whose compiler takes more than the step
        step()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _memory("VmRSS")
    step()
    return max(_memory("VmHWM") - before, 1.0)


def _memory(field: str) -> float:
    """Return what Linux says of this process, in MiB.

    Not `resource.getrusage`: its peak begins with that of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


if __name__ == "__main__":
    batch, time, dim, fill = sys.argv[2:]
    print(peak_of_step(sys.argv[1], (int(batch), int(time), int(dim), float(fill))))
