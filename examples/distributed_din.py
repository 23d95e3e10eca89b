"""DIN on more than one device: the same model as on one, up to rounding.

Trains the MovieLens DIN of `din.py` on the same batches

* on TensorFlow: on one device, and on two with `tf.distribute.MirroredStrategy` (two logical
  devices of this machine's processor), with and without `Dice(synchronized=True)`;
* on JAX: in one process, and in two that talk over 127.0.0.1, with
  `keras.distribution.DataParallel`. Needs `pip install "din-layers[jax]"`.

Prints how far apart weights, Dice's statistics and losses are at the end, and draws the losses'
differences (`differences.png`). The model trained on two devices is an ordinary file (`din.keras`):
it is loaded here, on one, and scored.

    python examples/distributed_din.py
    python examples/distributed_din.py --engine tensorflow --limit 671

The default is the first 100 users, whose ratings say as much about this as all do.

A run on two devices is right if nothing is further from the run on one device than `TOLERANCE`.
Each batch is summed in two halves, which rounds at 1e-7; Adam divides a gradient by its size, so
that where the gradient is little more than rounding, steps of up to the learning rate, 1e-3, may
differ. Without `synchronized`, Dice's variances miss the spread between the two halves, and the
differences are ten times the tolerance and more.

The processes themselves, and how a strategy is set up, are in `replicas.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import replicas
from command_line import Parser, UsageError, movielens_parser, run_example
from movielens import Floats, number, read, split
from replicas import ENGINES

TOLERANCE = 1e-4
FILES = ("din.keras", "differences.png")


# Processes -------------------------------------------------------------------------------------


class ProcessError(RuntimeError):
    """A process of a run failed; the text is what it and its siblings wrote."""


def train(folder: Path, name: str) -> float:
    """Train in processes of its own; return the seconds.

    A backend is chosen, and devices are divided, before Keras is imported: hence the processes,
    also for one device.
    """
    print(f"\n{ENGINES[name].title.strip()}", flush=True)
    count = ENGINES[name].processes
    address = [] if count == 1 else [str(free_port())]
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        logs = [folder / f"{name}-{process}.log" for process in range(count)]
        processes = [
            stack.enter_context(running(folder, name, [str(process), *address], log))
            for process, log in enumerate(logs)
        ]
        # One that fails leaves the others waiting for it.
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
        if any(process.poll() != 0 for process in processes):
            raise ProcessError(report(name, processes, logs))
    return time.perf_counter() - start


@contextlib.contextmanager
def running(
    folder: Path, name: str, arguments: Sequence[str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and end it with the block. Process 0 shows how it gets on."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        # It finds packages where this one does.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, replicas.__file__, str(folder), name, *arguments],
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=output if arguments[0] != "0" else None,
            stderr=output,
            env=environment,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def report(name: str, processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> str:
    """What there is to know about a run that failed."""
    parts = [f"{ENGINES[name].title.strip()}: failed"]
    for place, (process, log) in enumerate(zip(processes, logs, strict=True)):
        ended = "did not end" if process.poll() is None else f"exit code {process.poll()}"
        text = log.read_text(errors="replace").strip()
        parts.append(f"--- process {place}, {ended}\n{text}")
    return "\n".join(parts)


# Comparing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a run left."""

    loss: Floats  # running mean of the epoch, after each step
    weights: dict[str, Floats]
    seconds: float

    @classmethod
    def read(cls, file: Path, seconds: float) -> Result:
        """Read what process 0 wrote."""
        with np.load(file) as arrays:
            weights = dict(arrays)
        return cls(weights.pop("loss"), weights, seconds)

    def difference(self, other: Result) -> Difference:
        """Compare with a run that has the same weights, in the same order."""
        apart = {
            name: float(np.abs(weight - other.weights[name]).max())
            for name, weight in self.weights.items()
        }
        statistics = {name: x for name, x in apart.items() if "/moving_" in name}
        return Difference(
            # Not Python's `max`, which may pass over a NaN.
            weights=float(np.max([x for name, x in apart.items() if name not in statistics])),
            statistics=float(np.max(list(statistics.values()))),
            losses=np.abs(self.loss - other.loss),
        )


@dataclass(frozen=True)
class Difference:
    """How far two runs are apart at most."""

    weights: float
    statistics: float  # of Dice
    losses: Floats  # after each step

    @property
    def loss(self) -> float:
        """The largest difference of the losses."""
        return float(self.losses.max())

    @property
    def largest(self) -> float:
        """The largest of all."""
        return float(np.max([self.weights, self.statistics, self.loss]))


