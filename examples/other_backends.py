"""One saved model on TensorFlow, JAX and PyTorch: the same predictions.

Keras reads its backend from the variable KERAS_BACKEND when it is imported. So each backend runs in
its own process here: one makes, trains and saves the model, and all of them load it. Backends that
are not installed are skipped (`pip install jax torch`).
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np

os.makedirs("runs/other_backends", exist_ok=True)
os.chdir("runs/other_backends")  # all files go there

# The program that trains. It names no backend: any of the three could run it.
TRAIN = """
import keras
import numpy as np
import din_layers

keras.utils.set_random_seed(0)
history = keras.Input((None,), dtype="int32", name="history")
item = keras.Input((None,), dtype="int32", name="item")
items = keras.layers.Embedding(100, 8, mask_zero=True)
keys, query = items(history), items(item)
attention = din_layers.AttentionPoolingLayer((16, 8), att_activation="dice")
mean = din_layers.SequencePoolingLayer("mean")
x = keras.layers.Concatenate()([attention([query, keys]), query])
of_user = keras.layers.Dense(16)(mean(keys))  # one for all candidates: `Add` broadcasts it
x = din_layers.Dice()(keras.layers.Add()([keras.layers.Dense(16)(x), of_user]))
model = keras.Model([history, item], keras.layers.Dense(1, activation="sigmoid")(x))
model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")

rng = np.random.default_rng(0)
valid = np.arange(10) < rng.integers(0, 11, (1000, 1))  # some histories are empty
inputs = {"history": rng.integers(1, 100, (1000, 10)) * valid}
inputs["item"] = rng.integers(1, 100, (1000, 1))
label = (inputs["item"] % 2 == inputs["history"][:, :1] % 2).astype(int)[..., None]
model.fit(inputs, label, epochs=3, verbose=0)
model.save("model.keras")
np.savez("asked.npz", **{name: x[:200] for name, x in inputs.items()}, label=label[:200])
"""

# The program that loads: predictions, and the loss of one further training step.
LOAD = """
import keras
import numpy as np
import din_layers

asked = dict(np.load("asked.npz"))
label = asked.pop("label")
model = keras.models.load_model("model.keras")
scores = model.predict(asked, verbose=0)
model.train_on_batch(asked, label)
after = model.predict(asked, verbose=0)
np.savez(keras.backend.backend() + ".npz", scores=scores, after=after)
"""


def run(program, backend):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


backends = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
run(TRAIN, "tensorflow")
answers = {}
for backend in backends:
    run(LOAD, backend)
    answers[backend] = dict(np.load(f"{backend}.npz"))

print("probabilities of the first five users")
for backend, answer in answers.items():
    print(f"{backend:12}", *(f"{score:.6f}" for score in answer["scores"][:5, 0, 0]))

print("\nlargest difference from TensorFlow   as loaded   one training step later")
for backend, answer in answers.items():
    apart = {name: np.abs(x - answers["tensorflow"][name]).max() for name, x in answer.items()}
    print(f"{backend:36} {apart['scores']:9.1e} {apart['after']:25.1e}")
    assert apart["scores"] < 1e-5

# You can continue training on any backend, but then the numbers drift apart, with or without the
# layers of this package: on TensorFlow, Keras's Adam treats the sparse gradient of an embedding
# differently. Strings and ragged tensors need TensorFlow.
