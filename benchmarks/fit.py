"""Section `fit`: a whole DIN trained on MovieLens, in examples per second, against the peers' DIN.

Each model lives in a process of its own, `fit_worker.py`, and they take turns epoch by epoch.
"""

import contextlib
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
from backends import BACKEND, WAYS
from report import Measured, Options, Table, cell
from tqdm import trange

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from studies.data import held_out, load, questions

# By peer: what pip installs, and the package whose version is the one of this environment.
PEERS = {
    "DeepCTR": ("deepctr==0.9.4", "tensorflow"),
    "torch-rechub": ("torch-rechub==0.9.0", "torch"),
}
BATCH, HISTORY = 512, 50


def write_data(file: Path, batches: int, limit: int | None) -> int:
    """Write the inputs of the models; return how many examples they are."""
    data = load(limit=limit)
    events = np.random.default_rng(0).permutation(np.flatnonzero(~held_out(data)))
    asked = questions(data, events[: batches * BATCH], HISTORY)
    first_genre = data.genres[:, 0]
    np.savez(
        file,
        user=asked.user + 1,
        movie=asked.movie,
        genre=first_genre[asked.movie],
        history_movie=asked.history_movies,
        history_genre=first_genre[asked.history_movies],
        label=asked.label,
        sizes=[data.user.max() + 2, len(data.titles), len(data.genre_names)],
        batch=BATCH,
        seed=0,
    )
    return len(asked.label)


def peer_python(peer: str, folder: Path) -> Path:
    """Return the interpreter of an environment with a peer, which is made if there is none."""
    python = folder / peer.lower() / "bin" / "python"
    if not python.exists():
        print(f"making {python.parents[1]} ...", file=sys.stderr, flush=True)
        venv.create(python.parents[1], with_pip=True)
        package, backend = PEERS[peer]
        version = importlib.metadata.version(backend)
        packages = [package, f"{backend}=={version}"]
        if backend == "tensorflow":
            packages.append(f"tf-keras~={version}")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


class Worker:
    """A model in a process of its own, waiting."""

    def __init__(self, python: Path, way: str, data: Path) -> None:
        # Each library shows its own warnings and notes; what fails is seen by its exit.
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("fit_worker.py"), way, data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1" if way in PEERS else "0"},
        )

    def epoch(self) -> float:
        """Train for an epoch; return the seconds it took."""
        return self._told("")

    def predict(self, rows: Path, out: Path) -> None:
        """Write the probabilities of the rows of a file."""
        self._told(f"{rows}\t{out}")

    def _told(self, order: str) -> float:
        print(order, file=self.process.stdin, flush=True)
        for line in self.process.stdout or ():
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}")


def measure(options: Options) -> Measured:
    batches, epochs = (1, 1) if options.quick else (40, max(3, options.runs // 4))
    ways = WAYS[-1:] if options.quick else WAYS
    pythons = {way: Path(sys.executable) for way in ways}
    if options.peers:
        peers = [p for p, (_, backend) in PEERS.items() if backend in ("tensorflow", BACKEND)]
        pythons = {peer: peer_python(peer, options.peers) for peer in peers} | pythons
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder, "data.npz")
        count = write_data(data, batches, limit=20 if options.quick else None)
        workers = {way: Worker(python, way, data) for way, python in pythons.items()}
        seconds: dict[str, list[float]] = {way: [] for way in workers}
        for worker in workers.values():
            stack.callback(worker.process.communicate)
        for _ in trange(1 + epochs, unit="epoch of each", leave=False):
            for way, worker in workers.items():
                seconds[way].append(worker.epoch())
    # The first of each traces and compiles.
    rates = {way: count / statistics.median(times[1:]) for way, times in seconds.items()}
    rows = [["examples per second", *(f"{rate:,.0f}" for rate in rates.values())]]
    for peer in [name for name in PEERS if name in rates]:
        rows.append([f"as a share of {peer}'s", *(cell([r / rates[peer]]) for r in rates.values())])
    yield Table(
        f"`fit` on {count:,} ratings: user, film, first genre, and the histories of both"
        f" ({HISTORY}); batch {BATCH}, embeddings of 16, attention 80-40 with Dice, then 128-64."
        " DeepCTR 0.9.4 runs with TensorFlow and legacy Keras; torch-rechub 0.9.0 with PyTorch and"
        " its own trainer, which is given whole batches.",
        ["", *rates],
        rows,
    )
