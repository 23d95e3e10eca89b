"""Strings and key:weight lists go into the model as they are, and a saved model scores raw strings.

A reader has a city, any string, and a list of topics with weights, such as "sports:0.4,films:0.1".
Lookup, hashing, weighting and pooling are layers of the model: no vocabulary file and no second
implementation stand between training and serving.

Strings in a model need TensorFlow under Keras. Elsewhere use the same layers in `tf.data`.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Raw rows, as a log has them. Readers open the article if they care for the topics "sports" and
# "science" more than for the others; the city says nothing.
TOPICS = np.array(["sports", "films", "science", "music", "food"])


def draw_row():
    topics = rng.choice(TOPICS, rng.integers(0, 5), replace=False)  # some have no topic at all
    weights = rng.random(len(topics)).round(2)
    score = weights[np.isin(topics, ["sports", "science"])].sum() - weights.sum() / 2
    text = ",".join(f"{topic}:{weight}" for topic, weight in zip(topics, weights, strict=True))
    return rng.choice(["Oslo", "Lima", "Pune"]), text, score > 0


city, topics, opened = zip(*(draw_row() for _ in range(4000)), strict=True)
print(*topics[:3], sep="\n")

# The lists are taken apart by TensorFlow. `Lambda` would do, too, but a registered function needs
# no `safe_mode=False` to load.


@keras.saving.register_keras_serializable(package="strings_and_weights")
class KeysAndWeights(keras.layers.Layer):
    """Turn "sports:0.4,films:0.1" into keys, padded with "", and weights, padded with 0."""

    def call(self, lists):
        pairs = tf.strings.split(lists, ",").to_tensor("")
        weights = tf.strings.regex_replace(pairs, ".*:", "")
        weights = tf.strings.to_number(tf.where(pairs == "", "0", weights))
        return tf.strings.regex_replace(pairs, ":.*", ""), weights

    def compute_output_spec(self, lists):
        shape = (lists.shape[0], None)
        return keras.KerasTensor(shape, "string"), keras.KerasTensor(shape, "float32")


# The model. Known topics get an id each: `VocabLayer` makes 0 of the padding and 1 of what it does
# not know. Cities are many and new ones come up: `HashLayer` sends each to one of 100 buckets.
# Weighting by "sum" divides a reader's weights by their sum, so that the sum of the weighted
# vectors is their weighted mean.
city_input = keras.Input((), dtype="string", name="city")
topics_input = keras.Input((), dtype="string", name="topics")
keys, weights = KeysAndWeights()(topics_input)
vocabulary = din_layers.VocabLayer(list(TOPICS), mask_value="")
vectors = keras.layers.Embedding(vocabulary.vocabulary_size, 4, mask_zero=True)(vocabulary(keys))
weighted = din_layers.WeightedSequenceLayer("sum")([vectors, weights])
taste = din_layers.SequencePoolingLayer("sum")(weighted)[:, 0]
place = keras.layers.Embedding(100, 4)(din_layers.HashLayer(100)(city_input))
x = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()([taste, place]))
output = keras.layers.Dense(1, activation="sigmoid")(x)
model = keras.Model({"city": city_input, "topics": topics_input}, output)

# Keras takes strings as tensors, not as NumPy arrays.
model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
rows = {"city": tf.constant(city), "topics": tf.constant(topics)}
model.fit(rows, np.array(opened)[:, None], batch_size=100, epochs=5, verbose=2)

# The weighted mean, against NumPy: 0.3 of the vector of "sports" and 0.7 of that of "food".
table = model.get_layer("embedding").get_weights()[0]
taste_of = keras.Model(model.inputs, taste)
asked = {"city": tf.constant(["Oslo"]), "topics": tf.constant(["sports:0.3,food:0.7"])}
ids = {topic: 2 + place for place, topic in enumerate(TOPICS)}
by_hand = 0.3 * table[ids["sports"]] + 0.7 * table[ids["food"]]
np.testing.assert_allclose(taste_of.predict(asked, verbose=0)[0], by_hand, rtol=0, atol=1e-6)

# Saved and loaded, the model scores raw strings: also an empty list, a topic it has never seen and
# a city that was not in the log.
file = Path("runs/strings_and_weights/model.keras")
file.parent.mkdir(parents=True, exist_ok=True)
model.save(file)
again = keras.models.load_model(file)
lists = ["sports:0.9", "food:0.9", "sports:0.3,food:0.7", "chess:1.0", ""]
asked = {
    "city": tf.constant(["Oslo", "Lima", "Pune", "Rome", "Oslo"]),
    "topics": tf.constant(lists),
}
scores = again.predict(asked, verbose=0)[:, 0]
print("\ntopics                probability")
for text, score in zip(lists, scores, strict=True):
    print(f"{text or '(none)':20} {score:12.3f}")
np.testing.assert_array_equal(scores, model.predict(asked, verbose=0)[:, 0])
assert scores[0] > 0.9
assert scores[1] < 0.1
