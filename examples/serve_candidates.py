"""Serve a DIN: 500 candidates for one user, raw strings in, the history given once.

Trains the DIN of `din.py` on MovieLens and puts the vocabulary in front of it, inside the model.
Exports that as a SavedModel, and the numeric DIN behind it to LiteRT and ONNX. Then each runtime,
in a process of its own that knows none of our classes, scores 500 films for one user: with the
history given once, and with the history tiled 500 times, as a model without an axis for candidates
needs it. The scores must be those of the trained model; the times are printed and drawn.

    pip install -e ".[examples,export]"
    python examples/serve_candidates.py
    python examples/serve_candidates.py --limit 100 --candidates 200 --out runs/small

This file is the job: data, request, checks, table, picture. The model and its exported copies are
in `string_din.py`, what runs on the server in `score_exported.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Parser, UsageError, movielens_parser, run_example, whole
from movielens import (
    Examples,
    Floats,
    Ints,
    MovieLens,
    histories,
    number,
    read,
    split,
    unseen,
)

# A probability in float32, whose sums of some hundred terms each runtime does in its own order.
TOLERANCE = 1e-5

Request = dict[str, Any]  # the inputs of a model by name, the candidates first


# The request -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """The films that one user is asked about, and what the user rated."""

    candidates: Ints  # (candidates,)
    history: Ints  # (history,)
    ratings: Ints  # (history,)

    def as_strings(self, films: Any) -> Request:
        """Return what the model of strings takes."""
        return {
            "candidates": films[self.candidates][None],
            "history": films[self.history][None],
            "stars": (self.ratings / 2).astype(np.float32)[None],
        }

    def as_rows(self, row_of: Ints) -> Request:
        """Return what the numeric model takes."""
        return {
            "movie": row_of[self.candidates][None],
            "history_movies": row_of[self.history][None],
            "history_ratings": self.ratings[None],
        }


def choose_question(data: MovieLens, candidates: int, history: int, seed: int) -> Question:
    """Ask a user whose ratings just fill the history about films drawn from the unseen ones."""
    user = int(np.argmin(np.abs(np.bincount(data.user) - history)))
    films = unseen(data, user)
    if len(films) < candidates:
        raise UsageError(
            f"argument --candidates: {candidates}, but the user has only {len(films)} unseen films"
        )
    drawn = np.random.default_rng(seed).choice(films, candidates, replace=False)
    first, end = data.span(user)
    length = min(history, end - first)
    watched, ratings = histories(data, np.array([first]), np.array([end]), length)
    return Question(drawn, watched[0], ratings[0])


# Asking the runtimes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What one runtime said, and how long it took; "once" and "tiled" name the two ways."""

    name: str
    scores: dict[str, Floats]
    milliseconds: dict[str, Floats]
    kilobytes: dict[str, float]
    difference: float  # from the trained model, the largest of both ways

    def quantile(self, way: str, share: float) -> float:
        """Return the time that `share` of the requests did not exceed."""
        return float(np.quantile(self.milliseconds[way], share))


