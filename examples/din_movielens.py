"""DIN on MovieLens: which films of your history speak for or against the film in question?

Trains a Deep Interest Network (AttentionPoolingLayer with Dice) to say whether a user will give a
film four stars or more, and beside it the same network with a plain mean over the history. Prints
one table for both, saves the DIN, loads it in a fresh process, draws what the attention looked at
(`attention.png`) and how the training went (`training.png`), and recommends ten films.

    python examples/din_movielens.py
    python examples/din_movielens.py --data ml-1m --limit 1000 --out runs/ml-1m

Sizes, weight decay and the number of epochs were chosen on the last fifth of the training part; the
held-out ratings chose nothing. One run is one draw. Seeds 0, 1, 2 gave, on the held-out ratings:

    attention (DIN)   AUC .7929 .7932 .7906   user-weighted AUC .6404 .6391 .6420
    mean              AUC .7898 .7884 .7876   user-weighted AUC .6416 .6407 .6409

The AUC was better with attention for every seed, the log loss too. The user-weighted AUC was not.

This file is the job: data, table, recommendations, pictures. The models are in `din.py`, the data
in `movielens.py`, the command line in `command_line.py`.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from command_line import Parser, movielens_parser, run_example
from movielens import (
    Bools,
    Floats,
    Ints,
    MovieLens,
    histories,
    number,
    read,
    sizes,
    split,
    unseen,
)

# What is slow to import is imported where it is needed: a mistyped option is answered at once.
if TYPE_CHECKING:
    from din import Answer, Run
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # Films in question, films of the history, their ratings -> what the DIN says.
    Ask = Callable[[Ints, Ints, Ints], Answer]


# The table -------------------------------------------------------------------------------------

FEW = 20_000  # training examples; with fewer, the seed moves the scores more than the pooling does


def print_table(runs: Sequence[Run]) -> None:
    """Print one line per model: its scores after the last epoch; of several runs, mean and spread.

    The spread is the standard deviation between the runs.
    """
    width = max(len(run.name) for run in runs) + 3
    print(
        f"\n{'history pooled by':<{width}} {'AUC':>14} {'user-weighted AUC':>18} {'log loss':>14}"
        f" {'parameters':>11} {'seconds':>8}"
    )
    for name in dict.fromkeys(run.name for run in runs):
        of_name = [run for run in runs if run.name == name]
        last = [run.held_out[-1] for run in of_name]
        auc, user_auc, log_loss = (
            mean_and_spread([getattr(scores, key) for scores in last])
            for key in ("auc", "user_auc", "log_loss")
        )
        seconds = np.mean([run.seconds for run in of_name])
        print(
            f"{name:<{width}} {auc:>14} {user_auc:>18} {log_loss:>14}"
            f" {of_name[0].parameters:>11,} {seconds:>8.1f}"
        )


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    spread = f"\N{PLUS-MINUS SIGN}{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def print_reading_aid(trained_with: int) -> None:
    """Print what the table does and does not say."""
    print(
        "User-weighted AUC: the mean of each user's own AUC, weighted by their held-out ratings.\n"
        "One run is one draw: another seed alone moves a score by up to 0.003 or so, by more on"
        " less data."
    )
    if trained_with < FEW:
        print(
            f"Only {trained_with:,} ratings to train with: too few to tell the models apart,"
            " or to move the\nattention far from a plain mean."
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


def print_recommendations(ask: Ask, data: MovieLens, user: int, history: int) -> None:
    """Print the ten best unseen films, each with the film of the history that counted most."""
    first, end = data.span(user)
    favourites = first + np.argsort(-data.rating[first:end], kind="stable")[:5]
    print(
        f"\nA user with {end - first} ratings, the one in attention.png."
        " Favourites, by their own ratings:"
    )
    for event in favourites:
        print(f"  {stars(data.rating[event]):>4}  {data.titles[data.movie[event]]}")

    films, least = films_to_recommend(data, user)
    if not len(films):
        print("This user has rated every film: nothing to recommend.")
        return
    answer = ask(films, *latest(data, first, end, history))
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
    print("A share says how much a film was looked at, not whether it spoke for or against.")


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
    ask: Ask, data: MovieLens, test: Bools, user: int, history: int, file: Path
) -> None:
    """Draw a user's held-out films against the films rated before them."""
    first, end = data.span(user)
    cut = end - int(test[first:end].sum())
    answer = ask(picture_films(data, cut, end), *latest(data, first, cut, history))
    given = dict(zip(data.movie[cut:end].tolist(), data.rating[cut:end].tolist(), strict=True))
    rows = np.argsort(-answer.probability, kind="stable")
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
    title = (
        "What the trained DIN looks at, asked about films that one user rated later (rows).\n"
        f"Columns: the {count} latest films of the user's history before those ratings"
    )
    # Times the number of films: 1 is the weight that a plain mean gives to every film.
    figure = heat_map(answer.weights[rows] * count, row_labels, column_labels)
    figure.suptitle(title)
    save(figure, file)


