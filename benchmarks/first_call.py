"""Section `first_call`: how long a compiler takes for the attention."""

import statistics
import time

from attention import Scored, Shape, histories
from backends import ALL_WAYS, BACKEND, DEFAULT, PADDED, XLA
from report import Measured, Options, Table, cell
from tqdm import tqdm

WAYS = [way for way in ALL_WAYS if BACKEND == "jax" or way.endswith(XLA)]


def seconds(way: str, shape: Shape, activation: str) -> float:
    """Trace, compile and run a training step that no other shares."""
    batch, positions, dim, fill = shape
    scored = Scored(dim, activation, [way])
    step = scored.run(way, True, *histories(batch, positions, fill))
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(options: Options) -> Measured:
    if BACKEND == "torch":  # which compiles nothing
        return
    shape = (4, 20, 4, 0.3) if options.quick else (512, 100, 64, 0.3)
    activations = ["sigmoid"] if options.quick else ["sigmoid", "dice"]
    turns = max(1, min(3, options.runs // 4))
    if not options.quick:  # what the compiler needs for a first program
        seconds(WAYS[0], (2, 3, 4, 0.5), "sigmoid")
    rows = []
    for activation in tqdm(activations, leave=False):
        found = {way: [] for way in WAYS}
        for _ in range(turns):
            for way, times in found.items():
                times.append(seconds(way, shape, activation))
        medians = {way: statistics.median(times) for way, times in found.items()}
        (padded,), (default,) = (
            [medians[way] for way in WAYS if way.removesuffix(XLA) == wanted]
            for wanted in (PADDED, DEFAULT)
        )
        rows.append([activation, *(f"{x:.2f}" for x in medians.values()), cell([default / padded])])
    yield Table(
        "Seconds of the first training step of a fresh layer, batch, time, dim, fill ="
        f" {', '.join(map(str, shape))}: tracing, compiling, one run.",
        ["activation", *WAYS, "default / padded"],
        rows,
    )
