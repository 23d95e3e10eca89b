"""Two devices train the same model as one: Dice has to know the whole batch.

Dice uses the mean and variance of the batch. If devices share a batch, each sees only its part,
unless you write `Dice(synchronized=True)`. On JAX, Dice is always synchronized: a batch is one
array, wherever its parts are.

On TensorFlow, two logical processors act as the devices. On JAX and PyTorch two processes do, which
could also be two machines; these need `pip install "din-layers[jax,torch]"` and else are skipped.
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

rng = np.random.default_rng(0)  # made-up data
ROWS = 50 * 256  # in batches of one size that two devices can share equally
history = rng.integers(1, 500, (ROWS, 20)) * (np.arange(20) < rng.integers(0, 21, (ROWS, 1)))
data = {"history": history, "item": rng.integers(1, 500, (ROWS, 1))}
label = (data["item"] % 3 == history[:, :1] % 3).astype("float32")[..., None]
np.savez("data.npz", **data, label=label)

# The model, DIN with Dice in the attention and behind it. Every training starts from its file.
for synchronized, name in ((True, "synchronized"), (False, "unsynchronized")):
    keras.utils.set_random_seed(0)
    past = keras.Input((20,), dtype="int32", name="history")
    item = keras.Input((None,), dtype="int32", name="item")
    items = keras.layers.Embedding(500, 16, mask_zero=True)
    dice = din_layers.Dice(synchronized=synchronized)  # the attention's layers get copies of it
    interest = din_layers.AttentionPoolingLayer((32, 16), dice)([items(item), items(past)])
    x = keras.layers.Concatenate()([interest, items(item)])
    x = din_layers.Dice(synchronized=synchronized)(keras.layers.Dense(32)(x))
    model = keras.Model([past, item], keras.layers.Dense(1, activation="sigmoid")(x))
    model.save(f"{name}.keras")


def train(start):
    model = keras.models.load_model(start)
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")  # Adam varies by backend
    fit = model.fit(data, label, batch_size=256, shuffle=False, verbose=0)
    return model.get_weights(), fit.history["loss"][0]


its_weights, its_loss = train("synchronized.keras")
two_devices = {}
if keras.backend.backend() == "tensorflow":
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in ("synchronized", "unsynchronized"):
        with strategy.scope():  # all that it takes: make or load, compile and fit the model in it
            two_devices[f"MirroredStrategy, {name}"] = train(f"{name}.keras")

# Two processes that meet at a port: how they begin and end, and what they do in between.
PROCESS = """
import sys, keras, numpy as np, din_layers
port, process = map(int, sys.argv[1:])
data = dict(np.load("data.npz"))
label = data.pop("label")
{}
model.save(f"{{process}}.keras")  # in every process: on JAX each waits for the other
np.save(f"{{process}}.npy", np.mean(losses))
"""
# Keras divides each batch between the processes.
JAX = """
import jax, tensorflow as tf
jax.config.update("jax_cpu_collectives_implementation", "gloo")
keras.distribution.initialize(f"127.0.0.1:{port}", 2, process)
keras.distribution.set_distribution(keras.distribution.DataParallel())
model = keras.models.load_model("synchronized.keras")
model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
batches = tf.data.Dataset.from_tensor_slices((data, label)).batch(256).repeat()
losses = model.fit(batches, steps_per_epoch=50, shuffle=False, verbose=0).history["loss"]
"""
# Each process takes its half; DistributedDataParallel averages the gradients, in a loop by hand.
PYTORCH = """
import torch
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=process, world_size=2)
model, losses = keras.models.load_model("synchronized.keras"), []
shared = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], 0.1)
for start in range(128 * process, len(label), 256):
    *inputs, wanted = (torch.tensor(x[start : start + 128]) for x in (*data.values(), label))
    loss = torch.nn.functional.binary_cross_entropy(shared(inputs, training=True), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
torch.distributed.destroy_process_group()
"""
PROGRAMS = {"jax": JAX, "torch": PYTORCH}
for backend in filter(importlib.util.find_spec, PROGRAMS):
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS.format(PROGRAMS[backend]), port]
    processes = [subprocess.Popen([*command, number], env=env) for number in "01"]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    trained = keras.models.load_model("0.keras").get_weights()
    loss = np.mean([np.load(f"{number}.npy") for number in "01"])
    two_devices[f"{backend}, two processes"] = trained, loss

# How far apart are two devices and one? A batch summed in two halves rounds at 1e-7.
print(f"{'largest difference from one device':34} {'weights':>9} {'loss':>9}")
for name, (weights, loss) in two_devices.items():
    gap = max(np.abs(x - y).max() for x, y in zip(weights, its_weights, strict=True))
    print(f"{name:34} {gap:9.1e} {abs(loss - its_loss):9.1e}")
    # Without synchronization each device has statistics of its own half, and the weights show it.
    assert (max(gap, abs(loss - its_loss)) < 1e-5) == ("unsynchronized" not in name)
