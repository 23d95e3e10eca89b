"""The community feed's DIN and its mean-pooling twin: input pipeline, model, training, export.

`build_community_feed` and `parse` are the parts to take along: raw strings in, probability out.
`community_feed.py` is the job around them, `community_rows.py` describes the rows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from community_rows import COLUMNS, PADDING
from hidden_layers import hidden_layers
from movielens import Floats

from din_layers import (
    AttentionPoolingLayer,
    HashLayer,
    SequencePoolingLayer,
    VocabLayer,
    WeightedSequenceLayer,
)

BATCH = 256
SCORING_BATCH = 2048
LEARNING_RATE = 5e-3

SINGLES = ("client_type", "post_type", "topic_id", "keyword_id")
LISTS = ("follow_topic_id", "all_topic_fav_7", "hist_topic_id", "hist_keyword_id")
WEIGHTS = "all_topic_fav_7_weight"
WEIGHT_PADDING = -1.0

# What `tf.nn.embedding_lookup_sparse` calls a combiner is the normalisation of weights, then a sum.
COMBINERS = {"sum": None, "mean": "sum", "sqrtn": "sqrtn"}
TYPE_BUCKETS = 16


# The pipeline ----------------------------------------------------------------------------------


def parse(lines: Any) -> tuple[dict[str, Any], Any]:
    """Turn CSV lines (batch,) into the model's inputs and the labels (batch, 1).

    Lists become (batch, longest), filled up with "0", and weights with -1. It runs in `tf.data` and
    in the exported model, so that no row is read in two ways.
    """
    columns = dict(zip(COLUMNS, tf.io.decode_csv(lines, [[""]] * len(COLUMNS)), strict=True))
    features = {name: columns[name][:, None] for name in SINGLES}
    features.update({name: _split(columns[name]) for name in LISTS})
    pairs = features["all_topic_fav_7"]  # "1:0.4074"
    topics = tf.strings.regex_replace(pairs, ":.*", "")
    weights = tf.strings.to_number(tf.strings.regex_replace(pairs, ".*:", ""))
    features["all_topic_fav_7"] = topics
    features[WEIGHTS] = tf.where(topics == PADDING, WEIGHT_PADDING, weights)
    return features, tf.strings.to_number(columns["act"])[:, None]


def _split(column: Any) -> Any:
    lists = tf.strings.split(column, ",").to_tensor(PADDING)
    # An empty list splits into one empty string.
    return tf.where(lists == "", PADDING, lists)


def dataset(lines: Sequence[str], batch: int, seed: int | None = None) -> tf.data.Dataset:
    """Return batches of inputs and labels; with a seed, in another order in each epoch."""
    result = tf.data.Dataset.from_tensor_slices(list(lines))
    if seed is not None:
        result = result.shuffle(len(lines), seed=seed)
    return result.batch(batch).map(parse, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


# The model -------------------------------------------------------------------------------------


def build_community_feed(
    *,
    pooling: str = "attention",
    topic_keys: Sequence[str] = tuple(map(str, range(700))),
    keyword_buckets: int = 1000,
    topic_units: int = 8,
    keyword_units: int = 8,
    type_units: int = 4,
    combiner: str = "mean",
    attention_units: Sequence[int] = (80, 40),
    attention_activation: str = "dice",
    weight_normalization: bool = True,
    hidden_units: Sequence[int] = (64, 32),
    activation: str = "dice",
    batch_norm: bool = False,
    dropout: float = 0.0,
    embedding_l2: float = 0.0,
    hidden_l2: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Probability that the reader opens the article, (batch, 1).

    Inputs, by name: strings `client_type`, `post_type`, `topic_id` and `keyword_id` (batch, 1);
    strings `follow_topic_id`, `all_topic_fav_7`, `hist_topic_id` and `hist_keyword_id` of any
    length, with "0" for padding; floats `all_topic_fav_7_weight` beside their topics.

    The article's topic and keyword, the history and both lists of topics share two embeddings.

    Args:
        pooling: "attention" for DIN, "mean" to compare with.
        topic_keys: All topics. Others share the id of the unknown.
        keyword_buckets: Number of ids that keywords are hashed to.
        topic_units: Size of the embedding of a topic.
        keyword_units: Size of the embedding of a keyword.
        type_units: Size of the embeddings of the kinds of device and article.
        combiner: "sum", "mean" or "sqrtn": how the followed topics, and by their weights the
            week's favourites, become one vector, as in `tf.nn.embedding_lookup_sparse`.
        attention_units: Hidden units of the attention's own network.
        attention_activation: Their activation.
        weight_normalization: Whether the attention's weights add up to 1.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Their activation, "dice" or one of Keras's.
        batch_norm: Whether batch normalization stands in front of it.
        dropout: The share that is dropped behind it.
        embedding_l2: Weight decay of the embeddings.
        hidden_l2: Weight decay of the hidden layers' kernels.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if combiner not in COMBINERS:
        raise ValueError(f"`combiner` must be one of {list(COMBINERS)}. Received: {combiner!r}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs = {name: keras.Input((1,), dtype="string", name=name) for name in SINGLES}
    inputs |= {name: keras.Input((None,), dtype="string", name=name) for name in LISTS}
    inputs[WEIGHTS] = keras.Input((None,), name=WEIGHTS)

    topic_ids = VocabLayer(topic_keys, mask_value=PADDING, name="topic_ids")
    keyword_ids = HashLayer(keyword_buckets, mask_value=PADDING, name="keyword_ids")
    type_ids = HashLayer(TYPE_BUCKETS, name="type_ids")  # "0" is a type, too

    def embedding(size: int, units: int, name: str, **options: Any) -> keras.layers.Embedding:
        decay = keras.regularizers.L2(embedding_l2) if embedding_l2 else None
        return keras.layers.Embedding(
            size, units, embeddings_regularizer=decay, name=name, **options
        )

    topic_table = embedding(topic_ids.vocabulary_size, topic_units, "topics", mask_zero=True)
    keyword_table = embedding(keyword_buckets, keyword_units, "keywords", mask_zero=True)

    def topics(name: str) -> Any:
        return topic_table(topic_ids(inputs[name]))

    def article(name: str, topic: str, keyword: str) -> Any:
        parts = [topics(topic), keyword_table(keyword_ids(inputs[keyword]))]
        # Keras's Concatenate hands the mask on, which `keras.ops.concatenate` would drop.
        return keras.layers.Concatenate(name=name)(parts)

    candidate = article("candidate", "topic_id", "keyword_id")
    history = article("history", "hist_topic_id", "hist_keyword_id")
    if pooling == "attention":
        attention = AttentionPoolingLayer(
            tuple(attention_units),
            att_activation=attention_activation,
            weight_normalization=weight_normalization,
            name="attention",
        )
        # For `din.attention_model`, which shows what the attention looked at.
        pooled, _ = attention([candidate, history], return_attention_scores=True)
    elif pooling == "mean":
        pooled = SequencePoolingLayer("mean", name="mean")(history)
    else:
        raise ValueError(f"`pooling` must be 'attention' or 'mean'. Received: {pooling!r}")

    weighted = WeightedSequenceLayer(COMBINERS[combiner], name="weighted_favourites")
    favourites = weighted([topics("all_topic_fav_7"), inputs[WEIGHTS]])
    favourites = SequencePoolingLayer("sum", name="favourites")(favourites)
    followed = SequencePoolingLayer(combiner, name="followed")(topics("follow_topic_id"))
    types = [
        embedding(TYPE_BUCKETS, type_units, f"{name}s")(type_ids(inputs[name]))
        for name in ("client_type", "post_type")
    ]
    x = keras.layers.Concatenate(name="joined")([candidate, *types, followed, favourites, pooled])
    x = keras.ops.squeeze(x, 1)
    x = hidden_layers(x, hidden_units, activation, batch_norm, dropout, hidden_l2)
    output = keras.layers.Dense(1, use_bias=False, activation="sigmoid", name="probability")(x)
    return keras.Model(inputs, output, name=pooling)


# Training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One trained model and how its training went."""

    name: str
    model: keras.Model
    training_auc: list[float]
    held_out_auc: list[float]  # empty without held-out rows
    seconds: float

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(math.prod(weight.shape) for weight in self.model.trainable_variables)


