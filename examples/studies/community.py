"""DIN on the feed of a community: will this reader open this article? Raw strings in.

`build_community` and `parse` are the parts to take along. The study trains a Deep Interest Network
and, beside it, the same network with a plain mean over the history, on drawn CSV lines or with
`--published` on the ten of `community_feed.csv` (see `rows.py`). A seed is that of rows and models.

In `runs/community` are then `serving/`, a SavedModel whose `score` takes raw lines and which loads
with TensorFlow alone; `feed.keras`, to train on; `logs/` for TensorBoard; and `training.png`.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import din_layers
from studies.report import draw_training, score_columns, score_row, table
from studies.rows import COLUMNS, DRAWN, PADDING, TEN_ROWS, draw, ten_rows
from studies.scores import measure
from studies.training import BATCH, SCORING_BATCH, Run, predict, save_and_check, train, train_each

SINGLES = ("client_type", "post_type", "topic_id", "keyword_id")
LISTS = ("follow_topic_id", "all_topic_fav_7", "hist_topic_id", "hist_keyword_id")
WEIGHTS = "all_topic_fav_7_weight"
WEIGHT_PADDING = -1.0
TYPE_BUCKETS = 16
KEYWORD_BUCKETS = 1000


def parse(lines: Any) -> tuple[dict[str, Any], Any]:
    """Turn CSV lines (batch,) into the model's inputs and the labels (batch, 1).

    Lists become (batch, longest), filled up with "0", and weights with -1. It runs in `tf.data` and
    in the exported model, so that no row is read in two ways.
    """
    columns = dict(zip(COLUMNS, tf.io.decode_csv(lines, [[""]] * len(COLUMNS)), strict=True))
    features = {name: columns[name][:, None] for name in SINGLES}
    for name in LISTS:
        lists = tf.strings.split(columns[name], ",").to_tensor(PADDING)
        # An empty list splits into one empty string.
        features[name] = tf.where(lists == "", PADDING, lists)
    pairs = features["all_topic_fav_7"]  # "1:0.4074"
    topics = tf.strings.regex_replace(pairs, ":.*", "")
    weights = tf.strings.to_number(tf.strings.regex_replace(pairs, ".*:", ""))
    features["all_topic_fav_7"] = topics
    features[WEIGHTS] = tf.where(topics == PADDING, WEIGHT_PADDING, weights)
    return features, tf.strings.to_number(columns["act"])[:, None]


def dataset(lines: Sequence[str], batch: int, seed: int | None = None) -> tf.data.Dataset:
    """Return batches of inputs and labels; with a seed, in another order in each epoch."""
    result = tf.data.Dataset.from_tensor_slices(list(lines))
    if seed is not None:
        result = result.shuffle(len(lines), seed=seed)
    return result.batch(batch).map(parse, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def build_community(pooling: str = "attention") -> keras.Model:
    """Probability that the reader opens the article, (batch, 1).

    Inputs, by name: strings `client_type`, `post_type`, `topic_id` and `keyword_id` (batch, 1);
    strings `follow_topic_id`, `all_topic_fav_7`, `hist_topic_id` and `hist_keyword_id` of any
    length, with "0" for padding; floats `all_topic_fav_7_weight` beside their topics. The
    article's topic and keyword, the history and both lists of topics share two embeddings.
    `pooling` is "attention" for DIN, "mean" to compare with.
    """
    inputs = {name: keras.Input((1,), dtype="string", name=name) for name in SINGLES}
    inputs |= {name: keras.Input((None,), dtype="string", name=name) for name in LISTS}
    inputs[WEIGHTS] = keras.Input((None,), name=WEIGHTS)

    # All topics that there are. Others share the id of the unknown.
    topic_ids = din_layers.VocabLayer(
        tuple(map(str, range(700))), mask_value=PADDING, name="topic_ids"
    )
    keyword_ids = din_layers.HashLayer(KEYWORD_BUCKETS, mask_value=PADDING, name="keyword_ids")
    type_ids = din_layers.HashLayer(TYPE_BUCKETS, name="type_ids")  # "0" is a type, too
    topic_table = layers.Embedding(topic_ids.vocabulary_size, 8, mask_zero=True, name="topics")
    keyword_table = layers.Embedding(KEYWORD_BUCKETS, 8, mask_zero=True, name="keywords")

    def topics(name: str) -> Any:
        return topic_table(topic_ids(inputs[name]))

    def article(name: str, topic: str, keyword: str) -> Any:
        parts = [topics(topic), keyword_table(keyword_ids(inputs[keyword]))]
        # Keras's Concatenate hands the mask on, which `ops.concatenate` would drop.
        return layers.Concatenate(name=name)(parts)

    candidate = article("candidate", "topic_id", "keyword_id")
    history = article("history", "hist_topic_id", "hist_keyword_id")
    if pooling == "attention":
        attention = din_layers.AttentionPoolingLayer(
            (80, 40), att_activation="dice", name="attention"
        )
        pooled = attention([candidate, history])
    else:
        pooled = din_layers.SequencePoolingLayer("mean", name="mean")(history)

    # Both lists become one vector by their mean, the favourites by their weights.
    weighted = din_layers.WeightedSequenceLayer("sum", name="weighted_favourites")
    favourites = weighted([topics("all_topic_fav_7"), inputs[WEIGHTS]])
    favourites = din_layers.SequencePoolingLayer("sum", name="favourites")(favourites)
    followed = din_layers.SequencePoolingLayer("mean", name="followed")(topics("follow_topic_id"))
    types = [
        layers.Embedding(TYPE_BUCKETS, 4, name=f"{name}s")(type_ids(inputs[name]))
        for name in ("client_type", "post_type")
    ]
    x = layers.Concatenate(name="joined")([candidate, *types, followed, favourites, pooled])
    x = ops.squeeze(x, 1)
    for units in (64, 32):
        x = din_layers.Dice()(layers.Dense(units)(x))
    output = layers.Dense(1, use_bias=False, activation="sigmoid", name="probability")(x)
    return keras.Model(inputs, output, name=pooling)


def export_and_score(model: keras.Model, folder: Path) -> None:
    """Export the model, load it, and score the ten published rows as raw lines.

    The SavedModel's `score` takes raw CSV lines; `act` may be empty in them. To load it takes
    TensorFlow alone: vocabulary, hashing, parsing and padding are inside.
    """
    lines = ten_rows().lines
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec([None], tf.string)]
    archive.add_endpoint("score", lambda lines: model(parse(lines)[0]), signature)
    archive.write_out(folder, verbose=False)
    scorer = tf.saved_model.load(folder)
    served = np.asarray(scorer.score(tf.constant(lines)))[:, 0]
    difference = np.abs(served - predict(model, dataset(lines, SCORING_BATCH))).max()
    print(
        f"\nThe rows of {TEN_ROWS.name}, scored as raw lines by the exported model. Largest"
        f" difference\nfrom the model itself: {difference:.1g}"
    )
    # The exported graph may add up in another order, in float32.
    if not difference <= 1e-6:
        raise RuntimeError(f"the loaded model predicts something else: {difference} apart")
    print(f"{'probability':>11}  {','.join(COLUMNS)}")
    for probability, line in zip(served, lines, strict=True):
        print(f"{probability:>11.3f}  {line}")


def run(options: argparse.Namespace, staging: Path) -> None:
    published, limit = options.published, options.limit
    draws = {s: ten_rows(limit) if published else draw(limit or DRAWN, s) for s in options.seeds}
    count = len(draws[options.seed].lines)
    cut = count if published else count - count // 5
    # Without anything held out, what the models learnt by heart is scored.
    tested = slice(0 if published else cut, None)
    rest = "too few to hold some out" if published else f"the last fifth ({count - cut:,}) held out"
    print(f"{count:,} rows: {cut:,} to train with, {rest}", flush=True)

    def train_one(model: keras.Model, seed: int) -> Run:
        rows = draws[seed]
        asked = dataset(rows.lines[tested], SCORING_BATCH)
        return train(
            model,
            dataset(rows.lines[:cut], BATCH, seed),
            epochs=options.epochs,
            score=lambda model: {"test": measure(rows.label[tested], predict(model, asked))},
            learning_rate=5e-3,
            callbacks=[keras.callbacks.TensorBoard(staging / "logs" / f"{model.name}_{seed}")],
        )

    builders = {"attention (DIN)": build_community, "mean": partial(build_community, "mean")}
    runs = train_each(options.seeds, builders, train_one)
    lines = {name: score_row(of_model) for name, of_model in runs.items()}
    note = "These are the rows that the models were trained with: no measure of anything new."
    if not published:
        best = [measure(rows.label[tested], rows.probability[tested]) for rows in draws.values()]
        lines["(the best there is)"] = score_columns(best)
        note = "The best there is: scores of the probabilities that the labels were drawn with."
    print(f"\n{table(lines)}\n{note}")
    model = runs["attention (DIN)"][0].model
    save_and_check(model, dataset(ten_rows().lines, SCORING_BATCH), staging / "feed.keras")
    export_and_score(model, staging / "serving")
    draw_training(runs, staging / "training.png")
