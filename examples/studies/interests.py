"""Does the attention find interests that are known? A made-up log, where the best answer is known.

Every film has one of a dozen topics, and every user likes or dislikes each topic, by the toss of a
coin. A rating follows the user's liking of the topic nine times in ten. The models see ids and
ratings, as on MovieLens, and no topic. What the best possible model would say follows from Bayes'
rule: only what the user gave to films of the same topic counts. So the attention should learn from
ids alone which films belong together; a plain mean cannot tell which rating was given to which.
`interests.png` shows where the attention lies, by topics.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from studies.data import HISTORY, LIKED, Floats, Ints, MovieLens, held_out, number, questions
from studies.din import attention_model, build_din, inputs_of
from studies.report import save, table
from studies.scores import auc, mean_and_spread
from studies.training import SCORING_BATCH, predict, ragged_batches, train

USERS = 1200
TOPICS = 12
FILMS = 240
RATINGS = 60  # of each user
FAITHFUL = 0.9  # the share of ratings that follow the user's liking of the topic
GOOD, BAD = 5.0, 1.0


class Log(NamedTuple):
    """Ratings as the models get them, and what only the maker of the log knows."""

    data: MovieLens
    topics: Ints  # (films + 1,), -1 for padding


def make_log(users: int, seed: int) -> Log:
    rng = np.random.default_rng(seed)
    topics = np.arange(FILMS) % TOPICS
    likes = rng.random((users, TOPICS)) < 0.5
    # No user rates a film twice.
    movie = np.argsort(rng.random((users, FILMS)), axis=1)[:, :RATINGS]
    faithful = rng.random(movie.shape) < FAITHFUL
    good = np.take_along_axis(likes, topics[movie], axis=1) == faithful
    ratings = pd.DataFrame({"userId": np.repeat(np.arange(users), RATINGS)})
    ratings = ratings.assign(movieId=movie.ravel(), timestamp=ratings.index)
    ratings["rating"] = np.where(good, GOOD, BAD).ravel()
    films = pd.DataFrame({"movieId": np.arange(FILMS), "title": "", "genres": ""})
    return Log(number(ratings, films), np.r_[-1, topics[np.unique(movie)]].astype(np.int32))


def best_answers(log: Log, events: Ints, history: int) -> Floats:
    """The probability that the best possible model gives to `events`, by Bayes' rule."""
    asked = questions(log.data, events, history)
    same = log.topics[asked.history_movies] == log.topics[asked.movie][:, None]
    surplus = np.where(same, np.where(asked.history_ratings >= LIKED, 1, -1), 0).sum(axis=1)
    likes_topic = 1 / (1 + ((1 - FAITHFUL) / FAITHFUL) ** surplus)
    return likes_topic * FAITHFUL + (1 - likes_topic) * (1 - FAITHFUL)


def train_on(data: MovieLens, pooling: str, training: Ints, epochs: int, seed: int) -> keras.Model:
    """Train a model that knows no genres, on ragged histories; return it for padded ones."""
    keras.utils.set_random_seed(seed)
    no_genres = np.zeros((len(data.titles), 1), np.float32)
    sizes = {"genre_units": 1, "attention_units": (32, 16), "film_l2": 0.0}
    model = build_din(no_genres, pooling=pooling, ragged=True, **sizes)
    batches = ragged_batches(data, training, HISTORY, 256, shuffle_seed=seed)
    with tqdm(total=epochs, desc=pooling, unit="epoch", disable=None) as bar:
        train(model, batches, epochs=epochs, learning_rate=2e-3, bar=bar)
    padded = build_din(no_genres, pooling=pooling, **sizes)
    padded.set_weights(model.get_weights())
    return padded


class Attention(NamedTuple):
    """Where the attention lies, over questions whose history has the topic and others."""

    mass: float  # the mean share of the weights on films of the topic in question
    share: float  # the mean share of these films among the history: the mass under a plain mean
    by_topic: Floats  # (TOPICS, TOPICS): by topic in question and of the film, times a plain mean