def ask(
    runtime: str, name: str, model: Path, request: Request, expected: Floats, repeats: int
) -> Answer:
    """Let a runtime score the request in a fresh process, and compare."""
    print(f"Asking {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.npz"), Path(folder, "answer.npz")
        np.savez(asked, **request)
        script = Path(__file__).with_name("score_exported.py")
        process = subprocess.run(
            [sys.executable, script, runtime, model, asked, answered, str(repeats)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(f"{name} does not answer:\n{process.stderr}")
        with np.load(answered) as file:
            answer = dict(file)
    # TensorFlow imports Keras by itself; a model that needed our classes would have them here.
    if "din_layers" in answer["imported"]:
        raise RuntimeError(f"{name} has imported din_layers")
    scores = {way: answer[f"{way}_scores"] for way in ("once", "tiled")}
    difference = max(float(np.max(np.abs(scores[way] - expected))) for way in scores)
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{name} scores differently: {difference} apart")
    milliseconds = {way: 1000 * answer[f"{way}_seconds"] for way in scores}
    kilobytes = {way: int(answer[f"{way}_bytes"]) / 1000 for way in scores}
    return Answer(name, scores, milliseconds, kilobytes, difference)


def print_table(answers: Sequence[Answer], question: Question) -> None:
    """Print one line per runtime."""
    count = len(question.candidates)
    print(
        f"\n{count} candidates, {len(question.history)} films of history, one request at a time\n"
        f"{'':<20} {'history once':>23} {f'tiled {count} times':>25} {'medians':>9} {'largest':>11}"
    )
    columns = f"{'ms':>7} {'p95':>7} {'kB':>7}"
    print(f"{'':<20} {columns}   {columns} {'ratio':>9} {'difference':>11}")
    for answer in answers:
        once, tiled = (
            f"{answer.quantile(way, 0.5):>7.2f} {answer.quantile(way, 0.95):>7.2f}"
            f" {answer.kilobytes[way]:>7.1f}"
            for way in ("once", "tiled")
        )
        ratio = answer.quantile("tiled", 0.5) / answer.quantile("once", 0.5)
        print(f"{answer.name:<20} {once}   {tiled} {ratio:>9.2f} {answer.difference:>11.1e}")
    print(
        "ms: the median; the inputs are ready when the clock starts, so tiling itself costs nothing"
        " here.\nkB: the inputs of one request. Largest difference from the trained model's scores,"
        f" of both ways; {TOLERANCE:g} is allowed."
    )


def print_best(data: MovieLens, question: Question, scores: Floats) -> None:
    """Print the films that the user would be shown."""
    print("\nThe five best candidates:")
    for place in np.argsort(-scores, kind="stable")[:5]:
        print(f"  {scores[place]:.2f}  {data.titles[question.candidates[place]]}")


def draw(answers: Sequence[Answer], question: Question, file: Path) -> None:
    """Draw the times of each runtime, history once and tiled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.9 * len(answers)), layout="constrained")
    axes = figure.add_subplot()
    ways = {"once": ("history once", "tab:blue"), "tiled": ("history tiled", "tab:orange")}
    for offset, (way, (label, colour)) in enumerate(ways.items()):
        places = np.arange(len(answers)) + 0.36 * offset - 0.18
        median = [answer.quantile(way, 0.5) for answer in answers]
        to_p95 = [answer.quantile(way, 0.95) - answer.quantile(way, 0.5) for answer in answers]
        error = [[0.0] * len(answers), to_p95]
        axes.barh(places, median, 0.34, xerr=error, capsize=4, color=colour, label=label)
        for place, value, reach in zip(places, median, to_p95, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (value + reach, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
    axes.set_yticks(range(len(answers)), [answer.name for answer in answers])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("milliseconds a request: median, and up to the 95th percentile")
    axes.set_title(
        f"{len(question.candidates)} candidates for one user with {len(question.history)} films of"
        " history"
    )
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110)


# The job ---------------------------------------------------------------------------------------

FILES = ("saved_model/", "din.tflite", "din.onnx", "latency.png")


def parser() -> Parser:
    """All options."""
    result = movielens_parser(
        "Train a DIN, export it, and score candidates with it in other runtimes.",
        epochs=1,
        out=Path("runs/serve_candidates"),
        files=FILES,
    )
    result.add_argument(
        "--candidates", type=whole(1), default=500, help="films to score (default: 500)"
    )
    result.add_argument(
        "--repeats", type=whole(1), default=100, help="requests to measure (default: 100)"
    )
    return result


def check_packages() -> None:
    """Look for what converts and runs the models, before anything is trained."""
    for package, name in (
        ("ai_edge_litert", "ai-edge-litert"),
        ("onnxruntime", "onnxruntime"),
        ("tf2onnx", "tf2onnx"),
    ):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{name} is missing: pip install din-layers[export]")


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    check_packages()
    films, ratings = read(options.data, options.limit)
    data = number(films, ratings)
    _, _, train_part, test_part = split(data, options.history, options.data)
    question = choose_question(data, options.candidates, options.history, options.seed)
    # `number` counts the films in the order of their ids; the catalogue has them as strings.
    names = np.array(["", *np.unique(ratings.movie).astype(str)])

    # Only now, with arguments and data in order: TensorFlow takes seconds to start.
    import din
    import string_din
    import tensorflow as tf

    rows = string_din.FilmRows(string_din.known_films(names, train_part.movie))
    row_of = rows(tf.constant(names)).numpy()
    print(
        f"{len(names) - 1:,} films: {len(rows.known.keys):,} with enough ratings in the training"
        f" part have a row of\ntheir own, the others share {rows.others.num_buckets}"
    )

    def in_rows(part: Examples) -> Examples:
        return dataclasses.replace(
            part, movie=row_of[part.movie], history_movies=row_of[part.history_movies]
        )

    shares = string_din.mean_by_row(din.genre_shares(data), row_of, rows.count)
    numeric = din.build_model(shares, candidates=None, seed=options.seed)
    parts = in_rows(train_part), in_rows(test_part)
    din.train("DIN", "Training the DIN", numeric, *parts, options.epochs)
    strings = string_din.string_model(numeric, rows)

    by_strings, by_rows = question.as_strings(names), question.as_rows(row_of)
    expected = strings([tf.constant(values) for values in by_strings.values()])[0].numpy()
    print("\nExporting", flush=True)
    string_din.export(strings, numeric, staging)
    answers = [
        ask(runtime, name, staging / file, request, expected, options.repeats)
        for runtime, name, file, request in (
            ("SavedModel", "SavedModel, strings", "saved_model", by_strings),
            ("LiteRT", "LiteRT, ids", "din.tflite", by_rows),
            ("ONNX", "ONNX Runtime, ids", "din.onnx", by_rows),
        )
    ]
    print_table(answers, question)
    print_best(data, question, answers[0].scores["once"])
    draw(answers, question, staging / "latency.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("serve_candidates", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