def compare(results: dict[str, Result]) -> dict[str, Difference]:
    """Compare each engine with the one-device run of its backend, and print a table."""
    print(
        f"\n{'largest difference from one device':<40} {'weights':>8} {'statistics':>11}"
        f" {'loss':>8} {'seconds':>8}"
    )
    differences = {}
    for name, result in results.items():
        title, row = ENGINES[name].title, f"{'':>8} {'':>11} {'':>8}"
        if name != ENGINES[name].backend:
            difference = differences[name] = result.difference(results[ENGINES[name].backend])
            row = f"{difference.weights:>8.1e} {difference.statistics:>11.1e}"
            row += f" {difference.loss:>8.1e}"
        print(f"{title:<40} {row} {result.seconds:>8.1f}")
    print(f"Weights: the trained ones. Statistics: Dice's. Tolerance of both and loss: {TOLERANCE}")
    return differences


def check(differences: dict[str, Difference]) -> None:
    """Raise if a run is not the same as on one device."""
    for name, difference in differences.items():
        if name != "unsynchronized" and not difference.largest <= TOLERANCE:
            title = ENGINES[name].title
            raise RuntimeError(f"{title}: {difference.largest} from one device, over {TOLERANCE}")


def draw(differences: dict[str, Difference], file: Path) -> None:
    """Draw how far the losses are from those on one device."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, difference in differences.items():
        steps = np.arange(1, len(difference.losses) + 1)
        # A difference of 0 has no logarithm: it is drawn at the bottom.
        shown = np.maximum(difference.losses, 1e-9)
        axes.plot(steps, shown, label=ENGINES[name].title.strip().replace("the same, ", ""))
    axes.axhline(TOLERANCE, color="grey", linestyle="--", label="tolerance")
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=5e-10)
    axes.set_xlabel("training step")
    axes.set_ylabel("difference of the loss")
    axes.set_title("How far training on two devices is from training on one")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110)


# The job ---------------------------------------------------------------------------------------


def parser() -> Parser:
    """All options."""
    result = movielens_parser(
        "Train DIN on one device and on two, and compare.",
        epochs=1,
        out=Path("runs/distributed_din"),
        files=FILES,
    )
    # Five trainings, most of whose time is starting up: they need not see everything.
    result.set_defaults(limit=100)
    result.add_argument(
        "--engine",
        choices=("tensorflow", "jax", "all"),
        default="all",
        help="the backend to train with (default: all that are installed)",
    )
    return result


def engines(choice: str) -> list[str]:
    """Names of the engines to run."""
    has_jax = importlib.util.find_spec("jax") is not None
    if choice == "jax" and not has_jax:
        raise UsageError('argument --engine: jax is not installed: pip install "din-layers[jax]"')
    if choice == "all" and not has_jax:
        print('jax is not installed (pip install "din-layers[jax]"): TensorFlow only')
    backends = {"tensorflow"} if not has_jax else {"tensorflow", "jax"}
    backends &= {choice} if choice != "all" else backends
    return [name for name, engine in ENGINES.items() if engine.backend in backends]


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    names = engines(options.engine)
    data = number(*read(options.data, options.limit))
    _, _, questions, test = split(data, options.history, options.data)

    # Only now, with arguments and data in order: TensorFlow takes seconds to start.
    import din
    import keras

    order = np.random.default_rng(options.seed).permutation(len(questions.movie))
    np.savez(
        staging / "batches.npz",
        seed=options.seed,
        epochs=options.epochs,
        genre_shares=din.genre_shares(data),
        label=questions.label[order],
        **{name: values[order] for name, values in din.inputs_of(questions).items()},
    )
    print(f"{len(order):,} ratings to train with, {len(test.movie):,} held out")

    seconds = {name: train(staging, name) for name in names}
    results = {name: Result.read(staging / f"{name}.npz", seconds[name]) for name in names}
    differences = compare(results)
    check(differences)
    draw(differences, staging / "differences.png")

    distributed = "mirrored" if "mirrored" in names else "data_parallel"
    (staging / f"{distributed}-0.keras").replace(staging / "din.keras")
    model = keras.models.load_model(staging / "din.keras")
    scores = din.measure(test, din.predict(model, din.inputs_of(test)))
    print(
        f"din.keras, trained on two devices and loaded on one: AUC {scores.auc:.4f} on the"
        " held-out ratings"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    try:
        return run_example("distributed_din", parser(), run, FILES, argv)
    except ProcessError as error:
        print(f"distributed_din: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
