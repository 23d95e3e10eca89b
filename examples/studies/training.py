"""The one training loop of the studies, the comparison of models, and the check after saving."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from studies.data import LIKED, Floats, Ints, MovieLens, Questions, split
from studies.report import draw_training, print_scores
from studies.scores import Epoch, Run, Scores, measure

BATCH = 256
SCORING_BATCH = 2048

# It warns of tracing again and again, as it must be for one model after another.
tf.get_logger().setLevel("ERROR")


def train(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    score: Callable[[keras.Model], dict[str, Scores]] = lambda model: {},
    loss: Any = "binary_crossentropy",
    learning_rate: Any = 1e-3,  # a number or a schedule
    jit_compile: bool = False,  # takes longer than it saves in few short epochs
    callbacks: Iterable[keras.callbacks.Callback] = (),
    bar: tqdm | None = None,
) -> Run:
    """Train with Adam, on inputs `x` and labels `y`, or on a `tf.data.Dataset` of batches of both.

    `score` is called with the model after each epoch. `bar` shows the epochs in place of Keras.
    """
    run, start = Run(model, []), 0.0

    def begin(epoch: int, logs: Any = None) -> None:
        nonlocal start
        start = time.process_time()

    def end(epoch: int, logs: dict[str, float]) -> None:
        seconds, scores = time.process_time() - start, score(model)
        run.epochs.append(Epoch(logs.get("log_loss", logs["loss"]), seconds, scores))
        logs.update({f"{part}_auc": of["AUC"] for part, of in scores.items()})  # Keras prints it
        if bar is not None:
            bar.update()

    # The loss that Keras prints contains the weight decay; this one does not.
    log_loss = [keras.metrics.BinaryCrossentropy(name="log_loss")] if isinstance(loss, str) else []
    optimizer = keras.optimizers.Adam(learning_rate)
    model.compile(optimizer, loss, metrics=log_loss, jit_compile=jit_compile)
    recorder = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    model.fit(
        x,
        y,
        batch_size=None if y is None else BATCH,
        shuffle=y is not None,  # a dataset has its batches, in its order
        epochs=epochs,
        callbacks=[recorder, *callbacks],
        # A progress bar on a terminal, one line per epoch in a log.
        verbose=0 if bar is not None else 1 if sys.stdout.isatty() else 2,
    )
    return run


def train_each(
    seeds: Iterable[int],
    builders: Mapping[str, Callable[[], keras.Model]],
    train_one: Callable[[keras.Model, int], Run],
) -> dict[str, list[Run]]:
    """Train each model with each seed."""
    runs: dict[str, list[Run]] = {name: [] for name in builders}
    for seed in seeds:
        for name, build in builders.items():
            print(f"\nTraining: {name}, seed {seed}", flush=True)
            keras.utils.set_random_seed(seed)
            runs[name].append(train_one(build(), seed))
    return runs


def compare(
    options: argparse.Namespace,
    staging: Path,
    builders: Mapping[str, Callable[[], keras.Model]],
    inputs_of: Callable[[Questions], dict[str, Ints]],
    served: Callable[[keras.Model], keras.Model] = lambda model: model,
) -> keras.Model:
    """Train models on MovieLens, each with each seed; print their scores, draw their training.

    `inputs_of` turns questions into the inputs of all models. The first model with the first seed
    is saved in the form that `served` gives it, and returned.
    """
    asked, test = split(options.data)
    label, train_inputs, test_inputs = asked.label[:, None], inputs_of(asked), inputs_of(test)

    def score(model: keras.Model) -> dict[str, Scores]:
        return {"test": measure(test.label, predict(model, test_inputs), test.user)}

    def train_one(model: keras.Model, seed: int) -> Run:
        return train(model, train_inputs, label, epochs=options.epochs, score=score)

    runs = train_each(options.seeds, builders, train_one)
    print_scores(runs, len(label))
    draw_training(runs, staging / "training.png")
    model = served(next(iter(runs.values()))[0].model)
    save_and_check(model, test_inputs, staging / f"{options.study}.keras")
    return model


def predict(model: keras.Model, inputs: Any) -> Floats:
    """Probability per row, of arrays or of a `tf.data.Dataset` of inputs."""
    return np.asarray(model.predict(inputs, batch_size=SCORING_BATCH, verbose=0))[:, 0]


def save_and_check(model: keras.Model, inputs: Any, file: Path) -> None:
    """Save the model, load it, and make sure that it predicts the same."""
    model.save(file)
    expected, loaded = predict(model, inputs), predict(keras.models.load_model(file), inputs)
    difference = float(np.max(np.abs(loaded - expected)))
    count = f"{len(expected):,} predictions"
    print(f"\n{file.name}, saved and loaded: {count}, largest difference {difference:.1g}")
    if not difference <= 1e-6:
        raise RuntimeError(f"the loaded model predicts something else: {difference} apart")


def ragged_batches(
    data: MovieLens, events: Ints, history: int, size: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """Batches of inputs and labels for the ratings `events`, each with the `history` before it.

    Histories are slices of the users' ratings, cut while training: however long they may be,
    nothing is padded and nothing is stored twice.
    """
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
