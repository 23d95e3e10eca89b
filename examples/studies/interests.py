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

from studies.data import LIKED, Floats, Ints, MovieLens, held_out, number, questions
from studies.din import attention_model, build_din, inputs_of
from studies.report import save, table
from studies.scores import auc, mean_and_spread
from studies.training import SCORING_BATCH, predict, train

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


def best_answers(log: Log, events: Ints) -> Floats:
    """The probability that the best possible model gives to `events`, by Bayes' rule."""
    asked = questions(log.data, events)
    same = log.topics[asked.history_movies] == log.topics[asked.movie][:, None]
    surplus = np.where(same, np.where(asked.history_ratings >= LIKED, 1, -1), 0).sum(axis=1)
    likes_topic = 1 / (1 + ((1 - FAITHFUL) / FAITHFUL) ** surplus)
    return likes_topic * FAITHFUL + (1 - likes_topic) * (1 - FAITHFUL)


class Attention(NamedTuple):
    """Where the attention lies, over questions whose history has the topic and others."""

    mass: float  # the mean share of the weights on films of the topic in question
    share: float  # the mean share of these films among the history: the mass under a plain mean
    by_topic: Floats  # (TOPICS, TOPICS): by topic in question and of the film, times a plain mean


def look(log: Log, events: Ints, weights: Floats) -> Attention:
    """Compare the weights (events, history) with what is known."""
    questioned = questions(log.data, events)
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


def draw(attention: Attention, file: Path) -> None:
    """Draw the attention by topics."""
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(attention.by_topic, cmap="Blues", vmin=0)
    axes.set(xlabel="topic of a film of the history", ylabel="topic of the film in question")
    axes.set_title("Attention, times that of a plain mean.\nNo model is told the topics")
    figure.colorbar(image, ax=axes)
    save(figure, file)


def run(options: argparse.Namespace) -> None:
    aucs: dict[str, list[float]] = {"best possible": [], "attention": [], "mean": []}
    found = []
    for seed in options.seeds:
        log = make_log(options.limit or USERS, seed)
        test, training = (
            np.flatnonzero(held_out(log.data) == is_test) for is_test in (True, False)
        )
        asked, trained = questions(log.data, test), questions(log.data, training)
        print(f"{log.data}, seed {seed}: {len(test):,} held out", flush=True)
        no_genres = np.zeros((len(log.data.titles), 1), np.float32)
        for pooling in ("attention", "mean"):
            keras.utils.set_random_seed(seed)
            sizes = {"genre_units": 1, "attention_units": (32, 16), "film_l2": 0.0}
            model = build_din(no_genres, pooling=pooling, **sizes)
            inputs, label = inputs_of(trained), trained.label[:, None]
            train(model, inputs, label, epochs=options.epochs, learning_rate=2e-3)
            aucs[pooling].append(auc(asked.label, predict(model, inputs_of(asked))))
            if pooling == "attention":
                two = attention_model(model)
                _, weights = two.predict(inputs_of(asked), batch_size=SCORING_BATCH, verbose=0)
                found.append(look(log, test, weights[:, 0]))
        aucs["best possible"].append(auc(asked.label, best_answers(log, test)))
    mass, share = (np.mean([getattr(one, of) for one in found]) for of in ("mass", "share"))
    print(
        f"\n{table({name: {'AUC': mean_and_spread(of)} for name, of in aucs.items()})}\n"
        f"{mass:.1%} of DIN's attention lies on films of the topic in question,"
        f" which are {share:.1%} of the history."
    )
    draw(found[0], options.out / "interests.png")
