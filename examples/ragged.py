"""Ragged histories and skipped padding: the same numbers without the cost of padding.

If most users have short histories and a few have long ones, most of a padded batch is padding.
There are two ways to save its cost. Feed ragged tensors, which need TensorFlow without XLA. Or keep
the model padded and let the attention compute the real events alone, which works on every backend
and is the default where it pays. `skip_padding=False` turns it off here, to compare.
"""

import time

import keras
import numpy as np
import tensorflow as tf

import din_layers

# 2,000 users. One in five has up to 400 events, the others up to 40.
USERS, ITEMS = 2_000, 5_000
rng = np.random.default_rng(0)
lengths = np.where(rng.random(USERS) < 0.2, rng.integers(1, 401, USERS), rng.integers(1, 41, USERS))
ragged = tf.RaggedTensor.from_row_lengths(rng.integers(1, ITEMS, lengths.sum()), lengths)
padded = ragged.to_tensor().numpy()
item = rng.integers(1, ITEMS, (USERS, 1))
label = rng.integers(0, 2, (USERS, 1, 1))
print(f"{np.mean(padded > 0):.0%} of the padded positions are events")

# One model in three forms. For ragged tensors only the input changes: `ragged=True`.


def build(is_ragged=False, skip_padding=False):
    history = keras.Input((None,), dtype="int32", ragged=is_ragged, name="history")
    candidate = keras.Input((None,), dtype="int32", name="item")
    items = keras.layers.Embedding(ITEMS, 32, mask_zero=True)
    attention = din_layers.AttentionPoolingLayer((80, 40), skip_padding=skip_padding)
    interest = attention([items(candidate), items(history)])
    x = keras.layers.Concatenate()([interest, items(candidate)])
    model = keras.Model([history, candidate], keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy", jit_compile=False)
    return model


keras.utils.set_random_seed(0)
forms = {
    "padded": (build(), padded),
    "skip_padding": (build(skip_padding=True), padded),
    "ragged": (build(is_ragged=True), ragged),
}
start = forms["padded"][0].get_weights()
predictions, trained, seconds = {}, {}, {}
for name, (model, history) in forms.items():
    model.set_weights(start)  # the forms have the same weights, in the same order
    inputs = {"history": history, "item": item}
    predictions[name] = model.predict(inputs, batch_size=250, verbose=0)
    fit = {"batch_size": 250, "shuffle": False, "verbose": 0}
    model.fit(inputs, label, **fit)  # the first epoch also traces the graph
    begin = time.perf_counter()
    model.fit(inputs, label, epochs=3, **fit)
    seconds[name] = (time.perf_counter() - begin) / 3
    trained[name] = model.get_weights()

# The predictions are the same, and so are the weights after four epochs, up to rounding.
print("\nform           s / epoch  speed  predictions differ by  trained weights by")
for name in forms:
    apart = np.abs(predictions[name] - predictions["padded"]).max()
    drift = max(
        np.abs(ours - theirs).max()
        for ours, theirs in zip(trained[name], trained["padded"], strict=True)
    )
    speed = seconds["padded"] / seconds[name]
    print(f"{name:14} {seconds[name]:9.2f} {speed:6.1f} {apart:22.1e} {drift:19.1e}")
    assert apart < 1e-6
    assert drift < 1e-5

# A model trained on ragged tensors can serve padded ones, and vice versa: copy the weights with
# `set_weights`, as above. In the padded form, `mask_zero=True` marks the padding.
