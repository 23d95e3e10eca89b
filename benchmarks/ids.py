"""Section `ids`: VocabLayer and HashLayer against StringLookup, IntegerLookup and Hashing."""

from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from backends import BACKEND, HOW
from report import Measured, Options, Table, cell, interleaved_medians
from tqdm import tqdm

import din_layers


def pairs(batch: int, time: int, keys: int) -> list[tuple[str, Any, Any, Any]]:
    """Return names, Keras's layer, ours, and ids for them."""
    rng = np.random.default_rng(0)
    # One in ten is unknown, and those after the length are padding.
    numbers = rng.integers(1, round(keys * 1.1), (batch, time))
    numbers *= np.arange(time) < rng.binomial(time, 0.3, (batch, 1))
    integers = tf.constant(numbers)
    strings = tf.where(integers > 0, tf.strings.as_string(integers), "")
    known = list(range(1, keys))
    words = [str(key) for key in known]
    keras_layers = [
        keras.layers.StringLookup(vocabulary=words, mask_token=""),
        keras.layers.IntegerLookup(vocabulary=known, mask_token=0),
        keras.layers.Hashing(keys, mask_value=""),
        keras.layers.Hashing(keys, mask_value=0),
    ]
    ours = {
        f"VocabLayer, {keys:,} strings": din_layers.VocabLayer(words, mask_value=""),
        f"VocabLayer, {keys:,} integers": din_layers.VocabLayer(known, mask_value=0),
        "HashLayer, strings": din_layers.HashLayer(keys, mask_value=""),
        "HashLayer, integers": din_layers.HashLayer(keys, mask_zero=True),
    }
    return list(zip(ours, keras_layers, ours.values(), [strings, integers] * 2, strict=True))


def measure(options: Options) -> Measured:
    """Measure lookups: in a graph on TensorFlow, else of NumPy arrays."""
    size = (4, 5, 20) if options.quick else (512, 50, 100_000)
    rows = []
    for name, other, ours, ids in tqdm(pairs(*size), unit="layer", leave=False):
        other(ids), ours(ids)  # tables are made outside the graphs
        runs = {
            key: partial(layer, ids.numpy())
            if BACKEND != "tensorflow"
            else tf.function(partial(layer, ids), autograph=False)
            for key, layer in (("Keras", other), ("ours", ours))
        }
        medians = interleaved_medians(runs, options.runs)
        rows.append([name, cell([medians["Keras"] / medians["ours"]])])
    how = HOW if BACKEND == "tensorflow" else "in NumPy arrays"
    yield Table(
        f"Ids of shape {size[:2]}, most of them padding, {how}.",
        ["", "ratio"],
        rows,
    )
