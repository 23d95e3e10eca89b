"""Several fields: every event has an item, a category and a shop, and each field its own attention.

Items come and go, so their ids say little; categories and shops stay. Each field gets its own
embedding and attention, and the model concatenates the outputs of the attentions.
"""

import keras
import numpy as np

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Made-up purchases. A user buys in four of twelve categories and in six of twelve shops, and clicks
# on an item if both its category and its shop are among them. Nearly every item is new. Id 0 is
# padding.
CATEGORIES = SHOPS = 12
TIME = 20


def draw(users):
    mine = {
        "category": np.argsort(rng.random((users, CATEGORIES)), axis=1)[:, :4],
        "shop": np.argsort(rng.random((users, SHOPS)), axis=1)[:, :6],
    }
    valid = np.arange(TIME) < rng.integers(10, TIME + 1, (users, 1))
    new = rng.integers(0, 1_000_000, (users, TIME + 1))
    inputs = {"item": 1 + new[:, TIME:], "item_history": (1 + new[:, :TIME]) * valid}
    label = np.ones(users, bool)
    for field, ids in mine.items():
        bought = np.take_along_axis(ids, rng.integers(0, ids.shape[1], (users, TIME)), axis=1)
        inputs[f"{field}_history"] = (1 + bought) * valid
        asked = np.where(rng.random(users) < 0.6, ids[:, 0], rng.integers(0, 12, users))
        inputs[field] = 1 + asked[:, None]
        label &= (asked[:, None] == ids).any(axis=1)
    return inputs, label[:, None, None].astype(int)


(train, train_label), (test, test_label) = draw(40_000), draw(5_000)

# The model hashes the ids of each field to buckets, so no field needs a vocabulary. With
# `mask_zero=True`, bucket 0 is reserved for the id 0, the padding.
BUCKETS = {"item": 10_000, "category": 500, "shop": 500}


def build(fields):
    inputs, parts = [], []
    for field in fields:
        candidate = keras.Input((None,), dtype="int64", name=field)
        history = keras.Input((None,), dtype="int64", name=f"{field}_history")
        bucket = din_layers.HashLayer(BUCKETS[field], mask_zero=True)
        scale = keras.initializers.RandomNormal(stddev=0.5)
        embed = keras.layers.Embedding(BUCKETS[field], 8, scale, mask_zero=True)
        query, keys = embed(bucket(candidate)), embed(bucket(history))
        attention = din_layers.AttentionPoolingLayer((32, 16), "relu", name=f"{field}_attention")
        interest = attention([query, keys])
        inputs += [candidate, history]
        parts += [interest, query, keras.layers.Multiply()([interest, query])]
    x = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()(parts))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["auc"])
    return model


auc = {}
for fields in (["item"], ["item", "category"], ["item", "category", "shop"]):
    model = build(fields)
    model.fit(train, train_label, batch_size=500, epochs=3, verbose=0)
    auc[len(fields)] = model.evaluate(test, test_label, batch_size=1000, verbose=0)[1]
    print(f"AUC {auc[len(fields)]:.3f} with the fields {', '.join(fields)}")
assert auc[1] < auc[2] - 0.1 < auc[3] - 0.15

# What does each field look at? For one user who clicks: the weight of each event in each attention.
user = int(np.argmax(test_label))
one = {name: values[user : user + 1] for name, values in test.items()}
weights = {}
for field in ("category", "shop"):
    layer = model.get_layer(f"{field}_attention")
    its_inputs = keras.Model(model.inputs, layer.input)(one)
    _, scores = layer(its_inputs, return_attention_scores=True)
    weights[field] = keras.ops.convert_to_numpy(scores)[0, 0]
    match = one[f"{field}_history"][0] == one[field][0]
    assert weights[field][match].sum() > 0.5
print(f"\nThe candidate: category {one['category'][0, 0]}, shop {one['shop'][0, 0]}. Its history:")
print("category  weight   shop  weight")
for event in np.flatnonzero(one["item_history"][0]):
    category, shop = one["category_history"][0, event], one["shop_history"][0, event]
    print(f"{category:8} {weights['category'][event]:7.3f} {shop:6} {weights['shop'][event]:7.3f}")