def train(
    name: str,
    model: keras.Model,
    lines: Sequence[str],
    held_out: Sequence[str],
    *,
    epochs: int,
    seed: int,
    logs: Path,
) -> Run:
    """Train with Adam on the log loss; write what TensorBoard shows to `logs`."""
    print(f"\nTraining, history pooled by {name}", flush=True)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss="binary_crossentropy",
        metrics=[
            keras.metrics.AUC(name="auc"),
            keras.metrics.BinaryCrossentropy(name="log_loss"),
        ],
    )
    start = time.perf_counter()
    history = model.fit(
        dataset(lines, BATCH, seed),
        validation_data=dataset(held_out, SCORING_BATCH) if held_out else None,
        epochs=epochs,
        callbacks=[keras.callbacks.TensorBoard(logs)],
        shuffle=False,  # the dataset does
        # A progress bar on a terminal, one line per epoch in a log.
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    seconds = time.perf_counter() - start
    return Run(name, model, history["auc"], history.get("val_auc", []), seconds)


def predict(model: keras.Model, lines: Sequence[str]) -> Floats:
    """Probability per line."""
    # `model.predict` would compile a graph, for a handful of batches.
    batches = [model(features) for features, _ in dataset(lines, SCORING_BATCH)]
    return np.concatenate(batches)[:, 0]


# Saving ----------------------------------------------------------------------------------------


def export(model: keras.Model, folder: Path) -> None:
    """Write a SavedModel whose `score` takes raw CSV lines; `act` may be empty in them.

    To load it takes TensorFlow alone: vocabulary, hashing, parsing and padding are inside.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "score", lambda lines: model(parse(lines)[0]), [tf.TensorSpec([None], tf.string)]
    )
    archive.write_out(folder, verbose=False)


# Scores a file's lines by the exported model, then by the Keras model.
RELOAD = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
exported, model_file, file, answer = sys.argv[1:]
lines = Path(file).read_text(encoding="utf-8").splitlines()[1:]
scorer = tf.saved_model.load(exported)  # it owns the variables
answers = [scorer.score(tf.constant(lines))[:, 0]]
import din_layers  # registers the layers, which is all that loading needs
import keras
from community_model import predict
answers.append(predict(keras.models.load_model(model_file), lines))
np.save(answer, np.stack(answers))
"""
