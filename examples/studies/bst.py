"""The encoder of BST: the events of a history look at each other before the attention pools them.

BST, https://arxiv.org/abs/1905.06874, is `encode` and then `AttentionPoolingLayer`; without it, it
is DIN. `python examples/studies million --variants bst din` trains both. It is Keras's
MultiHeadAttention and LayerNormalization.
"""

from typing import Any

import numpy as np
from keras import layers, ops


def encode(
    history: Any, ids: Any, blocks: int, heads: int, feed_forward_units: int, dropout: float
) -> Any:
    """Let the events of a history (batch, time, width) look at each other; `ids` (batch, time).

    What comes out where the id is 0 means nothing: whoever pools it has to leave it out.
    """
    width = history.shape[-1]
    valid = ops.expand_dims(ops.not_equal(ids, 0), 1)
    # MultiHeadAttention weighs padding with 0, and 0 times NaN is NaN.
    history = ops.where(ops.expand_dims(ops.not_equal(ids, 0), -1), history, 0.0)

    def add_and_norm(x: Any, change: Any, name: str) -> Any:
        x = layers.Add()([x, layers.Dropout(dropout)(change)])
        return layers.LayerNormalization(epsilon=1e-6, name=name)(x)

    # New embeddings are small, the waves are not: without the factor ("Attention Is All You Need",
    # section 3.4) the events would hardly be seen beside their positions.
    x = history * width**0.5 + sine_positions(history)
    for block in (f"block_{number}" for number in range(1, blocks + 1)):
        attend = layers.MultiHeadAttention(heads, width // heads, name=f"{block}_self_attention")
        attended = attend(x, x, attention_mask=valid)
        x = add_and_norm(x, attended, f"{block}_norm_1")
        hidden = layers.Dense(feed_forward_units, "relu", name=f"{block}_feed_forward_1")(x)
        hidden = layers.Dense(width, name=f"{block}_feed_forward_2")(hidden)
        x = add_and_norm(x, hidden, f"{block}_norm_2")
    return x


def sine_positions(history: Any) -> Any:
    """Positions 0, 1, ... as sines and cosines of waves of growing length (batch, time, width).

    They need no weights and hold for histories of any length. Pad all on the same side, and those
    that are padded in front to one length.
    """
    width = history.shape[-1]
    # As in "Attention Is All You Need", section 3.5.
    lengths = 10_000 ** (np.arange(0, width, 2) / width)
    place = ops.cumsum(ops.ones_like(history[..., :1]), axis=1) - 1
    angle = place / lengths.astype("float32")
    return ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)[..., :width]
