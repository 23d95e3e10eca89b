"""DIN's attention as it is commonly written: the layer that ours is measured against."""

from typing import Any

import keras
import tensorflow as tf


class NaiveAttention(keras.Layer):
    """Repeats the query, concatenates four parts for every position, and masks by a sentinel."""

    def __init__(self, units: tuple[int, ...] = (80, 40), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        hidden = [keras.layers.Dense(size, activation="sigmoid") for size in units]
        self.dense_layers = [*hidden, keras.layers.Dense(1)]

    def build(self, input_shape: Any) -> None:
        width = 4 * input_shape[1][-1]
        for dense in self.dense_layers:
            dense.build((None, None, width))
            width = dense.units

    def call(self, inputs: Any) -> Any:
        query, keys, ids = inputs
        queries = tf.tile(query, [1, tf.shape(keys)[1], 1])
        x = tf.concat([queries, keys, queries - keys, queries * keys], axis=-1)
        for dense in self.dense_layers:
            x = dense(x)
        scores = tf.transpose(x, (0, 2, 1))
        scores = tf.where(tf.not_equal(ids, 0)[:, None], scores, -(2.0**32) + 1)
        return tf.matmul(tf.nn.softmax(scores), keys)
