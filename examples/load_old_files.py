"""Weights from someone else's model: build ours, and set the weights in our order.

A file loads with `custom_objects=din_layers.custom_objects` only if the names, the arguments and
the layout of the variables are the same. Those of a hand-written attention never are. Three steps
always work: let the old code save its arrays by name, build the same model with these layers, and
give each layer its arrays with `set_weights`.
"""

import os
import subprocess
import sys

import keras
import numpy as np

import din_layers

os.makedirs("runs/load_old_files", exist_ok=True)
os.chdir("runs/load_old_files")  # all files go there

# The other code: an attention and a Dice over BatchNormalization, as many people wrote them. It
# runs as a separate program. Its last lines are step 1.
OTHER_CODE = """
import keras
import numpy as np
from keras import layers, ops


class OldDice(layers.Layer):
    def build(self, shape):
        self.bn = layers.BatchNormalization(center=False, scale=False, epsilon=1e-9)
        self.alpha = self.add_weight(shape=(shape[-1],), name="alpha")

    def call(self, x, training=False):
        p = ops.sigmoid(self.bn(x, training=training))
        return p * x + (1 - p) * self.alpha * x


class OldAttention(layers.Layer):
    def build(self, shapes):
        self.hidden, self.dice, self.out = layers.Dense(16), OldDice(), layers.Dense(1)

    def call(self, inputs, training=False):
        query, keys, ids = inputs
        query = ops.repeat(query, keys.shape[1], axis=1)
        pairs = ops.concatenate([keys, query, keys - query, keys * query], axis=-1)
        scores = self.out(self.dice(self.hidden(pairs), training=training))[..., 0]
        scores = ops.where(ids != 0, scores, -(2.0**32))
        return ops.matmul(ops.softmax(scores)[:, None], keys)


keras.utils.set_random_seed(1)
history, item = keras.Input((5,), dtype="int32"), keras.Input((1,), dtype="int32")
items = layers.Embedding(100, 8, name="items")
query, keys = items(item), items(history)
interest = OldAttention(name="attention")([query, keys, history])
x = layers.Concatenate()([interest, query])
model = keras.Model([history, item], layers.Dense(1, activation="sigmoid", name="click")(x))
model.compile("adam", "binary_crossentropy")
rng = np.random.default_rng(0)
asked = rng.integers(1, 100, (512, 5)) * (np.arange(5) < rng.integers(1, 6, (512, 1)))
model.fit([asked, asked[:, :1]], rng.integers(0, 2, (512, 1, 1)), epochs=20, verbose=0)

np.savez("old.npz", **{x.path: ops.convert_to_numpy(x) for x in model.weights})
np.savez("asked.npz", history=asked, scores=model.predict([asked, asked[:, :1]], verbose=0))
"""
subprocess.run([sys.executable, "-c", OTHER_CODE], check=True)
old = dict(np.load("old.npz"))
for name, array in old.items():
    print(f"{name:62} {array.shape}")

# Step 2: the same model. The BatchNormalization of the old Dice had this epsilon.
history = keras.Input((None,), dtype="int32")
item = keras.Input((None,), dtype="int32")
items = keras.layers.Embedding(100, 8, mask_zero=True)
attention = din_layers.AttentionPoolingLayer((16,), din_layers.Dice(epsilon=1e-9))
interest = attention([items(item), items(history)])
x = keras.layers.Concatenate()([interest, items(item)])
click = keras.layers.Dense(1, activation="sigmoid")
model = keras.Model([history, item], click(x))


# Step 3: the arrays in our order, which `attention.weights` shows: kernel and bias of each hidden
# layer, those of the last unit, then alpha, mean and variance of each Dice. The old code joined
# [k, q, k - q, k * q]. This layer joins [q, k, q - k, q * k], so the blocks of the first kernel
# change places, and one changes its sign.
def named(*ends):
    """Return the one array whose name ends so, for each."""
    return [next(x for name, x in old.items() if name.endswith(end)) for end in ends]


print("\n", *(f"{weight.path.split('/', 1)[1]}\n" for weight in attention.weights))
(kernel,) = named("attention/dense/kernel")
k, q, k_minus_q, product = np.split(kernel, 4)
rest = named("dense/bias", "dense_1/kernel", "dense_1/bias")
dice = named("alpha", "moving_mean", "moving_variance")
attention.set_weights([np.concatenate([q, k, -k_minus_q, product]), *rest, *dice])
items.set_weights(named("items/embeddings"))
click.set_weights(named("click/kernel", "click/bias"))

# The predictions are the same. Only this shows that nothing was mixed up.
asked = np.load("asked.npz")
new = model.predict([asked["history"], asked["history"][:, :1]], verbose=0)
apart = np.abs(new - asked["scores"]).max()
print(f"largest difference in {len(new)} predictions: {apart:.1e}")
assert apart < 1e-5

# The new model is better: it takes histories of any length and any number of candidates, and an
# empty history gives zeros. The old code gave the mean of the padding's vectors.
assert model.predict([np.zeros((1, 9), int), np.arange(1, 51)[None]], verbose=0).shape == (1, 50, 1)
model.save("new.keras")
