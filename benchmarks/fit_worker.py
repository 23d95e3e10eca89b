"""A process with one DIN: what it is told by a line is done, and answered by a line.

    fit_worker.py WAY DATA

An empty line trains for an epoch; two files with a tab between predicts the rows of the first and
writes the probabilities to the second. Both print the seconds. `fit.py` and `peers.py` start it,
for DeepCTR and torch-rechub in other environments: nothing of this package is imported there. A
file of data has ids by the name of the field, those of a history as `history_<field>`, `label`, and
`sizes`, how many ids each of the fields has, in their order; and `batch` and `seed`.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

UNITS = 16
SCORING_BATCH = 2048

Data = dict[str, Any]
Din = tuple[Callable[[], Any], Callable[[Data], Any]]  # trains for an epoch, predicts


def fields_of(data: Data) -> tuple[dict[str, int], list[str]]:
    """Return how many ids each field has, and the fields that have a history."""
    names = [name for name in data if data[name].ndim and name not in ("label", "sizes")]
    fields = [name for name in names if not name.startswith("history_")]
    sizes = dict(zip(fields, data["sizes"].tolist(), strict=True))
    return sizes, [name for name in fields if f"history_{name}" in names]


def deepctr_din(data: Data) -> Din:
    """Return DeepCTR's DIN."""
    from deepctr.feature_column import SparseFeat, VarLenSparseFeat
    from deepctr.models import DIN

    sizes, behaviours = fields_of(data)
    features = [SparseFeat(name, size, embedding_dim=UNITS) for name, size in sizes.items()]
    for name in behaviours:
        ids = SparseFeat(f"hist_{name}", sizes[name], embedding_dim=UNITS, embedding_name=name)
        length = data[f"history_{name}"].shape[1]
        features.append(VarLenSparseFeat(ids, maxlen=length))
    model = DIN(
        features,
        behaviours,
        dnn_hidden_units=(128, 64),
        att_hidden_size=(80, 40),
        att_activation="dice",
        att_weight_normalization=True,
        l2_reg_embedding=0,
        seed=int(data["seed"]),
    )
    model.compile("adam", "binary_crossentropy")

    def renamed(data: Data) -> Data:
        return {name.replace("history", "hist"): column for name, column in data.items()}

    batches = _batches(renamed(data))
    return (
        lambda: model.fit(batches, shuffle=False, verbose=0),
        lambda asked: model.predict(renamed(asked), batch_size=SCORING_BATCH, verbose=0)[:, 0],
    )


def torch_rechub_din(data: Data) -> Din:
    """Return torch-rechub's DIN."""
    import torch
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN
    from torch_rechub.trainers import CTRTrainer

    torch.manual_seed(int(data["seed"]))
    sizes, behaviours = fields_of(data)
    features = {name: SparseFeature(name, size, UNITS) for name, size in sizes.items()}
    candidate = [features.pop(name) for name in behaviours]
    history = [
        SequenceFeature(
            f"history_{x.name}", x.vocab_size, UNITS, "concat", shared_with=x.name, padding_idx=0
        )
        for x in candidate
    ]
    model = DIN(
        list(features.values()),
        history,
        candidate,
        mlp_params={"dims": [128, 64]},
        attention_mlp_params={"dims": [80, 40], "activation": "dice", "use_softmax": True},
    )
    trainer = CTRTrainer(model, optimizer_params={"lr": 1e-3})

    # Whole batches: its own loader collects them row by row.
    def batches(data: Data, size: int) -> list[Data]:
        columns = {
            name: torch.as_tensor(x) for name, x in data.items() if x.ndim and name != "sizes"
        }
        starts = range(0, len(data["movie"]), size)
        return [{name: x[i : i + size] for name, x in columns.items()} for i in starts]

    def predict(asked: Data) -> Any:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(batch) for batch in batches(asked, SCORING_BATCH)]).numpy()

    training = [(batch, batch.pop("label")) for batch in batches(data, int(data["batch"]))]
    return lambda: trainer.train_one_epoch(training), predict


def our_din(data: Data, way: str) -> Din:
    """Return a DIN of this package."""
    import keras
    from backends import RAGGED, XLA, skip_padding

    import din_layers

    keras.utils.set_random_seed(int(data["seed"]))
    sizes, behaviours = fields_of(data)
    ragged = way == RAGGED
    ids = {name: keras.Input((1,), dtype="int32", name=name) for name in sizes}
    histories = {
        name: keras.Input((None,), name=f"history_{name}", dtype="int32", ragged=ragged)
        for name in behaviours
    }
    near_0 = keras.initializers.RandomNormal(stddev=1e-4)  # as in the other two
    embed = {name: keras.layers.Embedding(size, UNITS, near_0) for name, size in sizes.items()}
    vectors = {name: embed[name](x) for name, x in ids.items()}
    query = keras.layers.Concatenate()([vectors[name] for name in behaviours])
    keys = keras.layers.Concatenate()([embed[name](x) for name, x in histories.items()])
    attention = din_layers.AttentionPoolingLayer(
        (80, 40), att_activation="dice", skip_padding=skip_padding(way)
    )
    interest = attention([query, keys] if ragged else [query, keys, histories["movie"]])
    x = keras.layers.Flatten()(keras.layers.Concatenate()([*vectors.values(), interest]))
    for units in (128, 64):
        x = keras.layers.Dense(units, activation="relu")(x)
    output = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model({x.name: x for x in (*ids.values(), *histories.values())}, output)
    model.compile("adam", "binary_crossentropy", jit_compile=way.endswith(XLA) or "auto")
    batches = _batches(data, ragged)
    return (
        lambda: model.fit(batches, shuffle=False, verbose=0),
        lambda asked: model.predict(asked, batch_size=SCORING_BATCH, verbose=0)[:, 0],
    )


def _batches(data: Data, ragged: bool = False) -> Any:
    """Return a tf.data set, on every backend.

    Keras itself takes ragged tensors apart row by row, which is slow.
    """
    import tensorflow as tf

    columns = {name: x if x.ndim == 2 else x[:, None] for name, x in data.items() if x.ndim}
    del columns["sizes"]
    columns, size = {name: tf.constant(x) for name, x in columns.items()}, int(data["batch"])

    def batch(start: Any) -> tuple[dict[str, Any], Any]:
        # Whole batches at once: `batch()` of tf.data would collect them row by row.
        rows = {name: x[start : start + size] for name, x in columns.items()}
        label = rows.pop("label")
        if ragged:
            lengths = tf.math.count_nonzero(rows["history_movie"], axis=1)
            for name in [name for name in rows if name.startswith("history_")]:
                rows[name] = tf.RaggedTensor.from_tensor(rows[name], lengths)
        return rows, label

    batches = tf.data.Dataset.range(0, len(data["label"]), size).map(batch).prefetch(2)
    # Else each epoch ends with a wait for the thread that tunes, which sleeps 10, 20, 40 ... ms:
    # epochs of 0.9 to 1.2 seconds would all take 1.28.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def read(file: str) -> Data:
    with np.load(file) as arrays:
        return dict(arrays)


def main() -> None:
    way, file = sys.argv[1:]
    data = read(file)
    peers = {"DeepCTR": deepctr_din, "torch-rechub": torch_rechub_din}
    train, predict = peers[way](data) if way in peers else our_din(data, way)
    for line in sys.stdin:
        start = time.perf_counter()
        if line.strip():
            rows, out = line.rstrip("\n").split("\t")
            np.save(out, predict(read(rows)))
        else:
            train()
        print("seconds", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
