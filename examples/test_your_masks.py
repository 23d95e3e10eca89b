"""Test the masks of your own layers and models, and see the smallest history that fails.

Masks break silently. `din_layers.testing` draws padded histories, puts NaN and large numbers into
the padding, and shows the smallest history for which a layer or a model gives a wrong answer. It
needs `pip install "din-layers[testing]"`.
"""

import keras
from keras import ops

import din_layers
from din_layers import testing

# ## A layer
#
# This layer averages the events of a history. The formula looks right: padding times 0 is 0, and
# the sum is divided by the number of events.


class Average(keras.layers.Layer):
    """Mean of the events of a history."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, sequence, mask=None):
        mask = ops.cast(mask, sequence.dtype)[..., None]
        return ops.sum(sequence * mask, axis=1) / ops.sum(mask, axis=1)

    def compute_mask(self, inputs, mask=None):
        return None  # the output has no time axis, so it needs no mask


def check_layer(layer):
    """Check a layer; return the names of the invariants that do not hold."""
    failed = {}
    for name in ("padding_invariance", "padding_is_inert", "finite_gradients", "empty_history"):
        try:
            testing.check_masking(lambda x, mask: layer(x, mask=mask), invariants=[name])
        except testing.MaskingError as error:
            failed[name] = str(error)
    return failed


failed = check_layer(Average())
print("Average breaks", ", ".join(failed))
print("\n" + failed["empty_history"])
assert set(failed) == {"padding_is_inert", "finite_gradients", "empty_history"}

# It breaks three: NaN times 0 is NaN, and an empty history divides by 0. The fix: select instead of
# multiplying, and divide an empty history by 1.


class FixedAverage(Average):
    """Mean of the events of a history, zeros for an empty one."""

    def call(self, sequence, mask=None):
        mask = mask[..., None]
        count = ops.sum(ops.cast(mask, sequence.dtype), axis=1)
        return ops.sum(ops.where(mask, sequence, 0.0), axis=1) / ops.maximum(count, 1.0)


assert check_layer(FixedAverage()) == {}
testing.check_masking(lambda x, mask: FixedAverage()(x, mask=mask))  # all invariants at once
print("\nFixedAverage: every invariant holds")

# ## A model
#
# A model may lose a mask between two correct layers. This one scales its embeddings by `x * 2`,
# which is no layer, so the mask ends there without a warning. The mean then counts the padding, and
# the same user gets another answer in a batch with longer histories.


def build(scale):
    history = keras.Input((None,), dtype="int32", name="history")
    film = keras.Input((1,), dtype="int32", name="film")
    films = keras.layers.Embedding(1000, 8, mask_zero=True)
    taste = din_layers.SequencePoolingLayer("mean")(scale(films(history)))
    x = keras.layers.Concatenate()([taste, films(film)])
    return keras.Model([history, film], keras.layers.Dense(1, activation="sigmoid")(x))


keras.utils.set_random_seed(0)
try:
    testing.check_ids(build(lambda x: x * 2.0))
except testing.MaskingError as error:
    print("\nThe model with `x * 2`:\n\n" + str(error))
else:
    raise AssertionError("the dropped mask was not found")

# A layer keeps the mask.
testing.check_ids(build(keras.layers.Rescaling(2.0)))
print("\nThe model with `Rescaling(2.0)`: every invariant holds")

# In your own tests, each check is one line. To check a saved model, run
# `python -m din_layers.testing model.keras --import din_layers`.
