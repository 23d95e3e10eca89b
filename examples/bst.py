"""BST, the Behavior Sequence Transformer, with DIN and mean pooling as its smaller relatives.

`build_bst` is the part to take along: Keras's MultiHeadAttention and LayerNormalization encode the
history, then AttentionPoolingLayer asks it about the item in question. Without encoder it is DIN;
without attention, mean pooling. `bst_movielens.py` is the job around it.

Behavior Sequence Transformer for E-commerce Recommendation in Alibaba,
https://arxiv.org/abs/1905.06874
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers import AttentionPoolingLayer, Dice, SequencePoolingLayer

POOLINGS = ("transformer", "attention", "mean")
LONGEST_WAVE = 10_000  # positions, as in "Attention Is All You Need", section 3.5

Fields = Mapping[str, tuple[int, int]]  # name: (number of ids, 0 included; size of the embedding)


def build_bst(
    item_fields: Fields,
    user_fields: Fields,
    *,
    pooling: str = "transformer",
    compare: bool = True,
    history: int | None = None,
    blocks: int = 1,
    heads: int = 8,
    feed_forward_units: int | None = None,
    encoder_activation: str = "relu",
    encoder_dropout: float = 0.0,
    attention_units: Sequence[int] = (80, 40),
    attention_activation: str = "sigmoid",
    hidden_units: Sequence[int] = (512, 128, 32),
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    hidden_l2: float = 0.0,
    embedding_l2: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Probability that a user with this history clicks, buys or likes the item in question.

    Inputs, all integer ids: each item field, `<field>` (batch, 1) for the item in question and
    `history_<field>` (batch, time), newest event first; each user field (batch, 1). An event is
    padding where the first item field is 0. Output: (batch, 1).

    Args:
        item_fields: What is known about an item. Item and history share the embeddings.
        user_fields: What is known about a user; may be empty.
        pooling: "transformer" for BST; "attention" leaves the encoder out, which is DIN; "mean"
            leaves the attention out, too.
        compare: Whether the last network gets the item in question and its product with the pooled
            history, too. The published model has neither: there, only the attention knows the item.
        history: Length of the histories, or None for any length.
        blocks: Encoder blocks, one behind the other.
        heads: Heads of each block. They share the width, the sum of the item fields' sizes.
        feed_forward_units: Hidden units of each block's feed-forward network; None: the width.
        encoder_activation: Their activation.
        encoder_dropout: Dropout of a block's two parts, before they are added to their input.
        attention_units: Hidden units of the attention's own network.
        attention_activation: Their activation, "dice" or one of Keras's.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Their activation.
        batch_norm: Whether these have batch normalization in front of their activation.
        dropout: Dropout behind their activation.
        hidden_l2: Weight decay of their kernels.
        embedding_l2: Weight decay of the embeddings.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {', '.join(POOLINGS)}. Received: {pooling=}")
    if seed is not None:
        keras.utils.set_random_seed(seed)

    def inputs(fields: Fields, prefix: str, length: int | None) -> dict[str, Any]:
        names = (prefix + field for field in fields)
        return {name: keras.Input((length,), dtype="int32", name=name) for name in names}

    item, user = inputs(item_fields, "", 1), inputs(user_fields, "", 1)
    events = inputs(item_fields, "history_", history)
    embeddings = {
        field: keras.layers.Embedding(
            ids,
            size,
            embeddings_regularizer=keras.regularizers.L2(embedding_l2),
            name=f"{field}_embedding",
        )
        for field, (ids, size) in {**item_fields, **user_fields}.items()
    }

    def joined(ids: dict[str, Any], name: str) -> Any:
        vectors = [embeddings[field.removeprefix("history_")](ids[field]) for field in ids]
        return keras.layers.Concatenate(name=name)(vectors) if len(vectors) > 1 else vectors[0]

    candidate, pooled = joined(item, "item_vector"), joined(events, "history_vectors")
    valid = ops.not_equal(next(iter(events.values())), 0)
    if pooling == "transformer":
        pooled = encode(
            pooled,
            valid,
            blocks=blocks,
            heads=heads,
            feed_forward_units=feed_forward_units,
            activation=encoder_activation,
            dropout=encoder_dropout,
        )
    if pooling == "mean":
        pooled = SequencePoolingLayer(mode="mean", name="mean")(pooled, mask=valid)
    else:
        attention = AttentionPoolingLayer(
            tuple(attention_units), att_activation=attention_activation, name="attention"
        )
        pooled = attention([candidate, pooled], mask=[None, valid])

    parts = [joined(user, "user_vector")] if user else []
    parts += [pooled]
    if compare:
        parts += [candidate, keras.layers.Multiply(name="product")([candidate, pooled])]
    x = keras.layers.Concatenate(name="joined")(parts) if len(parts) > 1 else pooled
    x = keras.layers.Flatten(name="flat")(x)
    for number, units in enumerate(hidden_units, 1):
        regularizer = keras.regularizers.L2(hidden_l2)
        x = keras.layers.Dense(units, kernel_regularizer=regularizer, name=f"hidden_{number}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization()(x)
        x = Dice()(x) if activation == "dice" else keras.layers.Activation(activation)(x)
        x = keras.layers.Dropout(dropout, name=f"hidden_{number}_dropout")(x)
    output = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model({**item, **user, **events}, output, name=pooling)


def encode(
    history: Any,
    valid: Any,
    *,
    blocks: int,
    heads: int,
    feed_forward_units: int | None,
    activation: str,
    dropout: float,
) -> Any:
    """Let the events of a history (batch, time, width) look at each other; `valid` (batch, time).

    What comes out at invalid positions means nothing: whoever pools it has to leave them out.
    """
    width = history.shape[-1]
    if width % heads:
        raise ValueError(
            f"`heads` must divide the width of the item's vector. Received: {heads=}, {width=}"
        )
    # New embeddings are small, the waves are not: without the factor ("Attention Is All You Need",
    # section 3.4) the events would hardly be seen beside their positions.
    x = history * width**0.5 + sine_positions(history)
    for block in range(1, blocks + 1):
        attended = keras.layers.MultiHeadAttention(
            heads, width // heads, name=f"block_{block}_self_attention"
        )(x, x, attention_mask=ops.expand_dims(valid, 1))
        x = _add_and_norm(x, attended, dropout, f"block_{block}_norm_1")
        hidden = keras.layers.Dense(
            feed_forward_units or width, activation, name=f"block_{block}_feed_forward_1"
        )(x)
        hidden = keras.layers.Dense(width, name=f"block_{block}_feed_forward_2")(hidden)
        x = _add_and_norm(x, hidden, dropout, f"block_{block}_norm_2")
    return x


def _add_and_norm(x: Any, change: Any, dropout: float, name: str) -> Any:
    x = keras.layers.Add()([x, keras.layers.Dropout(dropout)(change)])
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def sine_positions(history: Any) -> Any:
    """Positions 0, 1, ... as sines and cosines of waves of growing length (batch, time, width).

    They need no weights and hold for histories of any length. Position 0 is the newest event.
    """
    width = history.shape[-1]
    lengths = LONGEST_WAVE ** (np.arange(0, width, 2) / width)
    place = ops.cumsum(ops.ones_like(history[..., :1]), axis=1) - 1
    angle = place / lengths.astype("float32")
    return ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)[..., :width]
