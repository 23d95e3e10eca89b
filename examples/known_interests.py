"""Does the attention find interests that are known? A made-up log, where the best answer is known.

Every film has one of a dozen topics, and every user likes or dislikes each topic, by the toss of a
coin. A rating follows the user's liking of the topic nine times in ten. The models see ids and
ratings, as on MovieLens, and no topic. What the best possible model would say follows from Bayes'
rule: only what the user gave to films of the same topic counts.

So the attention should learn from ids alone which films belong together, and look at those of the
history that share the topic of the film in question. A plain mean over the history cannot tell
which rating was given to which topic.

    python examples/known_interests.py

prints the AUC of DIN and mean pooling against the best possible one, and the share of the attention
that lies on films of the same topic, on ratings held out; and draws them (`interests.png`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from command_line import Parser, run_example, whole
from movielens import (
    LIKED,
    RATING_IDS,
    Film,
    Floats,
    Ints,
    Longs,
    MovieLens,
    Ratings,
    held_out,
    histories,
    number,
)

# What is slow to import is imported where it is needed: a mistyped option is answered at once.
if TYPE_CHECKING:
    import keras

# The log ---------------------------------------------------------------------------------------

TOPICS = 12
FILMS = 240
RATINGS = 60  # of each user
HISTORY = 50
FAITHFUL = 0.9  # the share of ratings that follow the user's liking of the topic
GOOD, BAD = RATING_IDS[5.0], RATING_IDS[1.0]


@dataclass(frozen=True)
class Log:
    """Ratings as the models get them, and what only the maker of the log knows."""

    data: MovieLens
    topics: Ints  # (films + 1,), -1 for padding


def make_log(users: int, seed: int) -> Log:
    """Draw a log."""
    rng = np.random.default_rng(seed)
    topics = np.arange(FILMS) % TOPICS
    likes = rng.random((users, TOPICS)) < 0.5
    # No user rates a film twice.
    movie = np.argsort(rng.random((users, FILMS)), axis=1)[:, :RATINGS]
    faithful = rng.random(movie.shape) < FAITHFUL
    good = np.take_along_axis(likes, topics[movie], axis=1) == faithful
    ratings = Ratings(
        user=np.repeat(np.arange(users), RATINGS),
        movie=movie.ravel(),
        rating=np.where(good, GOOD, BAD).astype(np.int32).ravel(),
        time=np.tile(np.arange(RATINGS), users),
    )
    films = {film: Film(f"Film {film} of topic {topics[film]}", ()) for film in range(FILMS)}
    data = number(films, ratings)
    return Log(data, np.concatenate([[-1], topics[np.unique(ratings.movie)]]).astype(np.int32))


def best_answers(log: Log, events: Longs, history: int) -> Floats:
    """The probability that the best possible model gives to `events`, by Bayes' rule."""
    data = log.data
    movies, ratings = histories(data, data.first[events], events, history)
    same = log.topics[movies] == log.topics[data.movie[events]][:, None]
    surplus = np.where(same, np.where(ratings >= LIKED, 1, -1), 0).sum(axis=1)
    likes_topic = 1 / (1 + ((1 - FAITHFUL) / FAITHFUL) ** surplus)
    return likes_topic * FAITHFUL + (1 - likes_topic) * (1 - FAITHFUL)


# The models ------------------------------------------------------------------------------------


def train(log: Log, pooling: str, training: Longs, epochs: int, seed: int) -> keras.Model:
    """Train a model of `din.py`; it knows no genres."""
    import din
    import ragged_training
    from tqdm import tqdm

    no_genres = np.zeros((len(log.data.titles), 1), np.float32)
    model = din.build_model(
        no_genres,
        pooling=pooling,
        genre_units=1,
        attention_units=(32, 16),
        film_l2=0.0,
        ragged=True,
        seed=seed,
    )
    with tqdm(total=epochs, desc=pooling, unit="epoch", mininterval=1) as bar:
        ragged_training.train(
            model,
            log.data,
            training,
            {},
            history=HISTORY,
            epochs=epochs,
            batch=256,
            learning_rate=2e-3,
            seed=seed,
            on_epoch=bar.update,
        )
    return model


def answers(model: keras.Model, log: Log, events: Longs) -> tuple[Floats, Floats | None]:
    """Probabilities (events,), and of a DIN the attention weights (events, history)."""
    import din
    import ragged_training

    inputs = ragged_training.batches(log.data, events, HISTORY, din.SCORING_BATCH)
    inputs = inputs.map(lambda inputs, _: inputs)
    if model.name != "attention":
        return np.asarray(model.predict(inputs, verbose=0))[:, 0], None
    explained = din.attention_model(model)
    parts = [[np.asarray(x) for x in explained(batch, training=False)] for batch in inputs]
    weights = np.zeros((len(events), HISTORY), np.float32)
    row = 0
    for _, part in parts:  # as wide as the longest history of its batch
        weights[row : row + len(part), : part.shape[2]] = part[:, 0]
        row += len(part)
    return np.concatenate([probability[:, 0] for probability, _ in parts]), weights


