"""DIN over several fields: each field of the history has its own attention.

`build_multi_field_din` is the part to take along: sparse, ragged or padded integer ids in,
probability out. `multi_field_din.py` is the job around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from hidden_layers import hidden_layers

from din_layers import AttentionPoolingLayer, HashLayer, SequencePoolingLayer

Fields = Mapping[str, tuple[int, int]]  # name: (hash buckets, size of the embedding)

FIELDS: Fields = {"tag": (24, 8), "id": (10, 8)}
FORMS = ("padded", "ragged", "sparse")


def build_multi_field_din(
    fields: Fields = FIELDS,
    *,
    form: str = "padded",
    pooling: str = "attention",
    attention_units: Sequence[int] = (32, 16),
    attention_activation: str = "relu",
    hidden_units: Sequence[int] = (16, 8),
    activation: str | None = None,
    batch_norm: bool = True,
    dropout: float = 0.0,
    embedding_l2: float = 0.0,
    hidden_l2: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Probability of a click on the target, (batch, 1).

    Inputs: for each field `seq_<field>`, the history, and `target_<field>`, both int64 ids.

    Models of different `form` have the same weights in the same order.

    Args:
        fields: Hash buckets and embedding size of each field.
        form: "padded": histories (batch, time) with 0 for padding, targets (batch, 1). "ragged":
            ragged histories. "sparse": histories and targets are sparse tensors.
        pooling: "attention" for DIN, "mean" to compare with.
        attention_units: Hidden units of each field's attention network.
        attention_activation: Their activation.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Their activation, "dice" or one of Keras's; None for none.
        batch_norm: Whether batch normalization stands in front of the hidden layers.
        dropout: The share that is dropped behind each of them.
        embedding_l2: Weight decay of the embeddings.
        hidden_l2: Weight decay of the hidden layers' kernels.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    for name, value, choices in (
        ("form", form, FORMS),
        ("pooling", pooling, ("attention", "mean")),
    ):
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {value!r}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs, users = [], []
    for field, (buckets, units) in fields.items():
        history = keras.Input(
            (None,),
            dtype="int64",
            name=f"seq_{field}",
            ragged=form == "ragged",
            sparse=form == "sparse",
        )
        target = keras.Input((1,), dtype="int64", name=f"target_{field}", sparse=form == "sparse")
        inputs += [history, target]

        def embed(ids: Any, buckets: int = buckets, units: int = units) -> Any:
            # Id 0 is padding and gets bucket 0, so the buckets of events count from 1.
            hashed = HashLayer(buckets + 1, mask_zero=True, name=f"{ids.name}_bucket")(ids)
            if form == "sparse":
                # What is not in the sparse tensor becomes 0, too.
                hashed = keras.ops.convert_to_tensor(hashed, sparse=False)
            return keras.layers.Embedding(
                buckets + 1,
                units,
                mask_zero=True,
                embeddings_regularizer=keras.regularizers.L2(embedding_l2)
                if embedding_l2
                else None,
                name=f"{ids.name}_embedding",
            )(hashed)

        query, keys = embed(target), embed(history)
        if pooling == "attention":
            attention = AttentionPoolingLayer(
                tuple(attention_units),
                att_activation=attention_activation,
                name=f"attention_{field}",
            )
            # The weights are for who wants to see what the attention looks at.
            pooled, _ = attention([query, keys], return_attention_scores=True)
        else:
            pooled = SequencePoolingLayer("mean", name=f"mean_{field}")(keys)
        users.append(keras.layers.Concatenate(name=f"user_{field}")([pooled[:, 0], query[:, 0]]))
    x = keras.layers.Concatenate(name="fields")(users)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="normalized")(x)
    x = hidden_layers(x, hidden_units, activation, dropout=dropout, l2=hidden_l2)
    output = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model(inputs, output, name=f"{pooling}_{form}")


def as_form(padded: Any, form: str) -> Any:
    """Bring ids, int64 (batch, time) with 0 for padding, to one of the forms."""
    padded = tf.constant(padded, tf.int64)
    if form == "sparse":
        return tf.sparse.from_dense(padded)
    return tf.ragged.boolean_mask(padded, padded != 0) if form == "ragged" else padded


def inputs_as_form(padded: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Bring the inputs of a padded model to those of another form; ragged targets are dense."""
    return {
        name: as_form(ids, "padded" if form == "ragged" and name.startswith("target_") else form)
        for name, ids in padded.items()
    }
