"""Two towers for retrieval: a user's vector and an item's vector, trained by a sampled softmax.

`build_two_towers` is the part to take along: it returns a user tower and an item tower, which share
their embeddings. `build_training_model` joins them for `fit`; afterwards each is saved and used on
its own. `two_towers_movielens.py` is the job around it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_rs
import numpy as np
from fresh_program import run_program
from keras import ops
from movielens import Floats, Ints

from din_layers import SequencePoolingLayer

BATCH = 256
SCORING_BATCH = 2048
LEARNING_RATE = 1e-3
SAMPLERS = ("inbatch", "uniform", "frequency")


# The towers ------------------------------------------------------------------------------------


def build_two_towers(
    user_fields: Mapping[str, int],
    item_fields: Mapping[str, int],
    *,
    user_units: int = 16,
    item_units: int = 32,
    user_hidden_units: Sequence[int] = (128, 64, 32),
    item_hidden_units: Sequence[int] = (64, 32),
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    hidden_l2: float = 0.0,
    embedding_l2: float = 1e-6,
    embedding_stddev: float = 1e-4,
    seed: int | None = None,
) -> tuple[keras.Model, keras.Model]:
    """Return the user tower and the item tower; both give vectors of length 1.

    The user tower takes each user field (batch, 1), `history_length` (batch, 1) and, for each item
    field, `history_<field>` (batch, time), which is pooled by its mean. The item tower takes each
    item field (batch, 1). The score of a pair is the inner product of the vectors.

    Args:
        user_fields: Per field of a user: how many ids it has, 0 included.
        item_fields: Per field of an item: the same. Items and histories share the embeddings.
        user_units: Size of the embedding of a user field.
        item_units: Size of the embedding of an item field.
        user_hidden_units: Units of the user tower's dense layers, the vector's size last.
        item_hidden_units: Units of the item tower's dense layers, the same size last.
        activation: Activation of all dense layers but the last.
        batch_norm: Whether these have batch normalization in front of their activation.
        dropout: Dropout behind their activation.
        hidden_l2: Weight decay of the dense layers' kernels.
        embedding_l2: Weight decay of the embeddings.
        embedding_stddev: Standard deviation of the new embeddings.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)

    def embedding(field: str, ids: int, units: int) -> keras.layers.Embedding:
        return keras.layers.Embedding(
            ids,
            units,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=embedding_stddev),
            embeddings_regularizer=keras.regularizers.L2(embedding_l2),
            name=f"{field}_embedding",
        )

    def tower(vectors: list[Any], hidden_units: Sequence[int]) -> Any:
        x = keras.layers.Flatten()(keras.layers.Concatenate()(vectors))
        *hidden, size = hidden_units
        for units in hidden:
            x = keras.layers.Dense(units, kernel_regularizer=keras.regularizers.L2(hidden_l2))(x)
            if batch_norm:
                x = keras.layers.BatchNormalization()(x)
            x = keras.layers.Activation(activation)(x)
            x = keras.layers.Dropout(dropout)(x)
        x = keras.layers.Dense(size, kernel_regularizer=keras.regularizers.L2(hidden_l2))(x)
        return keras.layers.UnitNormalization()(x)

    item_embeddings = {
        field: embedding(field, ids, item_units) for field, ids in item_fields.items()
    }
    item = {field: keras.Input((1,), dtype="int32", name=field) for field in item_fields}
    item_vector = tower([item_embeddings[field](item[field]) for field in item], item_hidden_units)

    user = {field: keras.Input((1,), dtype="int32", name=field) for field in user_fields}
    history = {
        f"history_{field}": keras.Input((None,), dtype="int32", name=f"history_{field}")
        for field in item_fields
    }
    length = keras.Input((1,), dtype="int32", name="history_length")
    pool = SequencePoolingLayer(mode="mean", name="mean")
    user_vector = tower(
        [embedding(field, user_fields[field], user_units)(user[field]) for field in user]
        + [pool([item_embeddings[field](history[f"history_{field}"]), length]) for field in item],
        user_hidden_units,
    )
    return (
        keras.Model({**user, **history, "history_length": length}, user_vector, name="user_tower"),
        keras.Model(item, item_vector, name="item_tower"),
    )


