"""BST on MovieLens: does a transformer over the history help to say which film a user will like?

`build_bst` is the part to take along: Keras's MultiHeadAttention and LayerNormalization encode the
history, then AttentionPoolingLayer asks it about the item in question. Without encoder it is DIN;
without attention, mean pooling. The study compares the three, and saves `bst.keras`.

    python examples/studies bst --seeds 3
    python examples/studies bst --published

The last one trains nothing: it builds the published model and compares its parts, line by line,
with the table that was published with it. Dropout was chosen on the last fifth of the training
part; the held-out ratings chose nothing.

Behavior Sequence Transformer for E-commerce Recommendation in Alibaba,
https://arxiv.org/abs/1905.06874
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from din_layers import AttentionPoolingLayer, SequencePoolingLayer
from studies.data import NOT_RATED, Ints, Questions, genre_combinations, newest_first
from studies.din import activation_layer
from studies.report import table
from studies.training import compare, save_and_check

# The model -------------------------------------------------------------------------------------

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
    feed_forward_units: int = 64,
    attention_units: Sequence[int] = (80, 40),
    hidden_units: Sequence[int] = (512, 128, 32),
    activation: str = "relu",
    dropout: float = 0.0,
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
        feed_forward_units: Hidden units of each block's feed-forward network.
        attention_units: Hidden units of the attention's own network.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Of both, "dice" or one of Keras's.
        dropout: In the encoder's blocks and behind the hidden units.
        embedding_l2: Weight decay of the embeddings.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)

    def inputs(fields: Fields, prefix: str, length: int | None) -> dict[str, Any]:
        names = (prefix + field for field in fields)
        return {name: keras.Input((length,), dtype="int32", name=name) for name in names}

    item, user = inputs(item_fields, "", 1), inputs(user_fields, "", 1)
    events = inputs(item_fields, "history_", history)
    decay = keras.regularizers.L2(embedding_l2) if embedding_l2 else None
    embeddings = {
        field: keras.layers.Embedding(
            ids, size, embeddings_regularizer=decay, name=f"{field}_embedding"
        )
        for field, (ids, size) in {**item_fields, **user_fields}.items()
    }

    def joined(ids: dict[str, Any], name: str) -> Any:
        vectors = [embeddings[field.removeprefix("history_")](ids[field]) for field in ids]
        return keras.layers.Concatenate(name=name)(vectors) if len(vectors) > 1 else vectors[0]

    candidate, pooled = joined(item, "item_vector"), joined(events, "history_vectors")
    valid = ops.not_equal(next(iter(events.values())), 0)
    if pooling == "transformer":
        pooled = encode(pooled, valid, blocks, heads, feed_forward_units, dropout)
    if pooling == "mean":
        pooled = SequencePoolingLayer(mode="mean", name="mean")(pooled, mask=valid)
    else:
        attention = AttentionPoolingLayer(
            tuple(attention_units), att_activation=activation, name="attention"
        )
        pooled = attention([candidate, pooled], mask=valid)

    parts = [joined(user, "user_vector")] if user else []
    parts += [pooled]
    if compare:
        parts += [candidate, keras.layers.Multiply(name="product")([candidate, pooled])]
    x = keras.layers.Concatenate(name="joined")(parts) if len(parts) > 1 else pooled
    x = keras.layers.Flatten(name="flat")(x)
    for place, units in enumerate(hidden_units, 1):
        x = activation_layer(activation)(keras.layers.Dense(units, name=f"hidden_{place}")(x))
        x = keras.layers.Dropout(dropout, name=f"hidden_{place}_dropout")(x)
    output = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model({**item, **user, **events}, output, name=pooling)


def encode(
    history: Any, valid: Any, blocks: int, heads: int, feed_forward_units: int, dropout: float
) -> Any:
    """Let the events of a history (batch, time, width) look at each other; `valid` (batch, time).

    What comes out at invalid positions means nothing: whoever pools it has to leave them out.
    """
    width = history.shape[-1]

    def add_and_norm(x: Any, change: Any, name: str) -> Any:
        x = keras.layers.Add()([x, keras.layers.Dropout(dropout)(change)])
        return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)

    # New embeddings are small, the waves are not: without the factor ("Attention Is All You Need",
    # section 3.4) the events would hardly be seen beside their positions.
    x = history * width**0.5 + sine_positions(history)
    for block in (f"block_{number}" for number in range(1, blocks + 1)):
        attended = keras.layers.MultiHeadAttention(
            heads, width // heads, name=f"{block}_self_attention"
        )(x, x, attention_mask=ops.expand_dims(valid, 1))
        x = add_and_norm(x, attended, f"{block}_norm_1")
        hidden = keras.layers.Dense(
            feed_forward_units, activation="relu", name=f"{block}_feed_forward_1"
        )(x)
        hidden = keras.layers.Dense(width, name=f"{block}_feed_forward_2")(hidden)
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


# The published model ---------------------------------------------------------------------------


class Part(NamedTuple):
    """One line of the published table, and the layers that are this part here."""

    name: str
    shape: tuple[int | None, ...]
    parameters: int
    here: tuple[str, ...]  # names of layers in `build_bst`; none for what needs no layer


ENCODER = tuple(
    f"block_{block}_{part}"
    for block in (1, 2)
    for part in ("self_attention", "norm_1", "feed_forward_1", "feed_forward_2", "norm_2")
)
PUBLISHED = (
    Part("user_click_item_seq_input_layer", (50,), 0, ("history_item",)),
    Part("item_input_layer", (1,), 0, ("item",)),
    Part("cate_input_layer", (1,), 0, ("category",)),
    Part("user_click_cate_seq_input_layer", (50,), 0, ("history_category",)),
    Part("tf_op_layer_Equal", (50,), 0, ()),
    Part("item_id_embedding", (), 2_560_512, ("item_embedding",)),
    Part("cate_id_embedding", (), 109_568, ("category_embedding",)),
    Part("tf_op_layer_Cast", (50,), 0, ()),
    Part("tf_op_layer_Equal_1", (50,), 0, ()),
    Part("user_id_input_layer", (1,), 0, ("user",)),
    Part("gender_input_layer", (1,), 0, ("gender",)),
    Part("age_input_layer", (1,), 0, ("age",)),
    Part("concatenate_1", (50, 1024), 0, ("history_vectors",)),
    Part("tf_op_layer_strided_slice", (1, 1, 50), 0, ()),
    Part("tf_op_layer_Cast_1", (50,), 0, ()),
    Part("user_id_embedding_layer", (1, 512), 154_112, ("user_embedding",)),
    Part("gender_embedding_layer", (1, 512), 1_536, ("gender_embedding",)),
    Part("age_embedding_layer", (1, 512), 5_632, ("age_embedding",)),
    Part("concatenate_2", (1, 1024), 0, ("item_vector",)),
    Part("encoder", (50, 1024), 12_603_392, ENCODER),
    Part("tf_op_layer_strided_slice_1", (1, 50), 0, ()),
    Part("concatenate", (1, 1536), 0, ("user_vector",)),
    Part("din_attention_layer", (1, 1024), 5_244_928, ("attention",)),
    Part("concatenate_3", (1, 2560), 0, ("joined",)),
    Part("tf_op_layer_Squeeze", (2560,), 0, ("flat",)),
    Part("FC_1", (512,), 1_311_232, ("hidden_1",)),
    Part("dropout_1", (512,), 0, ("hidden_1_dropout",)),
    Part("FC_2", (128,), 65_664, ("hidden_2",)),
    Part("dropout_2", (128,), 0, ("hidden_2_dropout",)),
    Part("FC_3", (32,), 4_128, ("hidden_3",)),
    Part("dropout_3", (32,), 0, ("hidden_3_dropout",)),
    Part("Sigmoid_output_layer", (1,), 33, ("probability",)),
)
PUBLISHED_TOTAL = 22_060_737


def published_model() -> keras.Model:
    """Build the model with the sizes of the published one."""
    return build_bst(
        {"item": (5001, 512), "category": (214, 512)},
        {"user": (301, 512), "gender": (3, 512), "age": (11, 512)},
        compare=False,
        history=50,
        blocks=2,
        feed_forward_units=1024,
        attention_units=(1024, 1024),
        dropout=0.1,
    )


def print_published() -> None:
    """Print the published table beside the parts of the model that is built here."""
    print_parts(published_model())


def print_parts(model: keras.Model) -> None:
    """Print the published table beside the model's own parts; raise where a line has no match."""
    layers = {layer.name: layer for layer in model.layers}
    lines, total = {}, 0
    for part in PUBLISHED:
        here = [layers[name] for name in part.here]
        parameters = sum(layer.count_params() for layer in here)
        # Shared embeddings have an output for each of their calls; the table has none for them.
        if part.shape and here and tuple(here[-1].output.shape[1:]) != part.shape:
            raise RuntimeError(f"{part.name}: {here[-1].output.shape} instead of {part.shape}")
        total += parameters
        names = [*part.here[:1], *part.here[1:][-1:]] or ["- (the mask is made by the layers)"]
        output = "x".join(map(str, part.shape)) or "several"
        lines[part.name] = _line(output, part.parameters, parameters, " ... ".join(names))
    lines["total"] = _line("", PUBLISHED_TOTAL, total, "")
    print(table(lines))
    if total != model.count_params():
        raise RuntimeError(f"the model has {model.count_params():,} parameters, {total:,} in parts")
    kernel, bias = layers["attention"].trainable_weights[-2:]
    print(
        f"The difference is the attention's last, linear unit: {kernel.shape[0]:,} weights and"
        f" {bias.shape[0]} bias. The published layer makes\nit inside `call`, where Keras does not"
        " find it: it is neither counted nor trained. Here it is both."
    )


