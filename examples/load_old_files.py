"""Load a model that other code has saved, with layers of the same names but not of this package.

Such a file names its classes without a package, so Keras does not know where to look. Hand it ours:
`keras.models.load_model(path, custom_objects=din_layers.custom_objects)`.
"""

import os
import subprocess
import sys

import keras
import numpy as np

import din_layers

os.makedirs("runs/load_old_files", exist_ok=True)
os.chdir("runs/load_old_files")  # all files go there

# The other code: a pooling layer of its own that nobody registered, in a model that was trained
# and saved. It runs as a program of its own, as it did back then, and leaves `old.keras`.
OTHER_CODE = """
import keras
from keras import ops


class SequencePoolingLayer(keras.layers.Layer):
    def __init__(self, mode="mean", **kwargs):
        super().__init__(**kwargs)
        self.mode = mode
        self.supports_masking = True

    def call(self, sequence, mask=None):
        valid = ops.cast(mask, "float32")[..., None]
        return ops.sum(sequence * valid, 1, keepdims=True) / ops.sum(valid, 1, keepdims=True)

    def compute_mask(self, inputs, mask=None):
        return None

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


keras.utils.set_random_seed(1)
history = keras.Input((None,), dtype="int32")
x = keras.layers.Embedding(100, 8, mask_zero=True)(history)
x = SequencePoolingLayer("mean")(x)
model = keras.Model(history, keras.layers.Dense(1, activation="sigmoid")(x[:, 0]))
model.save("old.keras")
history = keras.ops.convert_to_tensor([[5, 7, 9, 0, 0], [3, 0, 0, 0, 0]])
print(*keras.ops.convert_to_numpy(model(history)).ravel())
"""
old_program = subprocess.run(
    [sys.executable, "-c", OTHER_CODE], check=True, stdout=subprocess.PIPE, text=True
)
old = np.array(old_program.stdout.split(), float)

# Without the class Keras refuses.
try:
    keras.models.load_model("old.keras")
except TypeError as error:
    message = str(error)
reason = "Could not locate class 'SequencePoolingLayer'"
assert reason in message
print("Without custom_objects:", reason)

# With ours it loads. The layers of this package take the same arguments and have the same weights.
model = keras.models.load_model("old.keras", custom_objects=din_layers.custom_objects)
new = model.predict(np.array([[5, 7, 9, 0, 0], [3, 0, 0, 0, 0]]), verbose=0)[:, 0]
print("\nhistory   old code   this package")
for name, before, after in zip(("three", "one"), old, new, strict=True):
    print(f"{name:8} {before:9.6f} {after:14.6f}")
np.testing.assert_allclose(new, old, rtol=0, atol=1e-6)

# What is better now: an empty history is the division 0 / 0 in the old code, and zeros in ours.
empty = model.predict(np.zeros((1, 5), int), verbose=0)[0, 0]
print(f"empty          nan {empty:14.6f}")
assert np.isfinite(empty)

# Save it once, and the file names the package: from now on `import din_layers` is enough.
model.save("new.keras")
again = keras.models.load_model("new.keras")
assert isinstance(again.layers[2], din_layers.SequencePoolingLayer)
print("\nSaved again as new.keras, which loads without custom_objects.")
