"""A DIN that takes films by the ids of the catalogue, raw strings, and its exported copies.

The DIN of `din.py` takes rows of its film embedding. `FilmRows` turns strings into them, inside the
model: films with enough ratings have a row each (VocabLayer), all others, those that come after the
training included, share some (HashLayer).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from movielens import Floats, Ints

from din_layers import HashLayer, VocabLayer

NO_KEY = 1  # what VocabLayer makes of a string that is none of its keys


class FilmRows:
    """Turns film ids, strings, into rows of an embedding; "" is padding and becomes 0.

    Args:
        known: The films with a row of their own.
        buckets: How many rows the other films share.
    """

    def __init__(self, known: Sequence[str], buckets: int = 64) -> None:
        self.known = VocabLayer(known, mask_value="", name="known_films")
        self.others = HashLayer(buckets, name="other_films")
        self.count = self.known.vocabulary_size + buckets

    def __call__(self, films: Any) -> Any:
        """Turn a tensor of strings, real or symbolic, into int32 rows."""
        rows = self.known(films)
        shared = self.known.vocabulary_size + ops.cast(self.others(films), "int32")
        return ops.where(ops.equal(rows, NO_KEY), shared, rows)


def known_films(films: Sequence[str], ratings: Ints, least: int = 5) -> list[str]:
    """Return the films with `least` ratings, or with the most that any film has."""
    count = np.bincount(ratings, minlength=len(films))
    return [films[film] for film in np.flatnonzero(count >= min(least, count.max()))]


def mean_by_row(shares: Floats, rows: Ints, count: int) -> Floats:
    """Average what is known of each film over the films of each of `count` rows."""
    total = np.zeros((count, shares.shape[1]), shares.dtype)
    np.add.at(total, rows, shares)
    return total / np.maximum(np.bincount(rows, minlength=count), 1)[:, None].astype(shares.dtype)


def string_model(din: keras.Model, rows: FilmRows) -> keras.Model:
    """Put strings in front of a trained DIN, which it shares.

    Inputs: `candidates` (batch, candidates) and `history` (batch, history), film ids, "" is
    padding; `stars` (batch, history), 0.5 to 5. Output: (batch, candidates).
    """
    candidates = keras.Input((None,), dtype="string", name="candidates")
    history = keras.Input((None,), dtype="string", name="history")
    stars = keras.Input((None,), name="stars")
    ratings = ops.cast(ops.round(2 * stars), "int32")
    probability = din([rows(candidates), rows(history), ratings])
    return keras.Model([candidates, history, stars], probability)


def export(strings: keras.Model, din: keras.Model, folder: Path) -> None:
    """Export the model of strings, and the numeric one to runtimes that know no strings."""
    # TensorFlow notes that a table has no place in a format of its first version.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    strings.export(folder / "saved_model", verbose=False)
    din.export(folder / "din.tflite", format="litert", verbose=False)
    with warnings.catch_warnings():
        # Keras 3.15 asks NumPy 2 for `np.object` before it calls tf2onnx.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        din.export(folder / "din.onnx", format="onnx", verbose=False)
