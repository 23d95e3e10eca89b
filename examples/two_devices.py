"""Two devices train the same model as one: Dice has to know the whole batch.

Dice takes mean and variance of the batch. Where devices share a batch, each sees its part only,
unless the layer is told to ask the others: `Dice(synchronized=True)` under `tf.distribute`. On JAX
a batch is one array wherever its parts are, and Dice is synchronized in any case.

Two logical processors play the devices, and on JAX two processes that could as well be two
machines. Without `pip install "din-layers[jax]"` that part is left out.
"""

import importlib.util
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

import din_layers

os.makedirs("runs/two_devices", exist_ok=True)
os.chdir("runs/two_devices")  # all files go there
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

# Made-up data, in batches of one size that two devices can share equally.
rng = np.random.default_rng(0)
ROWS = 50 * 256
history = rng.integers(1, 500, (ROWS, 20)) * (np.arange(20) < rng.integers(0, 21, (ROWS, 1)))
data = {"history": history, "item": rng.integers(1, 500, (ROWS, 1))}
label = (data["item"] % 3 == history[:, :1] % 3).astype("int32")[..., None]
np.savez("data.npz", **data, label=label)

# The model, DIN with Dice in the attention and behind it. Every training starts from its file.


def build(synchronized):
    keras.utils.set_random_seed(0)
    past = keras.Input((20,), dtype="int32", name="history")
    item = keras.Input((None,), dtype="int32", name="item")
    items = keras.layers.Embedding(500, 16, mask_zero=True)
    dice = din_layers.Dice(synchronized=synchronized)  # the attention's layers get copies of it
    interest = din_layers.AttentionPoolingLayer((32, 16), dice)([items(item), items(past)])
    x = keras.layers.Concatenate()([interest, items(item)])
    x = din_layers.Dice(synchronized=synchronized)(keras.layers.Dense(32)(x))
    model = keras.Model([past, item], keras.layers.Dense(1, activation="sigmoid")(x))
    # Not Adam, whose way with the sparse gradients of an embedding differs between backends.
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)  # Keras warns when a file lacks this
    return model


build(synchronized=True).save("synchronized.keras")
build(synchronized=False).save("unsynchronized.keras")


def train(start):
    model = keras.models.load_model(start)
    batches = tf.data.Dataset.from_tensor_slices((data, label)).batch(256).repeat()
    fit = model.fit(batches, steps_per_epoch=50, shuffle=False, verbose=0)
    return model, fit.history["loss"][0]


alone, its_loss = train("synchronized.keras")
two_devices = {}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name in ("synchronized", "unsynchronized"):
    with strategy.scope():  # all that it takes: make or load, compile and fit the model in it
        two_devices[f"MirroredStrategy, {name}"] = train(f"{name}.keras")

# The same on JAX, in two processes that meet at a port. Keras divides each batch between them.
JAX = """
import sys
import jax
import keras
import numpy as np
import tensorflow as tf
import din_layers

port, process = map(int, sys.argv[1:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
keras.distribution.initialize(f"127.0.0.1:{port}", 2, process)
keras.distribution.set_distribution(keras.distribution.DataParallel())
data = dict(np.load("data.npz"))
label = data.pop("label")
model = keras.models.load_model("synchronized.keras")
batches = tf.data.Dataset.from_tensor_slices((data, label)).batch(256).repeat()
fit = model.fit(batches, steps_per_epoch=50, shuffle=False, verbose=0)
model.save(f"jax-{process}.keras")  # in every process: each waits for the other
np.save(f"jax-{process}.npy", fit.history["loss"][0])
"""
if importlib.util.find_spec("jax"):
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", JAX, port]
    processes = [subprocess.Popen([*command, number], env=environment) for number in "01"]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    trained = keras.models.load_model("jax-0.keras"), np.load("jax-0.npy")
    two_devices["JAX DataParallel, two processes"] = trained

# How far apart are two devices and one? A batch summed in two halves rounds at 1e-7.
print(f"{'largest difference from one device':34} {'weights':>9} {'statistics':>11} {'loss':>9}")
for name, (model, loss) in two_devices.items():
    weights, statistics = (
        max(np.abs(x.numpy() - y.numpy()).max() for x, y in zip(ours, theirs, strict=True))
        for ours, theirs in (
            (model.trainable_weights, alone.trainable_weights),
            (model.non_trainable_weights, alone.non_trainable_weights),
        )
    )
    losses = abs(loss - its_loss)
    print(f"{name:34} {weights:9.1e} {statistics:11.1e} {losses:9.1e}")
    # Without synchronization each device has statistics of its own half, and the weights show it.
    assert (max(weights, statistics, losses) < 1e-5) == ("unsynchronized" not in name)