def heat_map(weights: Floats, row_labels: list[str], column_labels: list[str]) -> Figure:
    """Draw weights relative to a plain mean: red is more than 1, blue is less, as many times."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    # At least from a quarter to four times, so that noise does not look like attention.
    doublings = max(2, math.ceil(math.log2(weights.max())))
    most = 2.0**doublings
    # Titles, names of the axes and the scale need their room, however few films there are.
    width, height = 4.6 + 0.36 * max(len(column_labels), 8), 4.0 + 0.34 * max(len(row_labels), 8)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    # Clipped, because a weight of 0 has no logarithm and would be left blank.
    image = axes.imshow(
        weights.clip(1 / most, most), cmap="RdBu_r", norm=LogNorm(1 / most, most), aspect="auto"
    )
    # parse_math: "$" is a character of some titles, not the start of a formula.
    axes.set_xticks(range(len(column_labels)), column_labels, parse_math=False)
    axes.set_yticks(range(len(row_labels)), row_labels, parse_math=False)
    axes.tick_params("x", rotation=60)
    axes.tick_params(labelsize=9, length=0)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlabel("the user's history, old to new, with the rating given")
    axes.set_ylabel("film in question, with the rating given later, by predicted probability p")
    bar = figure.colorbar(
        image,
        ax=axes,
        pad=0.01,
        fraction=0.05,
        ticks=[2.0**power for power in range(-doublings, doublings + 1)],
        format="{x:g} \N{MULTIPLICATION SIGN}",
        extend="min" if weights.min() < 1 / most else "neither",
    )
    bar.minorticks_off()
    bar.set_label("attention weight, times that of a plain mean (logarithmic scale)")
    return figure


def picture_films(data: MovieLens, cut: int, end: int, count: int = 14) -> Ints:
    """Among the ratings `cut <= index < end`: the films that most people know."""
    films = np.unique(data.movie[cut:end])
    known = np.bincount(data.movie)[films]
    return films[np.argsort(-known, kind="stable")[:count]]


def draw_training(
    runs: Sequence[Run],
    file: Path,
    title: str = "Training: the history pooled by attention (DIN) and by a plain mean",
) -> None:
    """Draw log loss and held-out AUC after each epoch, for up to four models."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, aucs = figure.subplots(1, 2)
    styles = zip("osD^", ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True)
    for run, (marker, colour) in zip(runs, styles, strict=False):
        epochs = range(1, len(run.held_out) + 1)
        style = {"color": colour, "marker": marker, "markersize": 8, "linewidth": 2}
        held_out_loss = [scores.log_loss for scores in run.held_out]
        losses.plot(
            epochs,
            run.training_log_loss,
            **{**style, "linestyle": "--", "markerfacecolor": "white"},
            label=f"{run.name}, training",
        )
        losses.plot(epochs, held_out_loss, **style, label=f"{run.name}, held out")
        aucs.plot(epochs, [scores.auc for scores in run.held_out], **style, label=run.name)
    losses.set_title("Log loss (training: mean while the epoch runs)")
    aucs.set_title("AUC on the held-out ratings")
    widen(aucs, 0.02)  # so that noise does not look like a difference
    for axes in (losses, aucs):
        axes.set_xlabel("epoch")
        axes.set_xlim(0.7, len(epochs) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
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


# The job ---------------------------------------------------------------------------------------

PICTURED_HISTORY = 20
FILES = ("din.keras", "attention.png", "training.png")


def parser() -> Parser:
    """All options."""
    return movielens_parser(
        "Train a Deep Interest Network on MovieLens ratings.",
        epochs=2,
        out=Path("runs/din_movielens"),
        files=FILES,
    )


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    data = number(*read(options.data, options.limit))
    parts = split(data, options.history, options.data)
    test_events, history, questions, test = parts
    print(sizes(data, parts), flush=True)

    # Only now, with arguments and data in order: TensorFlow takes seconds to start and writes lines
    # of its own to standard error, where bad arguments or data get exactly one.
    import din

    shares = din.genre_shares(data)
    runs = []
    for name, pooling in (("attention (DIN)", "attention"), ("mean", "mean")):
        model = din.build_model(shares, pooling=pooling, seed=options.seed)
        title = f"Training, history pooled by {name}"
        runs.append(din.train(name, title, model, questions, test, options.epochs))
    print_table(runs)
    print_reading_aid(len(questions.movie))

    trained = runs[0].model
    din.save_and_check(trained, test, staging / "din.keras")
    ask = functools.partial(din.ask, din.attention_model(trained))
    user = choose_user(data, test_events)
    pictured = min(history, PICTURED_HISTORY)
    draw_attention(ask, data, test_events, user, pictured, staging / "attention.png")
    draw_training(runs, staging / "training.png")
    print_recommendations(ask, data, user, history)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("din_movielens", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
