"""A process with one DIN: trains for an epoch whenever it is sent a line, and prints the seconds.

    fit_worker.py WAY DATA

`fit.py` starts it, for DeepCTR in another environment: nothing of this package is imported there.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

BATCH = 512
UNITS = 16
HISTORY = 50

Data = dict[str, Any]


def deepctr_fit(data: Data) -> Callable[[], Any]:
    """Return an epoch of DeepCTR's DIN."""
    from deepctr.feature_column import SparseFeat, VarLenSparseFeat
    from deepctr.models import DIN

    sizes = dict(zip(("user", "movie", "genre"), data["sizes"].tolist(), strict=True))
    features = [SparseFeat(name, size, embedding_dim=UNITS) for name, size in sizes.items()]
    for name in ("movie", "genre"):
        ids = SparseFeat(f"hist_{name}", sizes[name], embedding_dim=UNITS, embedding_name=name)
        features.append(VarLenSparseFeat(ids, maxlen=HISTORY))
    model = DIN(
        features,
        ["movie", "genre"],
        dnn_hidden_units=(128, 64),
        att_hidden_size=(80, 40),
        att_activation="dice",
        att_weight_normalization=True,
        l2_reg_embedding=0,
    )
    model.compile("adam", "binary_crossentropy")
    renamed = {name.replace("history", "hist"): column for name, column in data.items()}
    batches = _batches(renamed)
    return lambda: model.fit(batches, shuffle=False, verbose=0)


def torch_rechub_fit(data: Data) -> Callable[[], Any]:
    """Return an epoch of torch-rechub's DIN."""
    import torch
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN
    from torch_rechub.trainers import CTRTrainer

    sizes = dict(zip(("user", "movie", "genre"), data.pop("sizes").tolist(), strict=True))
    candidate = [SparseFeature(name, sizes[name], UNITS) for name in ("movie", "genre")]
    history = [
        SequenceFeature(
            f"history_{x.name}", x.vocab_size, UNITS, "concat", shared_with=x.name, padding_idx=0
        )
        for x in candidate
    ]
    model = DIN(
        [SparseFeature("user", sizes["user"], UNITS)],
        history,
        candidate,
        mlp_params={"dims": [128, 64]},
        attention_mlp_params={"dims": [80, 40], "activation": "dice", "use_softmax": True},
    )
    trainer = CTRTrainer(model, optimizer_params={"lr": 1e-3})
    columns = {name: torch.as_tensor(column) for name, column in data.items()}
    label = columns.pop("label")
    # Whole batches: its own loader collects them row by row.
    batches = [
        ({name: x[i : i + BATCH] for name, x in columns.items()}, label[i : i + BATCH])
        for i in range(0, len(label), BATCH)
    ]
    return lambda: trainer.train_one_epoch(batches)


def our_fit(data: Data, way: str) -> Callable[[], Any]:
    """Return an epoch of a DIN of this package."""
    import keras

    import din_layers

    ragged = way == "ragged"
    ids = {name: keras.Input((1,), dtype="int32", name=name) for name in ("user", "movie", "genre")}
    histories = {
        name: keras.Input((None,), name=name, dtype="int32", ragged=ragged)
        for name in ("history_movie", "history_genre")
    }
    tables = [keras.layers.Embedding(size, UNITS) for size in data["sizes"].tolist()]
    embed = dict(zip(ids, tables, strict=True))
    vectors = {name: embed[name](x) for name, x in ids.items()}
    query = keras.layers.Concatenate()([vectors["movie"], vectors["genre"]])
    events = [embed[name.removeprefix("history_")](x) for name, x in histories.items()]
    keys = keras.layers.Concatenate()(events)
    attention = din_layers.AttentionPoolingLayer(
        (80, 40), att_activation="dice", skip_padding=way == "padded, skip_padding"
    )
    interest = attention([query, keys] if ragged else [query, keys, histories["history_movie"]])
    x = keras.layers.Flatten()(keras.layers.Concatenate()([*vectors.values(), interest]))
    for units in (128, 64):
        x = keras.layers.Dense(units, activation="relu")(x)
    output = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model({**ids, **histories}, output)
    model.compile("adam", "binary_crossentropy", jit_compile=way == "padded, XLA" or "auto")
    batches = _batches(data, ragged)
    return lambda: model.fit(batches, shuffle=False, verbose=0)


def _batches(data: Data, ragged: bool = False) -> Any:
    """Return a tf.data set, on every backend.

    Keras itself takes ragged tensors apart row by row, which is slow.
    """
    import tensorflow as tf

    columns = {name: tf.constant(x if x.ndim == 2 else x[:, None]) for name, x in data.items()}
    del columns["sizes"]

    def batch(start: Any) -> tuple[dict[str, Any], Any]:
        # Whole batches at once: `batch()` of tf.data would collect them row by row.
        rows = {name: x[start : start + BATCH] for name, x in columns.items()}
        label = rows.pop("label")
        if ragged:
            lengths = tf.math.count_nonzero(rows["history_movie"], axis=1)
            for name in ("history_movie", "history_genre"):
                rows[name] = tf.RaggedTensor.from_tensor(rows[name], lengths)
        return rows, label

    batches = tf.data.Dataset.range(0, len(data["label"]), BATCH).map(batch).prefetch(2)
    # Else each epoch ends with a wait for the thread that tunes, which sleeps 10, 20, 40 ... ms:
    # epochs of 0.9 to 1.2 seconds would all take 1.28.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def main() -> None:
    way, file = sys.argv[1:]
    with np.load(file) as arrays:
        data = dict(arrays)
    peers = {"DeepCTR": deepctr_fit, "torch-rechub": torch_rechub_fit}
    epoch = peers[way](data) if way in peers else our_fit(data, way)
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print("seconds", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
