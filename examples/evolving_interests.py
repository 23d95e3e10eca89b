"""Interests that evolve: GRU, attention scores, AUGRU, which is DIEN. And the mask between them.

DIN asks which events of a history matter for the candidate, but not when they happened. DIEN reads
the history in order. A GRU makes a state of each event, and the attention scores the states against
the candidate. Then AUGRU goes through the states; the score of each says how much it changes AUGRU.
"""

import keras
import numpy as np

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Made-up histories that drift: a user switches between two topics every few events, and likes only
# items with the topic of the last event. Half of the candidates have this topic, half the other
# one. Id 0 is padding.
TOPICS, TIME, ITEMS = 6, 16, 60


def draw(users):
    two = np.argsort(rng.random((users, TOPICS)), axis=1)[:, :2]
    which = np.cumsum(rng.random((users, TIME)) < 0.4, axis=1) % 2
    lengths = rng.integers(4, TIME + 1, users)
    last = which[np.arange(users), lengths - 1]
    label = rng.integers(0, 2, users)
    some_item = TOPICS * rng.integers(0, ITEMS // TOPICS, (users, TIME + 1))
    history = 1 + np.take_along_axis(two, which, axis=1) + some_item[:, :TIME]
    history *= np.arange(TIME) < lengths[:, None]
    item = 1 + two[np.arange(users), np.where(label, last, 1 - last)] + some_item[:, TIME]
    return {"history": history, "item": item[:, None]}, label[:, None, None]


train, test = draw(20_000), draw(4000)

# The trap. Keras's mask goes from layer to layer, here from the embedding through the GRU. (From
# Keras 3.16 on it ends there.) The first operation that is no layer drops it: the `+` of a residual
# connection is enough. The layers behind it then silently take padding for events. So pass them the
# ids of the history, which say what is an event: `attention([query, states], ids=history)`.
#
# AUGRU has to read the history once for each candidate, so in DIEN each row has one candidate.


def build(kind):
    history = keras.Input((None,), dtype="int32", name="history")
    item = keras.Input((1,), dtype="int32", name="item")
    items = keras.layers.Embedding(ITEMS + 1, 16, mask_zero=True)
    query, keys = items(item), items(history)
    attention = din_layers.AttentionPoolingLayer((32, 16), att_activation="dice")
    if kind == "DIN":
        interest = attention([query, keys])
    else:
        states = keys + keras.layers.GRU(16, return_sequences=True)(keys)
        events = {} if kind == "DIEN without ids" else {"ids": history}
        _, scores = attention([query, states], **events, return_attention_scores=True)
        interest = din_layers.AUGRU(16)([states, scores], **events)[:, None]
    product = keras.layers.Multiply()([interest, query])
    x = keras.layers.Concatenate()([interest, query, product])
    x = keras.layers.Dense(32, activation="relu")(x)
    click = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model([history, item], click, name=kind.replace(" ", "_"))
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["auc"])
    return model


results = {}
for kind in ("DIN", "DIEN", "DIEN without ids"):
    model = build(kind)
    model.fit(*train, batch_size=200, epochs=3, verbose=2)
    auc = model.evaluate(*test, batch_size=1000, verbose=0)[1]
    # More padding must change nothing.
    inputs, _ = test
    longer = {**inputs, "history": np.pad(inputs["history"], [(0, 0), (0, 16)])}
    change = np.abs(model.predict(longer, verbose=0) - model.predict(inputs, verbose=0)).max()
    results[kind] = auc, change

print("\nmodel               AUC  largest change by 16 positions of padding")
for kind, (auc, change) in results.items():
    print(f"{kind:17} {auc:.3f}  {change:.1e}")
assert results["DIEN"][0] > results["DIN"][0] + 0.1
assert results["DIEN"][1] < 1e-5
assert results["DIEN without ids"][1] > 1e-2

# A layer with `mask_required=True` does not stay silent: it refuses a sequence that comes with
# nothing to tell its padding.
message = ""
try:
    din_layers.AUGRU(16, mask_required=True)([keras.Input((None, 16)), keras.Input((None,))])
except ValueError as error:
    message = str(error)
assert "`mask` must be given, or `lengths` or `ids`" in message
print("\nWith mask_required=True: `mask` must be given, or `lengths` or `ids`")
