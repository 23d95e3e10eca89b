"""One process of a training of the MovieLens DIN: on one device, or with other replicas.

`mirrored` and `data_parallel` are the parts to take along: all that a model needs for more than one
device. `distributed_din.py` starts the processes and compares what they leave in FOLDER:

    python examples/replicas.py FOLDER ENGINE [PROCESS PORT]

Every engine trains on the same batches; its replicas share each batch between them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REPLICAS = 2
Scope = AbstractContextManager[Any]  # the model is made, compiled and trained inside it


# More than one device --------------------------------------------------------------------------


def one_device() -> Scope:
    """Train as everybody does."""
    return contextlib.nullcontext()


def mirrored() -> Scope:
    """Train on devices of this process, here two that share its processor (TensorFlow)."""
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(processor, devices)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(REPLICAS)])
    return strategy.scope()


def data_parallel(process: int, port: int) -> Scope:
    """Train on the devices of several processes, which meet at an address (JAX)."""
    import jax
    import keras

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(f"127.0.0.1:{port}", REPLICAS, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return contextlib.nullcontext()


class Engine(NamedTuple):
    """A way to train."""

    title: str
    backend: str
    replicas: Callable[..., Scope]
    synchronized: bool = False
    processes: int = 1


# An engine named like its backend is what the others of this backend are compared with. On JAX a
# batch is one array, wherever its parts are: Dice is synchronized there in any case.
ENGINES = {
    "tensorflow": Engine("TensorFlow, one device", "tensorflow", one_device),
    "mirrored": Engine("MirroredStrategy, two devices", "tensorflow", mirrored, True),
    "unsynchronized": Engine("  the same, Dice(synchronized=False)", "tensorflow", mirrored),
    "jax": Engine("JAX, one device", "jax", one_device),
    "data_parallel": Engine("DataParallel, two processes", "jax", data_parallel, True, 2),
}


# Training --------------------------------------------------------------------------------------


def train(folder: Path, name: str, process: int = 0, *address: int) -> None:
    """Train; leave the model, its weights and losses in `folder`."""
    engine = ENGINES[name]
    os.environ["KERAS_BACKEND"] = engine.backend
    import din  # chooses TensorFlow's settings: first
    import keras
    import tensorflow as tf

    with np.load(folder / "batches.npz") as file:
        arrays = dict(file)
    seed, epochs, shares, label = (
        arrays.pop(key) for key in ("seed", "epochs", "genre_shares", "label")
    )
    losses: list[float] = []
    keep_loss = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"]))
    )
    with engine.replicas(*([process, *address] if address else [])):
        # Batches of one size, which the replicas can share equally.
        batch = min(din.BATCH, len(label) // REPLICAS * REPLICAS)
        batches = tf.data.Dataset.from_tensor_slices((arrays, label[:, None]))
        batches = batches.batch(batch, drop_remainder=True).repeat()
        model = din.build_model(shares, synchronized=engine.synchronized, seed=int(seed))
        model.compile(keras.optimizers.Adam(din.LEARNING_RATE), loss="binary_crossentropy")
        model.fit(
            batches,
            steps_per_epoch=len(label) // batch,
            epochs=int(epochs),
            shuffle=False,
            callbacks=[keep_loss],
            # A progress bar on a terminal, one line per epoch in a log.
            verbose=0 if process else 1 if sys.stdout.isatty() else 2,
        )
    # Saving asks all replicas (on JAX), so every process saves, and one file is kept.
    model.save(folder / f"{name}-{process}.keras")
    if process == 0:
        # By their order, since the names that Keras gives count all layers of a process.
        weights = {f"{place} {w.path}": np.asarray(w) for place, w in enumerate(model.weights)}
        np.savez(folder / f"{name}.npz", loss=losses, **weights)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""

    def wait() -> None:
        sys.stdin.read()  # returns when the other end of the pipe is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    train(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