def _line(output: str, published: int, here: int, layers: str) -> dict[str, str]:
    difference = f"{here - published:+,}" if here != published else ""
    return {
        "output": output,
        "published": f"{published:,}",
        "here": f"{here:,}",
        "difference": difference,
        "layers here": layers,
    }


# The study -------------------------------------------------------------------------------------

POOLINGS = {"transformer (BST)": "transformer", "attention (DIN)": "attention", "mean": "mean"}


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole study; the files go to `staging`."""
    data, genres = options.data, genre_combinations(options.data)

    def build(pooling: str, seed: int) -> keras.Model:
        return build_bst(
            {
                "movie": (len(data.titles), 16),
                "genres": (int(genres.max()) + 1, 8),
                "rating": (NOT_RATED + 1, 8),
            },
            {field: (int(ids.max()) + 1, 8) for field, ids in data.users.items()},
            pooling=pooling,
            heads=4,
            hidden_units=(64, 32),
            activation="dice",
            dropout=0.2,
            # Most films have a handful of ratings, which their embedding would learn by heart.
            embedding_l2=1e-3,
            seed=seed,
        )

    def to_inputs(questions: Questions) -> dict[str, Ints]:
        return inputs_of(questions, genres, data.users)

    parts, bst = compare(
        options,
        staging,
        {name: functools.partial(build, pooling) for name, pooling in POOLINGS.items()},
        to_inputs,
        "Training: the history encoded by a transformer (BST), attention alone (DIN), a mean",
    )
    save_and_check(bst, to_inputs(parts.test), staging / "bst.keras")


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
