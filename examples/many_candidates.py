"""Many candidates for one history: one row per user, one label per candidate, some missing.

A page shows a user several items, and the user clicks some. All items share the history, so they
go into one row: candidates (batch, candidates), labels (batch, candidates, 1). Rows with fewer
items are padded with id 0. Its mask keeps padding out of every batch statistic; loss and metrics
give it weight 0.
"""

import keras
import numpy as np

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Made-up pages. Every item has one of six topics. A history is drawn from two topics, and its user
# clicks items of these topics. Id 0 is padding, in histories and in pages.
USERS, ITEMS, TOPICS, TIME, PLACES = 6_000, 300, 6, 20, 8


def filled(ids):
    """Keep the first 1 to n of n ids in each row."""
    size = ids.shape[1]
    return ids * (np.arange(size) < rng.integers(1, size + 1, (len(ids), 1)))


likes = np.argsort(rng.random((USERS, TOPICS)), axis=1)[:, :2]
topic = np.take_along_axis(likes, rng.integers(0, 2, (USERS, TIME)), axis=1)
history = filled(1 + topic + TOPICS * rng.integers(0, ITEMS // TOPICS - 1, (USERS, TIME)))
page = filled(rng.integers(1, ITEMS, (USERS, PLACES)))
shown = (page > 0).astype("float32")
clicked = ((page[:, :, None] - 1) % TOPICS == likes[:, None]).any(-1).astype("float32") * shown

# The candidates are the query's axis: query (batch, candidates, 16) gives (batch, candidates, 16).
# Output and labels keep the last axis of 1; otherwise Keras would average over the candidates
# before it applies their weights.
ids = keras.Input((None,), dtype="int32", name="page")
past = keras.Input((None,), dtype="int32", name="history")
items = keras.layers.Embedding(
    ITEMS, 16, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5)
)
query, keys = items(ids), items(past)
interest = din_layers.AttentionPoolingLayer((32, 16), att_activation="dice")([query, keys])
x = keras.layers.Concatenate()([interest, query, keras.layers.Multiply()([interest, query])])
x = keras.layers.Dense(32, activation="relu")(x)
model = keras.Model([ids, past], keras.layers.Dense(1, activation="sigmoid")(x))
inputs = {"page": page, "history": history}
model.compile(
    keras.optimizers.Adam(5e-3),
    # The mean over what has a weight, not over all places of the page.
    keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight"),
    weighted_metrics=["auc"],
)
model.fit(inputs, clicked[..., None], sample_weight=shown, batch_size=100, epochs=6, verbose=2)

# The loss is the mean over the items that the page showed, and over nothing else.
loss, auc = model.evaluate(
    inputs, clicked[..., None], sample_weight=shown, batch_size=USERS, verbose=0
)
scores = model.predict(inputs, verbose=0)[..., 0]
right = np.where(clicked == 1, scores, 1 - scores)[shown == 1]
print(f"\nloss by Keras {loss:.6f}, by hand {-np.log(right).mean():.6f}; AUC {auc:.3f}")
np.testing.assert_allclose(loss, -np.log(right).mean(), rtol=1e-4)
assert auc > 0.9

# Each candidate gets the same score as alone, in a row of its own with the history repeated.
tiled = {"page": page.reshape(-1, 1), "history": np.repeat(history, PLACES, axis=0)}
alone = model.predict(tiled, batch_size=1000, verbose=0).reshape(scores.shape)
apart = np.abs(alone - scores)[shown == 1].max()
print(f"largest difference from scoring each candidate alone: {apart:.1e}")
assert apart < 1e-5

# It is also cheaper, because the history is prepared only once: `serving.py` measures the time.
