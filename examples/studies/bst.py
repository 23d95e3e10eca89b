"""BST on MovieLens: does a transformer over the history help to say which film a user will like?

`build_bst` is the part to take along: Keras's MultiHeadAttention and LayerNormalization encode the
history, then AttentionPoolingLayer asks it about the item in question. Without encoder it is DIN;
without attention, mean pooling. The study compares the three. With `--published` it trains nothing,
but compares the parts of the published model with the table that was published with it. Dropout was
chosen on the last fifth of the training part. BST: https://arxiv.org/abs/1905.06874
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers, ops

from din_layers import AttentionPoolingLayer, SequencePoolingLayer
from studies.data import NOT_RATED, Ints, Questions, genre_combinations, newest_first
from studies.din import activation_layer
from studies.training import compare as compare_models

Fields = Mapping[str, tuple[int, int]]  # name: (number of ids, 0 included; size of the embedding)


def build_bst(
    item_fields: Fields,  # what is known about an item; item and history share the embeddings
    user_fields: Fields,  # what is known about a user; may be empty
    *,
    pooling: str = "transformer",  # "attention": no encoder, which is DIN; "mean": nor attention
    # Whether the last network gets the item in question and its product with the pooled history,
    # too. The published model has neither: there, only the attention knows the item.
    compare: bool = True,
    history: int | None = None,  # length of the histories, or None for any length
    blocks: int = 1,  # of the encoder, one behind the other
    heads: int = 8,  # they share the width, the sum of the item fields' sizes
    feed_forward_units: int = 64,  # hidden units of each block's feed-forward network
    attention_units: Sequence[int] = (80, 40),  # hidden units of the attention's own network
    hidden_units: Sequence[int] = (512, 128, 32),  # of the network that gives the probability
    activation: str = "relu",  # of both: "dice" or one of Keras's
    dropout: float = 0.0,  # in the encoder's blocks and behind the hidden units
    embedding_l2: float = 0.0,
) -> keras.Model:
    """Probability that a user with this history clicks, buys or likes the item in question.

    Inputs, all integer ids: each item field, `<field>` (batch, 1) for the item in question and
    `history_<field>` (batch, time), newest event first; each user field (batch, 1). An event is
    padding where the first item field is 0. Output: (batch, 1).
    """

    def inputs(fields: Fields, prefix: str, length: int | None) -> dict[str, Any]:
        names = (prefix + field for field in fields)
        return {name: keras.Input((length,), dtype="int32", name=name) for name in names}

    item, user = inputs(item_fields, "", 1), inputs(user_fields, "", 1)
    events = inputs(item_fields, "history_", history)
    decay = keras.regularizers.L2(embedding_l2) if embedding_l2 else None
    embeddings = {}
    for field, (ids, size) in {**item_fields, **user_fields}.items():
        options = {"embeddings_regularizer": decay, "name": f"{field}_embedding"}
        embeddings[field] = layers.Embedding(ids, size, **options)

    def joined(ids: dict[str, Any], name: str) -> Any:
        vectors = [embeddings[field.removeprefix("history_")](ids[field]) for field in ids]
        return layers.Concatenate(name=name)(vectors)

    candidate, pooled = joined(item, "item_vector"), joined(events, "history_vectors")
    valid = ops.not_equal(next(iter(events.values())), 0)
    if pooling == "transformer":
        pooled = encode(pooled, valid, blocks, heads, feed_forward_units, dropout)
    if pooling == "mean":
        pooled = SequencePoolingLayer(mode="mean", name="mean")(pooled, mask=valid)
    else:
        units = tuple(attention_units)
        attention = AttentionPoolingLayer(units, att_activation=activation, name="attention")
        pooled = attention([candidate, pooled], mask=valid)

    parts = [joined(user, "user_vector"), pooled] if user else [pooled]
    if compare:
        parts += [candidate, layers.Multiply(name="product")([candidate, pooled])]
    x = layers.Flatten(name="flat")(layers.Concatenate(name="joined")(parts))
    for place, units in enumerate(hidden_units, 1):
        x = activation_layer(activation)(layers.Dense(units, name=f"hidden_{place}")(x))
        x = layers.Dropout(dropout, name=f"hidden_{place}_dropout")(x)
    output = layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model({**item, **user, **events}, output, name=pooling)


def encode(
    history: Any, valid: Any, blocks: int, heads: int, feed_forward_units: int, dropout: float
) -> Any:
    """Let the events of a history (batch, time, width) look at each other; `valid` (batch, time).

    What comes out at invalid positions means nothing: whoever pools it has to leave them out.
    """
    width = history.shape[-1]

    def add_and_norm(x: Any, change: Any, name: str) -> Any:
        x = layers.Add()([x, layers.Dropout(dropout)(change)])
        return layers.LayerNormalization(epsilon=1e-6, name=name)(x)

    # New embeddings are small, the waves are not: without the factor ("Attention Is All You Need",
    # section 3.4) the events would hardly be seen beside their positions.
    x = history * width**0.5 + sine_positions(history)
    for block in (f"block_{number}" for number in range(1, blocks + 1)):
        attend = layers.MultiHeadAttention(heads, width // heads, name=f"{block}_self_attention")
        attended = attend(x, x, attention_mask=ops.expand_dims(valid, 1))
        x = add_and_norm(x, attended, f"{block}_norm_1")
        hidden = layers.Dense(feed_forward_units, "relu", name=f"{block}_feed_forward_1")(x)
        hidden = layers.Dense(width, name=f"{block}_feed_forward_2")(hidden)
        x = add_and_norm(x, hidden, f"{block}_norm_2")
    return x


def sine_positions(history: Any) -> Any:
    """Positions 0, 1, ... as sines and cosines of waves of growing length (batch, time, width).

    They need no weights and hold for histories of any length. Position 0 is the newest event.
    """
    width = history.shape[-1]
    # As in "Attention Is All You Need", section 3.5.
    lengths = 10_000 ** (np.arange(0, width, 2) / width)
    place = ops.cumsum(ops.ones_like(history[..., :1]), axis=1) - 1
    angle = place / lengths.astype("float32")
    return ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)[..., :width]


PUBLISHED = Path(__file__).with_name("bst_published.csv")  # an encoder block has five layers here


def print_published() -> None:
    """Print the published table beside the same model here; raise where the two differ."""
    model = build_bst(
        {"item": (5001, 512), "category": (214, 512)},
        {"user": (301, 512), "gender": (3, 512), "age": (11, 512)},
        compare=False,
        history=50,
        blocks=2,
        feed_forward_units=1024,
        attention_units=(1024, 1024),
        dropout=0.1,
    )
    parts = pd.read_csv(PUBLISHED, index_col="part").rename_axis(None)
    parts["here"] = 0
    for name, part in parts.iterrows():
        here = [model.get_layer(one) for one in part["layers here"].split() if one != "-"]
        parts.loc[name, "here"] = sum(layer.count_params() for layer in here)
        # Shared embeddings have an output for each of their calls; the table has none for them.
        if here and part["output"] != "several":
            shape = "x".join(map(str, here[-1].output.shape[1:]))
            if shape != part["output"]:
                raise RuntimeError(f"{name}: {shape} instead of {part['output']}")
    parts.loc["total"] = ["", parts["published"].sum(), "", parts["here"].sum()]
    if parts.loc["total", "here"] != model.count_params():
        raise RuntimeError(f"{model.count_params():,} parameters, other than those of the parts")
    parts["difference"] = parts["here"] - parts["published"]
    layers_here = parts.pop("layers here").str.replace(" .* ", " ... ", regex=True)
    parts["layers here"] = layers_here.replace("-", "- (the mask is made by the layers)")
    numbers = dict.fromkeys(("published", "here"), "{:,}".format)
    numbers["difference"] = lambda more: f"{more:+,}" if more else ""
    print(parts.to_string(formatters=numbers))
    kernel, bias = model.get_layer("attention").trainable_weights[-2:]
    print(
        f"The difference is the attention's last, linear unit: {kernel.shape[0]:,} weights and"
        f" {bias.shape[0]} bias. The published layer makes\nit inside `call`, where Keras does not"
        " find it: it is neither counted nor trained. Here it is both."
    )


def run(options: argparse.Namespace, staging: Path) -> None:
    if options.published:
        print_published()
        return
    data, genres = options.data, genre_combinations(options.data)
    films = {"movie": len(data.titles), "genres": int(genres.max()) + 1, "rating": NOT_RATED + 1}

    def build(pooling: str) -> keras.Model:
        return build_bst(
            {field: (ids, 16 if field == "movie" else 8) for field, ids in films.items()},
            {field: (int(ids.max()) + 1, 8) for field, ids in data.users.items()},
            pooling=pooling,
            heads=4,
            hidden_units=(64, 32),
            activation="dice",
            dropout=0.2,
            # Most films have a handful of ratings, which their embedding would learn by heart.
            embedding_l2=1e-3,
        )

    names = {"transformer": "transformer (BST)", "attention": "attention (DIN)", "mean": "mean"}
    builders = {title: partial(build, pooling) for pooling, title in names.items()}
    compare_models(options, staging, builders, lambda asked: inputs_of(asked, genres, data.users))


def inputs_of(questions: Questions, genres: Ints, users: Mapping[str, Ints]) -> dict[str, Ints]:
    """Questions as the model takes them: histories newest first, position 0 is the latest film."""
    history = newest_first(questions.history_movies)
    return {
        "movie": questions.movie[:, None],
        "genres": genres[questions.movie][:, None],
        "rating": np.full((len(questions.movie), 1), NOT_RATED, np.int32),
        "history_movie": history,
        "history_genres": genres[history],
        "history_rating": newest_first(questions.history_ratings),
        **{field: ids[questions.user][:, None] for field, ids in users.items()},
    }
