"""Train a model of `din.py` on ragged histories, and score it after each epoch.

Histories are slices of the users' ratings, cut while training: however long they may be, nothing is
padded and nothing is stored twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from din import SCORING_BATCH, Scores, measure
from movielens import LIKED, Floats, Longs, MovieLens, examples

# It warns of tracing again and again, as it must be for one model after another.
tf.get_logger().setLevel("ERROR")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training part brought."""

    training_log_loss: float
    seconds: float  # of processor time, training alone: others on this machine do not count
    scores: dict[str, Scores]  # by the name of the part


def batches(
    data: MovieLens, events: Longs, history: int, size: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """Batches of inputs and labels for the ratings `events`, each with the `history` before it."""
    movie, rating = tf.constant(data.movie), tf.constant(data.rating)
    start = tf.constant(np.maximum(data.first, np.arange(len(data.user)) - history))

    def cut(events: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        index = tf.ragged.range(tf.gather(start, events), events)
        inputs = {
            "movie": tf.gather(movie, events)[:, None],
            "history_movies": index.with_values(tf.gather(movie, index.values)),
            "history_ratings": index.with_values(tf.gather(rating, index.values)),
        }
        return inputs, tf.cast(tf.gather(rating, events)[:, None] >= LIKED, tf.int32)

    dataset = tf.data.Dataset.from_tensor_slices(events)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(events), seed=shuffle_seed)
    return dataset.batch(size).map(cut).prefetch(2)


def frequencies(data: MovieLens, events: Longs, history: int) -> Longs:
    """How often each film id stands in the training data, as film in question or in a history."""
    place = np.arange(len(data.user))
    asked = np.zeros(len(data.user) + 1, np.int64)
    asked[events] = 1
    # A rating stands in the histories of the user's next `history` ratings.
    before = np.concatenate([[0], np.cumsum(asked)])
    last = np.searchsorted(data.user, data.user, side="right")
    times = before[np.minimum(place + history + 1, last)] - before[place]
    return np.bincount(data.movie, weights=times, minlength=len(data.titles)).astype(np.int64)


class _Recorder(keras.callbacks.Callback):
    """After each epoch: score every part, and keep how long the epoch itself took."""

    def __init__(
        self, score: Callable[[], dict[str, Scores]], on_epoch: Callable[[], None]
    ) -> None:
        super().__init__()
        self.score = score
        self.on_epoch = on_epoch
        self.epochs: list[Epoch] = []
        self.start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.start = time.process_time()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        seconds = time.process_time() - self.start
        log_loss = float((logs or {})["log_loss"])
        self.epochs.append(Epoch(log_loss, seconds, self.score()))
        self.on_epoch()


def train(
    model: keras.Model,
    data: MovieLens,
    training: Longs,
    held_out: Mapping[str, Longs],
    *,
    history: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
) -> list[Epoch]:
    """Train with Adam on the log loss; return what each epoch brought.

    Args:
        model: From `din.build_model(..., ragged=True)`.
        data: All ratings; a history holds whatever the user rated before.
        training: The ratings to train with, as indices into `data`.
        held_out: The ratings to score after each epoch, by the name of the part.
        history: The most ratings of a history.
        epochs: Passes over the training part.
        batch: Examples per step.
        learning_rate: Of Adam.
        seed: Of the order of the examples.
        on_epoch: Called after each epoch.
    """
    # Without histories: `batches` cuts those.
    questions = {name: examples(data, events, history=0) for name, events in held_out.items()}
    inputs = {
        name: batches(data, events, history, SCORING_BATCH).map(lambda inputs, _: inputs)
        for name, events in held_out.items()
    }

    def predict(name: str) -> Floats:
        return np.asarray(model.predict(inputs[name], verbose=0))[:, 0]

    def score() -> dict[str, Scores]:
        return {name: measure(part, predict(name)) for name, part in questions.items()}

    recorder = _Recorder(score, on_epoch)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss="binary_crossentropy",
        metrics=[keras.metrics.BinaryCrossentropy(name="log_loss")],
        jit_compile=False,  # XLA compiles no ragged tensors
    )
    model.fit(
        batches(data, training, history, batch, shuffle_seed=seed),
        epochs=epochs,
        shuffle=False,  # the batches are
        callbacks=[recorder],
        verbose=0,
    )
    return recorder.epochs
