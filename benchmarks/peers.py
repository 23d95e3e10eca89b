"""How good the same DIN is in DeepCTR, in torch-rechub, and here, on a million ratings.

    python benchmarks/peers.py --data ml-1m --peers runs

Rows, split and scores are those of `python examples/studies million`. All models get the same ids
(film, its first genre, stars; the user's gender, age and occupation), the same sizes, the same
batches in the same order, and Adam as it is; the epoch is the best on the validation part. Then the
same models are asked with short and with empty histories. Prints one table and writes it to
`benchmarks/peers.md`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from fit import PEERS, Worker, peer_python
from report import Table, section_text
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from studies.data import LIKED, NOT_RATED, Ints, MovieLens, load
from studies.million import inputs_of, split_by_time
from studies.scores import NAMES, mean_and_spread, measure

BATCH, HISTORY = 1024, 30
SHORT = (3, 0)  # events that are left of a history
OURS = "padded, XLA"
TITLES = {OURS: "din-layers (TensorFlow)"}
HEADING = "The same DIN on a million ratings"


def columns(data: MovieLens, events: Ints, history: int = HISTORY) -> dict[str, Ints]:
    """Return the ids of these rows as every library takes them, with so many of the events."""
    places = np.arange(len(data.user)) - data.first
    inputs = inputs_of(data, events, places, HISTORY)
    genre = data.genres[:, 0]
    # The newest first, and padding behind.
    kept = np.arange(HISTORY) < history
    films, stars = (inputs.pop(f"history_{x}")[:, ::-1] * kept for x in ("movies", "ratings"))
    asked = {name: x[:, 0].astype(np.int32) for name, x in inputs.items() if x.shape[1] == 1}
    return {
        **asked,
        "genre": genre[asked["movie"]],
        "rating": np.full_like(asked["movie"], NOT_RATED),
        "history_movie": films,
        "history_genre": genre[films],
        "history_rating": stars,
    }


def write(file: Path, data: MovieLens, events: Ints, seed: int) -> None:
    """Write what is trained on."""
    found = columns(data, events)
    counts = {name: int(of.max()) + 1 for name, of in data.users.items()}
    counts |= {"movie": len(data.titles), "genre": len(data.genre_names), "rating": NOT_RATED + 1}
    sizes = [counts[name] for name in found if name in counts]
    label = (data.rating[events] >= LIKED).astype(np.int32)
    np.savez(file, **found, label=label, sizes=sizes, batch=BATCH, seed=seed)


def run(
    way: str, python: Path, data: MovieLens, folder: Path, epochs: int, bar: tqdm
) -> dict[str, float]:
    """Train one model; return its scores at the best epoch, and examples per second."""
    parts = split_by_time(data)
    worker = Worker(python, way, folder / "training.npz")

    def score(part: str, history: int = HISTORY) -> dict[str, float]:
        rows, out = folder / f"{part}_{history}.npz", folder / "found.npy"
        if not rows.exists():
            np.savez(rows, **columns(data, parts[part], history))
        worker.predict(rows, out)
        return measure(data.rating[parts[part]] >= LIKED, np.load(out), data.user[parts[part]])

    best, seconds = {"validation": 0.0}, []
    for epoch in range(1, epochs + 1):
        seconds.append(worker.epoch())
        found = score("validation")["AUC"]
        if found > best["validation"]:
            short = {f"AUC, {count} events": score("test", count)["AUC"] for count in SHORT}
            best = {**score("test"), **short, "epoch": epoch, "validation": found}
        bar.update()
    worker.process.communicate()
    return {**best, "rate": len(parts["training"]) / np.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the DIN of three libraries.")
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="ml-1m of GroupLens")
    add("--peers", type=Path, required=True, metavar="DIR", help="for their environments")
    add("--limit", type=int, metavar="N", help="only so many users")
    add("--epochs", type=int, default=3)
    add("--seeds", type=int, default=3)
    options = parser.parse_args()
    try:
        data = load(options.data, options.limit)
    except ValueError as error:
        parser.error(str(error))
    training = split_by_time(data)["training"]
    pythons = {OURS: Path(sys.executable)} | {p: peer_python(p, options.peers) for p in PEERS}
    found = []
    total = options.seeds * len(pythons) * options.epochs
    with tqdm(total=total, unit="epoch") as bar, tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            events = np.random.default_rng(seed).permutation(training)
            write(Path(folder, "training.npz"), data, events, seed)
            for way, python in pythons.items():
                bar.set_description(f"{way}, seed {seed}")
                scores = run(way, python, data, Path(folder), options.epochs, bar)
                found.append({"way": way, **scores})
                bar.write(f"seed {seed}: {found[-1]}")
    names = [*NAMES, *(f"AUC, {count} events" for count in SHORT)]
    rows = [
        [
            TITLES.get(way, way),
            *(mean_and_spread(of[name]) for name in names),
            f"{of['epoch'].min()}-{of['epoch'].max()}",
            f"{of['rate'].median():,.0f}",
        ]
        for way, of in pd.DataFrame(found).groupby("way", sort=False)
    ]
    table = Table(
        f"{len(training):,} rows to train with, histories of {HISTORY}, batch {BATCH}; embeddings"
        " of 16, attention 80-40 with Dice and softmax, then 128-64. Test part; mean and standard"
        f" deviation over {options.seeds} seeds, each at the epoch that is best on validation.",
        ["", *names, "epoch", "examples per second"],
        rows,
    )
    text = section_text(HEADING, [table], f"--seeds {options.seeds} --epochs {options.epochs}")
    print(text)
    Path(__file__).with_name("peers.md").write_text(text.removeprefix("#"), encoding="utf-8")


if __name__ == "__main__":
    main()