# Training --------------------------------------------------------------------------------------


def build_training_model(
    user_tower: keras.Model,
    item_tower: keras.Model,
    items: Mapping[str, Ints],
    counts: Ints,
    *,
    sampler: str = "inbatch",
    num_sampled: int = 255,
    distortion: float = 1.0,
    temperature: float = 0.05,
    seed: int | None = None,
) -> keras.Model:
    """Join the towers to a classifier that tells each user's item from the negatives.

    Inputs: those of the user tower, and `positive` (batch, 1), the id of the user's item. Output:
    logits (batch, 1 + negatives), the user's item first, so that its class is always 0: train with
    `SparseCategoricalCrossentropy(from_logits=True)` and labels 0.

    Args:
        user_tower: From `build_two_towers`.
        item_tower: From `build_two_towers`.
        items: Per item field, the value for each item id; id 0 is padding.
        counts: Per item id: how often it is a positive in the training part.
        sampler: Where negatives come from: "inbatch", the positives of the other users of the
            batch; "uniform" or "frequency", `num_sampled` draws from all items for each batch.
        num_sampled: Number of draws.
        distortion: "frequency" draws by `counts ** distortion`.
        temperature: The scores, between -1 and 1, are divided by it.
        seed: Seed of the draws.
    """
    probabilities = sampling_probabilities(sampler, counts, distortion)

    def item_vectors(ids: Any) -> Any:
        return item_tower({field: ops.take(values, ids) for field, values in items.items()})

    positive_ids = keras.Input((1,), dtype="int32", name="positive")
    positives = item_vectors(positive_ids)
    if sampler == "inbatch":
        negative_ids, negatives = positive_ids, positives
    else:
        negative_ids = NegativeSampler(probabilities, num_sampled, seed)(positive_ids)
        negatives = item_vectors(negative_ids)
    logits = sampled_softmax_logits(
        user_tower.output,
        positives,
        negatives,
        positive_ids,
        negative_ids,
        probabilities,
        temperature,
    )
    inputs = {tensor.name: tensor for tensor in user_tower.inputs}
    return keras.Model({**inputs, "positive": positive_ids}, logits, name=sampler)


def sampling_probabilities(sampler: str, counts: Ints, distortion: float = 1.0) -> Floats:
    """Per item id: how probable it is that a negative is this item; 0 for padding, id 0."""
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}. Received: {sampler=}")
    weights = {
        "inbatch": counts.astype(np.float64),
        "uniform": np.ones(len(counts)),
        "frequency": counts.astype(np.float64) ** distortion,
    }[sampler]
    weights[0] = 0
    return weights / weights.sum()


def sampled_softmax_logits(
    users: Any,
    positives: Any,
    negatives: Any,
    positive_ids: Any,
    negative_ids: Any,
    probabilities: Floats,
    temperature: float,
) -> Any:
    """Logits (batch, 1 + negatives) of each user's own item and of the negatives, which all share.

    `users` and `positives` are (batch, dim), `negatives` (negatives, dim), the ids (batch, 1) and
    (negatives, 1). Popular items are negatives more often than others; subtracting the logarithm
    of their sampling probability makes up for it ("Sampling-Bias-Corrected Neural Modeling for
    Large Corpus Item Recommendations", section 3). Negatives that are the user's own item, itself
    in the batch among them, are left out.
    """

    def corrected(scores: Any, ids: Any) -> Any:
        # Its default epsilon, 1e-6, would clip the rare items of large data.
        correction = keras_rs.layers.SamplingProbabilityCorrection(epsilon=1e-12)
        return correction(scores / temperature, ops.take(probabilities.astype("float32"), ids))

    negative_ids = ops.transpose(negative_ids)
    own = corrected(ops.sum(users * positives, axis=-1, keepdims=True), positive_ids)
    others = corrected(ops.matmul(users, ops.transpose(negatives)), negative_ids)
    # keras-rs 0.4.0 has RemoveAccidentalHits, which changes nothing: it adds 1e-40 to the logits.
    # Scores are at most 1 / temperature, so -1e9 is far below all of them.
    others = ops.where(ops.equal(positive_ids, negative_ids), -1e9, others)
    return ops.concatenate([own, others], axis=-1)


