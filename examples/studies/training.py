"""The one training loop of the studies, and predictions."""

import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from studies.data import Floats
from studies.scores import Epoch, Scores

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
    score: Callable[[keras.Model], dict[str, Scores]] = lambda model: {},  # after each epoch
    learning_rate: Any = 1e-3,  # a number or a schedule
    jit_compile: bool = False,  # takes longer than it saves in few short epochs
) -> list[Epoch]:
    """Train with Adam, on inputs and labels, or on batches; return what each epoch brought."""
    found: list[Epoch] = []
    start = 0.0

    def begin(epoch: int, logs: Any = None) -> None:
        nonlocal start
        start = time.process_time()

    def end(epoch: int, logs: dict[str, float]) -> None:
        seconds, scores = time.process_time() - start, score(model)
        found.append(Epoch(seconds, scores))
        logs.update({f"{part}_auc": of["AUC"] for part, of in scores.items()})  # Keras prints it

    adam = keras.optimizers.Adam(learning_rate)
    model.compile(adam, "binary_crossentropy", jit_compile=jit_compile)
    model.fit(
        x,
        y,
        batch_size=None if y is None else BATCH,
        shuffle=y is not None,  # a dataset has its batches, in its order
        epochs=epochs,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)],
        verbose=1 if sys.stdout.isatty() else 2,  # in a log, one line per epoch and no bar
    )
    return found


def predict(model: keras.Model, inputs: Any) -> Floats:
    """Probability per row, of arrays or of a `tf.data.Dataset` of inputs."""
    return np.asarray(model.predict(inputs, batch_size=SCORING_BATCH, verbose=0))[:, 0]