# What the attention looked at --------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """Where the attention lies, over questions whose history has the topic and others."""

    mass: float  # the mean share of the weights on films of the topic in question
    share: float  # the mean share of these films among the history: the mass under a plain mean
    by_topic: Floats  # (TOPICS, TOPICS): by topic in question and of the film, times a plain mean


def look(log: Log, events: Longs, weights: Floats) -> Attention:
    """Compare the weights (events, history) with what is known."""
    data = log.data
    movies, _ = histories(data, data.first[events], events, HISTORY)
    asked, seen = log.topics[data.movie[events]], log.topics[movies]
    valid = movies > 0
    same = valid & (seen == asked[:, None])
    mixed = same.any(axis=1) & (valid & ~same).any(axis=1)
    relative = weights * valid.sum(axis=1, keepdims=True)
    pairs = np.broadcast_to(asked[:, None], seen.shape)[valid] * TOPICS + seen[valid]
    counts = np.bincount(pairs, minlength=TOPICS**2)
    sums = np.bincount(pairs, weights=relative[valid], minlength=TOPICS**2)
    return Attention(
        mass=float(np.where(same, weights, 0).sum(axis=1)[mixed].mean()),
        share=float((same.sum(axis=1) / valid.sum(axis=1).clip(1))[mixed].mean()),
        by_topic=(sums / counts.clip(1)).reshape(TOPICS, TOPICS),
    )


def draw(attention: Attention, aucs: dict[str, float], file: Path) -> None:
    """Draw the attention by topics, and the AUCs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    image = left.imshow(attention.by_topic, cmap="Blues", vmin=0)
    left.set_xlabel("topic of a film of the history")
    left.set_ylabel("topic of the film in question")
    left.set_title("Attention, times that of a plain mean")
    figure.colorbar(image, ax=left)
    bars = right.barh(
        list(aucs), list(aucs.values()), color=["tab:gray", "tab:blue", "tab:orange"], height=0.5
    )
    right.bar_label(bars, fmt="{:.3f}", padding=3)
    right.invert_yaxis()
    right.set_xlim(0.5, 1)
    right.set_xlabel("AUC on the ratings held out")
    right.set_title("AUC (0.5 is guessing)")
    figure.suptitle(
        f"No model is told the topics: {attention.mass:.0%} of the attention lies on films of the\n"
        f"topic in question, which are {attention.share:.0%} of the history"
    )
    figure.savefig(file, dpi=110)


# Command line ----------------------------------------------------------------------------------

FILES = ("interests.png",)


def parser() -> Parser:
    """All options."""
    result = Parser(description="Train DIN on a made-up log whose interests are known.")
    result.add_argument("--users", type=whole(2), default=1200, help="users (default: %(default)s)")
    result.add_argument(
        "--epochs", type=whole(1), default=20, help="passes over the log (default: %(default)s)"
    )
    result.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, help="of everything random (default: 0)"
    )
    result.add_argument(
        "--out",
        type=Path,
        default=Path("runs/known_interests"),
        metavar="DIR",
        help="where interests.png goes (default: %(default)s)",
    )
    return result


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the picture goes to `staging`."""
    log = make_log(options.users, options.seed)
    test_events = held_out(log.data)
    test, training = np.flatnonzero(test_events), np.flatnonzero(~test_events)
    print(
        f"{options.users:,} users, {FILMS} films of {TOPICS} topics: {len(training):,} ratings to"
        f" train with, {len(test):,} held out",
        flush=True,
    )

    import din

    label = (log.data.rating[test] >= LIKED).astype(np.int32)
    aucs = {"best possible": din.auc(label, best_answers(log, test, HISTORY))}
    for name, pooling in (("DIN", "attention"), ("mean pooling", "mean")):
        model = train(log, pooling, training, options.epochs, options.seed)
        probability, weights = answers(model, log, test)
        aucs[name] = din.auc(label, probability)
        if weights is not None:
            attention = look(log, test, weights)
    print(f"\n{'':<14} {'AUC':>6}")
    for name, auc in aucs.items():
        print(f"{name:<14} {auc:>6.4f}")
    print(
        f"{attention.mass:.1%} of DIN's attention lies on films of the topic in question, which are"
        f" {attention.share:.1%} of the history."
    )
    draw(attention, aucs, staging / "interests.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("known_interests", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