class NegativeSampler(keras.layers.Layer):
    """Draw the ids (num_sampled, 1) of a batch's negatives anew at each call."""

    def __init__(
        self, probabilities: Floats, num_sampled: int, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        # The logarithm of 0 is -inf, which is right: such an item is never drawn.
        with np.errstate(divide="ignore"):
            self.log_probabilities = np.log(probabilities)[None].astype("float32")
        self.num_sampled = num_sampled
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, positive_ids: Any) -> Any:
        """Draw; `positive_ids` only tells Keras that there is a batch."""
        drawn = keras.random.categorical(
            self.log_probabilities, self.num_sampled, dtype="int32", seed=self.seed_generator
        )
        return ops.transpose(drawn)


def train(model: keras.Model, inputs: dict[str, Ints], epochs: int) -> list[float]:
    """Train with Adam; return the loss after each epoch."""
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Compiling with XLA takes longer than it saves in the few epochs that this data bears.
        jit_compile=False,
    )
    history = model.fit(
        inputs,
        np.zeros((len(inputs["positive"]), 1), np.int32),
        batch_size=BATCH,
        epochs=epochs,
        # A progress bar on a terminal, one line per epoch in a log.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return history.history["loss"]


def vectors(tower: keras.Model, inputs: Mapping[str, Ints]) -> Floats:
    """What a tower makes of its inputs, (rows, dim)."""
    rows = len(next(iter(inputs.values())))
    # Called batch by batch: `predict` would trace a graph for each tower of each seed.
    parts = [
        tower({name: values[start : start + SCORING_BATCH] for name, values in inputs.items()})
        for start in range(0, rows, SCORING_BATCH)
    ]
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


# Serving ---------------------------------------------------------------------------------------

SERVE = """
import sys
import numpy as np
import din_layers  # registers the layers, which is all that loading needs
import keras
import keras_rs
users_file, items_file, user_tower, item_tower, k, answer = sys.argv[1:]
with np.load(items_file) as items:
    items = {field: values[1:, None] for field, values in items.items()}  # row 0 is padding
item_vectors = keras.models.load_model(item_tower).predict(items, batch_size=2048, verbose=0)
ids = np.arange(1, len(item_vectors) + 1, dtype="int32")
retrieval = keras_rs.layers.BruteForceRetrieval(item_vectors, ids, k=int(k))
del item_tower, items  # from here on, users only
user_tower = keras.models.load_model(user_tower)
with np.load(users_file) as users:
    scores, best = retrieval(user_tower.predict(dict(users), batch_size=2048, verbose=0))
np.savez(answer, scores=keras.ops.convert_to_numpy(scores), best=keras.ops.convert_to_numpy(best))
"""


def retrieve_in_fresh_process(
    user_tower: Path, item_tower: Path, users: Mapping[str, Ints], items: Mapping[str, Ints], k: int
) -> tuple[Floats, Ints]:
    """Load the saved towers in a fresh process; return scores and ids of each user's `k` best."""
    with tempfile.TemporaryDirectory() as folder:
        asked, catalogue, answer = (
            Path(folder, f"{name}.npz") for name in ("users", "items", "answer")
        )
        np.savez(asked, **users)
        np.savez(catalogue, **items)
        run_program(SERVE, asked, catalogue, user_tower, item_tower, k, answer)
        with np.load(answer) as found:
            return found["scores"], found["best"]
