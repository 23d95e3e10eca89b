"""Drop attention into an existing model: the pooling changes, everything else stays as it is.

The model below predicts whether a user will like a film, from the films that the user has rated
and whether the user liked them. It pools the history with a plain mean. We replace the mean by
DIN's attention, see what it looks at, save the model, load it and continue training.
"""

from pathlib import Path

import keras
import numpy as np

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# The log is made up, so we know what there is to find. Every film has one of six topics, which the
# model does not see, and every user likes half of the topics. Id 0 is padding.
FILMS, TOPICS, TIME = 120, 6, 20


def draw(users):
    likes = rng.permuted(np.tile([True, False], (users, TOPICS // 2)), axis=1)
    films = rng.integers(1, FILMS + 1, (users, TIME + 1))
    liked = np.take_along_axis(likes, films % TOPICS, axis=1)
    lengths = rng.integers(1, TIME + 1, (users, 1))
    history = films[:, :TIME] * (np.arange(TIME) < lengths)
    inputs = {"film": films[:, TIME:], "history": history, "liked": liked[:, :TIME].astype(int)}
    return inputs, liked[:, TIME:, None]  # (batch, candidates, 1), here of one candidate


train, train_label = draw(50_000)
test, test_label = draw(5_000)

# The model. An event is a film and whether the user liked it; the ids of the films say which events
# are real. `mask_zero=True` makes a mask of them, but this model loses it: `liked` has no mask, and
# if one input has none, `Add` hands none on. (`Concatenate` hands on a mask that is True
# everywhere.) So the mean gets `mask=` and the attention gets `ids=`. The mean blends all events,
# so the model cannot tell which topic the user liked.
#
# The change: the attention takes the candidates as its query, (batch, candidates, 16), and the
# events as its keys, and returns a vector for each candidate, (batch, candidates, 16). The mean
# returns one for all, (batch, 1, 16), so its model takes one candidate; the other takes any number.


def build(pooling):
    one_or_any = 1 if pooling == "mean" else None
    film = keras.Input((one_or_any,), dtype="int32", name="film")
    history = keras.Input((None,), dtype="int32", name="history")
    liked = keras.Input((None,), dtype="int32", name="liked")
    scale = keras.initializers.RandomNormal(stddev=0.5)
    films = keras.layers.Embedding(FILMS + 1, 16, scale, mask_zero=True)
    candidate = films(film)
    events = keras.layers.Add()([films(history), keras.layers.Embedding(2, 16)(liked)])
    if pooling == "mean":
        mean = keras.layers.GlobalAveragePooling1D(keepdims=True)
        pooled = mean(events, mask=history != 0)
    else:
        pool = din_layers.AttentionPoolingLayer((32, 16), att_activation="dice", name="attention")
        pooled = pool([candidate, events], ids=history)
    x = keras.layers.Concatenate()([pooled, candidate])
    x = keras.layers.Dense(32, activation="relu")(x)
    model = keras.Model([film, history, liked], keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["auc"])
    return model


auc = {}
for pooling in ("mean", "attention"):
    model = build(pooling)
    model.fit(train, train_label, batch_size=256, epochs=6, verbose=2)
    auc[pooling] = model.evaluate(test, test_label, batch_size=1000, verbose=0)[1]
    print(f"{pooling}: AUC {auc[pooling]:.3f} on users that it has not seen")
assert auc["attention"] > auc["mean"] + 0.1

# What does it look at? Call the trained layer again on its own inputs. We take the first user with
# a full history: the films that share the candidate's topic should have most of the weight.
user = int(np.argmax((test["history"] > 0).all(1)))
one = {name: values[user : user + 1] for name, values in test.items()}
layer = model.get_layer("attention")
its_inputs = keras.Model(model.inputs, layer.input)(one)
_, scores = layer(its_inputs, return_attention_scores=True)
scores = keras.ops.convert_to_numpy(scores)[0, 0]
topic = one["film"][0, 0] % TOPICS
print(f"\nThe candidate has topic {topic}. Its history, largest weight first:")
print("weight  topic  liked")
for place in np.argsort(-scores)[:8]:
    print(f"{scores[place]:6.3f} {one['history'][0, place] % TOPICS:6} {one['liked'][0, place]:6}")
same = scores[one["history"][0] % TOPICS == topic].sum()
print(f"{same:.0%} of the weight is on films of the candidate's topic")
assert same > 0.5

# Save, load, continue training. The classes are registered: `import din_layers` is all you need.
file = Path("runs/drop_in_attention/model.keras")
file.parent.mkdir(parents=True, exist_ok=True)
model.save(file)
again = keras.models.load_model(file)
np.testing.assert_array_equal(again.predict(test, verbose=0), model.predict(test, verbose=0))
again.fit(train, train_label, batch_size=256, verbose=0)
later = again.evaluate(test, test_label, batch_size=1000, verbose=0)[1]
print(f"\nLoaded, same predictions; one epoch later AUC {later:.3f}")

# The model was trained with one candidate per row, but it can score all films for a user at once.
everything = again.predict({**one, "film": np.arange(1, FILMS + 1)[None]}, verbose=0)
assert everything.shape == (1, FILMS, 1)
np.testing.assert_allclose(
    everything[:, one["film"][0, 0] - 1], again.predict(one, verbose=0)[:, 0], atol=1e-5
)
print(f"The best of {FILMS} films for this user: {1 + everything[0, :, 0].argmax()}")
