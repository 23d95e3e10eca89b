"""Tables too large for one device: keras-rs's `DistributedEmbedding` in front of these layers.

On TPUs with SparseCore, keras-rs spreads its tables over the chips. Elsewhere, as here, they stay
with the rest of the model. Three things differ from `keras.layers.Embedding`: one call looks up all
features, sizes are fixed, and the output has no mask, so we pass the ids to the attention.

    pip install -e ".[examples]" && python examples/large_tables.py
"""

from pathlib import Path

import keras
import keras_rs
import numpy as np
from keras import ops

import din_layers

ITEMS, DIM, BATCH, TIME = 1000, 16, 200, 20
rng = np.random.default_rng(0)
ROWS = 20 * BATCH
data = {
    "item": rng.integers(1, ITEMS, (ROWS, 1)),
    "history": rng.integers(1, ITEMS, (ROWS, TIME))
    * (np.arange(TIME) < rng.integers(0, TIME + 1, (ROWS, 1))),
}
label = (data["item"] % 3 == data["history"][:, :1] % 3).astype(int)[..., None]

# Both features share a table. keras-rs sums a feature with more than one axis over its last axis,
# like a bag of words. A history must keep its events, so we pass its ids as one long row and then
# give the vectors their time axis back.


def build(distributed):
    item = keras.Input((1,), dtype="int32", name="item")
    history = keras.Input((TIME,), dtype="int32", name="history")
    if distributed:
        table = keras_rs.layers.TableConfig("items", ITEMS, DIM, initializer="uniform")
        features = {
            name: keras_rs.layers.FeatureConfig(name, table, (size,), (size, DIM))
            for name, size in (("item", BATCH), ("history", BATCH * TIME))
        }
        flat = {"item": ops.reshape(item, (-1,)), "history": ops.reshape(history, (-1,))}
        vectors = keras_rs.layers.DistributedEmbedding(features)(flat)
        query = ops.reshape(vectors["item"], (-1, 1, DIM))
        keys = ops.reshape(vectors["history"], (-1, TIME, DIM))
    else:
        items = keras.layers.Embedding(ITEMS, DIM)
        query, keys = items(item), items(history)
    interest = din_layers.AttentionPoolingLayer((32, 16))([query, keys], ids=history)
    x = keras.layers.Concatenate()([interest, query])
    model = keras.Model([item, history], keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    return model


# With the same weights at the start and the same batches, both give the same numbers at the end.
keras.utils.set_random_seed(0)
models = {"DistributedEmbedding": build(distributed=True), "Embedding": build(distributed=False)}
start = models["Embedding"].get_weights()
trained = {}
print(f"{'table':22} loss in epoch 1, 2, 3")
for name, model in models.items():
    model.set_weights(start)
    fit = model.fit(data, label, batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
    trained[name] = model.get_weights()
    print(f"{name:22}", *(f"{loss:.6f}" for loss in fit.history["loss"]))
apart = max(np.abs(x - y).max() for x, y in zip(*trained.values(), strict=True))
print(f"largest difference of the trained weights: {apart:.1e}")
assert apart < 1e-5
file = Path("runs/large_tables/model.keras")
file.parent.mkdir(parents=True, exist_ok=True)
models["DistributedEmbedding"].save(file)
