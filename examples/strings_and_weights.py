"""Raw lines in: the model parses key:weight lists and strings, looks them up, hashes and pools.

`community_feed.csv` has ten rows that were published with a DIN for the feed of a community
(xulu1352, "Attention机制的实现及其在社区资讯推荐中的应用"): articles shown to a reader, and whether
the reader opened them. Training and serving need no vocabulary file and no second implementation:
one saved model scores raw lines. Strings in a model need the TensorFlow backend; on other backends,
use the same layers in `tf.data`.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import din_layers

FEED = Path(__file__).resolve().with_name("community_feed.csv")
header, *lines = FEED.read_text(encoding="utf-8").splitlines()
COLUMNS = header.split(",")
os.makedirs("runs/strings_and_weights", exist_ok=True)
os.chdir("runs/strings_and_weights")  # all files go there
keras.utils.set_random_seed(0)

# A line has single values, lists such as "225,158,139", and a list with weights, "1:0.4,177:0.1".
# The lists are padded with "0". A registered layer, unlike `Lambda`, needs no `safe_mode=False`.
SINGLES = ("client_type", "post_type", "topic_id", "keyword_id")
LISTS = ("follow_topic_id", "all_topic_fav_7", "hist_topic_id", "hist_keyword_id")


@keras.saving.register_keras_serializable(package="strings_and_weights")
class ReadLines(keras.layers.Layer):
    """Turn lines (batch,) into strings (batch, 1), lists (batch, longest), and weights."""

    def call(self, lines):
        row = dict(zip(COLUMNS, tf.io.decode_csv(lines, [[""]] * len(COLUMNS)), strict=True))
        found = {name: row[name][:, None] for name in SINGLES}
        for name in LISTS:
            parts = tf.strings.split(row[name], ",").to_tensor("0")
            found[name] = tf.where(parts == "", "0", parts)  # an empty list splits into one ""
        pairs = found["all_topic_fav_7"]
        found["all_topic_fav_7"] = tf.strings.regex_replace(pairs, ":.*", "")
        weights = tf.strings.regex_replace(pairs, ".*:", "")
        return {**found, "weights": tf.strings.to_number(weights)}

    def compute_output_spec(self, lines):
        found = {name: keras.KerasTensor((lines.shape[0], 1), "string") for name in SINGLES}
        found |= {name: keras.KerasTensor((lines.shape[0], None), "string") for name in LISTS}
        return {**found, "weights": keras.KerasTensor((lines.shape[0], None), "float32")}


# The model. The topics are known, so `VocabLayer` gives each its id, unknown ones 1 and padding 0.
# Keywords are many, and new ones appear: `HashLayer` sends each to a bucket. The article and all
# lists share the two tables.
line = keras.Input((), dtype="string", name="line")
row = ReadLines()(line)
vocabulary = din_layers.VocabLayer(tuple(map(str, range(1, 700))), mask_value="0")
bucket = din_layers.HashLayer(1000, mask_value="0")
topic = keras.layers.Embedding(vocabulary.vocabulary_size, 8, mask_zero=True, name="topics")
keyword = keras.layers.Embedding(1000, 8, mask_zero=True)


def article(topics, keywords):
    parts = [topic(vocabulary(row[topics])), keyword(bucket(row[keywords]))]
    return keras.layers.Concatenate()(parts)


candidate = article("topic_id", "keyword_id")  # (batch, 1, 16)
history = article("hist_topic_id", "hist_keyword_id")
# An event has two features; the ids of one of them say which positions are events.
attention = din_layers.AttentionPoolingLayer((80, 40), att_activation="dice")
interest = attention([candidate, history], ids=vocabulary(row["hist_topic_id"]))

# The favourites are pooled with their weights: "sum" divides these by their sum, as
# `tf.nn.embedding_lookup_sparse` does. Followed topics are pooled by a plain mean.
favourites = [topic(vocabulary(row["all_topic_fav_7"])), row["weights"]]
favourites = din_layers.WeightedSequenceLayer("sum")(favourites)
favourites = din_layers.SequencePoolingLayer("sum")(favourites)
followed = din_layers.SequencePoolingLayer("mean")(topic(vocabulary(row["follow_topic_id"])))
types = (din_layers.HashLayer(16)(row[name]) for name in ("client_type", "post_type"))
types = [keras.layers.Embedding(16, 4)(ids) for ids in types]
x = keras.layers.Concatenate()([candidate, interest, favourites, followed, *types])
x = din_layers.Dice()(keras.layers.Dense(32)(x))
model = keras.Model(line, keras.layers.Dense(1, activation="sigmoid")(x))

# The model memorises the ten rows; `tensorboard --logdir runs/strings_and_weights/logs` shows how.
asked, opened = tf.constant(lines), np.array([[[float(text[0])]] for text in lines])
model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
model.fit(asked, opened, epochs=60, verbose=0, callbacks=[keras.callbacks.TensorBoard("logs")])

# The first reader's favourites, 1:0.4074, 177:0.1217 and 502:0.4286, by hand.
table, weights = model.get_layer("topics").get_weights()[0], np.array([0.4074, 0.1217, 0.4286])
by_hand = weights / weights.sum() @ table[[1 + 1, 177 + 1, 502 + 1]]  # "1" is the first key: id 2
pooled = keras.Model(line, favourites).predict(asked, verbose=0)[0, 0]
np.testing.assert_allclose(pooled, by_hand, rtol=0, atol=1e-6)

# Save and load the model; export it for a process that has only TensorFlow. The label may be empty.
model.save("model.keras")
again = keras.models.load_model("model.keras")
scores = again.predict(asked, verbose=0).ravel()
np.testing.assert_array_equal(scores, model.predict(asked, verbose=0).ravel())
model.export("serving", verbose=False)
SERVER = """
import sys, tensorflow as tf
lines = [line.rstrip()[1:] for line in open(sys.argv[1], encoding="utf-8")][1:]
loaded = tf.saved_model.load("serving")
print(*loaded.serve(tf.constant(lines)).numpy().ravel())
assert "din_layers" not in sys.modules
"""
served = subprocess.check_output([sys.executable, "-c", SERVER, FEED], text=True).split()
np.testing.assert_allclose(np.array(served, float), scores, rtol=0, atol=1e-5)
print("\nprobability of each line, scored raw by the exported model")
for text, probability in zip(lines, served, strict=True):
    print(f"{float(probability):.3f}  {text}")
assert scores[opened.ravel() == 1].min() > scores[opened.ravel() == 0].max()
new = ",1,9,9,chess,,,,new,"  # nothing of it was in the data, and its lists are empty
print(f"{again.predict(tf.constant([new]), verbose=0)[0, 0, 0]:.3f}  {new}")
