"""DIN over a table that is too large for one device: `DistributedEmbedding` of keras-rs in front.

On TPUs with SparseCore keras-rs spreads its tables over the chips; on every other device, as here,
they stand where the rest of the model does, and nothing in the model changes. What changes against
`keras.layers.Embedding` is in `build_model`:

* one call looks up all features, which may share a table;
* a feature of more than one axis is summed up over its last one, as for a bag of words. A history
  must keep its events, so its ids go in as one long row and are given their time axis back;
* no mask comes out, so the attention is handed the ids and sees for itself where they are 0;
* sizes are fixed: `batch` and `history` are part of the table's configuration.

Trains this model on MovieLens beside the same one with `keras.layers.Embedding`, on the same
batches and from the same weights, prints how far they are apart, and saves the first
(`large_tables.keras`).

    python examples/large_tables.py
    python examples/large_tables.py --limit 50
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from command_line import Parser, UsageError, movielens_parser, run_example
from movielens import number, read, split

if TYPE_CHECKING:
    import keras

FILES = ("large_tables.keras",)
UNITS = 16
# Both models do the same sums in the same order; only the gradient of the table is put together
# from its rows in another one, and Adam turns rounding into steps of up to the learning rate where
# a gradient is little else.
TOLERANCE = 1e-4


def build_model(table: str, films: int, batch: int, history: int, seed: int) -> keras.Model:
    """Probability that a user with this history likes the film in question.

    Args:
        table: "distributed" or "embedding".
        films: The number of film ids, 0 for padding included.
        batch: The number of rows in a batch.
        history: The number of events in a history.
        seed: Of the weights.
    """
    import keras

    from din_layers import AttentionPoolingLayer, Dice

    keras.utils.set_random_seed(seed)
    inputs = {
        "movie": keras.Input((1,), dtype="int32", name="movie"),
        "history_movies": keras.Input((history,), dtype="int32", name="history_movies"),
    }
    look_up = distributed_table if table == "distributed" else plain_table
    query, keys = look_up(inputs, films, batch, history)
    attention = AttentionPoolingLayer((32, 16), att_activation="dice")
    interest = attention([query, keys, inputs["history_movies"]])
    x = keras.layers.Flatten()(keras.layers.Concatenate()([query, interest]))
    x = Dice()(keras.layers.Dense(32)(x))
    output = keras.layers.Dense(1, activation="sigmoid")(x)
    return keras.Model(inputs, output, name=table)


def distributed_table(inputs: dict[str, Any], films: int, batch: int, history: int) -> list[Any]:
    """Look up film and history in one table of keras-rs."""
    from keras import ops
    from keras_rs.layers import DistributedEmbedding, FeatureConfig, TableConfig

    table = TableConfig("films", films, UNITS, initializer="uniform")
    rows = {"movie": batch, "history_movies": batch * history}
    embedding = DistributedEmbedding(
        {name: FeatureConfig(name, table, (n,), (n, UNITS)) for name, n in rows.items()}
    )
    vectors = embedding({name: ops.reshape(ids, (-1,)) for name, ids in inputs.items()})
    return [
        ops.reshape(vectors[name], (-1, time, UNITS))
        for name, time in (("movie", 1), ("history_movies", history))
    ]


def plain_table(inputs: dict[str, Any], films: int, batch: int, history: int) -> list[Any]:
    """Look up film and history in one table of Keras."""
    import keras

    embedding = keras.layers.Embedding(films, UNITS, embeddings_initializer="uniform")
    return [embedding(ids) for ids in inputs.values()]


# The job ---------------------------------------------------------------------------------------


def parser() -> Parser:
    """All options."""
    return movielens_parser(
        "Train DIN over a table of keras-rs.",
        epochs=1,
        out=Path("runs/large_tables"),
        files=FILES,
    )


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    if importlib.util.find_spec("keras_rs") is None:
        raise UsageError("keras-rs is not installed: pip install keras-rs")
    data = number(*read(options.data, options.limit))
    _, history, questions, test = split(data, options.history, options.data)

    import din
    import keras

    order = np.random.default_rng(options.seed).permutation(len(questions.movie))
    batch = min(din.BATCH, len(order))
    order = order[: len(order) // batch * batch]  # of fixed size, as the table wants it
    inputs = {
        name: values[order]
        for name, values in din.inputs_of(questions).items()
        if name != "history_ratings"
    }
    models = [
        build_model(table, len(data.titles), batch, history, options.seed)
        for table in ("distributed", "embedding")
    ]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        print(f"\nTable: {model.name}", flush=True)
        model.compile(keras.optimizers.Adam(din.LEARNING_RATE), loss="binary_crossentropy")
        model.fit(
            inputs,
            questions.label[order, None],
            batch_size=batch,
            epochs=options.epochs,
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    pairs = zip(*(model.get_weights() for model in models), strict=True)
    difference = max(float(np.abs(one - other).max()) for one, other in pairs)
    asked = {name: x for name, x in din.inputs_of(test).items() if name in inputs}
    scores = din.measure(test, din.predict(models[0], asked))
    print(f"\nHeld-out AUC with DistributedEmbedding {scores.auc:.4f}")
    print(f"Largest difference of the weights from those with Embedding: {difference:.1g}")
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the two models differ by {difference}, over {TOLERANCE}")
    models[0].save(staging / FILES[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("large_tables", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