def look(log: Log, events: Ints, weights: Floats) -> Attention:
    """Compare the weights (events, history) with what is known."""
    questioned = questions(log.data, events, HISTORY)
    asked, seen = log.topics[questioned.movie][:, None], log.topics[questioned.history_movies]
    valid = seen >= 0
    same = valid & (seen == asked)
    mixed = same.any(axis=1) & (valid & ~same).any(axis=1)
    times_mean = (weights * valid.sum(axis=1, keepdims=True))[valid]
    topics = [np.broadcast_to(asked, seen.shape)[valid], seen[valid]]
    by_topic, every = pd.Series(times_mean).groupby(topics), range(TOPICS)
    return Attention(
        mass=float(np.where(same, weights, 0).sum(axis=1)[mixed].mean()),
        share=float((same.sum(axis=1) / valid.sum(axis=1).clip(1))[mixed].mean()),
        by_topic=by_topic.mean().unstack().reindex(every, columns=every).fillna(0).to_numpy(),
    )


def draw(attention: Attention, aucs: dict[str, float], file: Path) -> None:
    """Draw the attention by topics, and the AUCs."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    image = left.imshow(attention.by_topic, cmap="Blues", vmin=0)
    left.set(xlabel="topic of a film of the history", ylabel="topic of the film in question")
    left.set_title("Attention, times that of a plain mean")
    figure.colorbar(image, ax=left)
    colours = ["tab:gray", "tab:blue", "tab:orange"]
    bars = right.barh(list(aucs), list(aucs.values()), color=colours, height=0.5)
    right.bar_label(bars, fmt="{:.3f}", padding=3)
    right.invert_yaxis()
    right.set(xlim=(0.5, 1), title="AUC on the ratings held out (0.5 is guessing)")
    figure.suptitle(
        f"No model is told the topics: {attention.mass:.0%} of the attention lies on films of the\n"
        f"topic in question, which are {attention.share:.0%} of the history"
    )
    save(figure, file)


def run_one(users: int, epochs: int, seed: int) -> tuple[dict[str, float], Attention]:
    """Draw a log and train on it; return the AUCs, and where DIN's attention lies."""
    log = make_log(users, seed)
    test_events = held_out(log.data)
    test, training = np.flatnonzero(test_events), np.flatnonzero(~test_events)
    counts = f"{len(training):,} ratings to train with, {len(test):,} held out"
    print(f"{users:,} users, {FILMS} films of {TOPICS} topics, seed {seed}: {counts}", flush=True)
    din = train_on(log.data, "attention", training, epochs, seed)
    mean = train_on(log.data, "mean", training, epochs, seed)
    asked = questions(log.data, test)
    inputs = inputs_of(asked)
    answer, weights = attention_model(din).predict(inputs, batch_size=SCORING_BATCH, verbose=0)
    aucs = {
        "best possible": auc(asked.label, best_answers(log, test, HISTORY)),
        "DIN": auc(asked.label, answer[:, 0]),
        "mean pooling": auc(asked.label, predict(mean, inputs)),
    }
    return aucs, look(log, test, weights[:, 0])


def run(options: argparse.Namespace, staging: Path) -> None:
    found = [run_one(options.limit or USERS, options.epochs, seed) for seed in options.seeds]
    aucs, attention = zip(*found, strict=True)
    lines = {name: {"AUC": mean_and_spread([one[name] for one in aucs])} for name in aucs[0]}
    mass, share = (np.mean([getattr(one, of) for one in attention]) for of in ("mass", "share"))
    print(
        f"\n{table(lines)}\n{mass:.1%} of DIN's attention lies on films of the topic in question,"
        f" which are {share:.1%} of the history."
    )
    draw(attention[0], aucs[0], staging / "interests.png")
