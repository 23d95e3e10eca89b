"""BST on MovieLens: does a transformer over the history help to say which film a user will like?

Trains a Behavior Sequence Transformer (Keras's MultiHeadAttention and LayerNormalization, then
AttentionPoolingLayer) to say whether a user will give a film four stars or more, and beside it the
same network without the transformer (DIN) and without attention (mean). Prints one table for all,
saves the BST, loads it in a fresh process, and draws how the training went (`training.png`).

    python examples/bst_movielens.py
    python examples/bst_movielens.py --seeds 3
    python examples/bst_movielens.py --sizes seed

The last one trains nothing: it builds the published model and compares its parts, line by line,
with the table that was published with it.

Dropout was chosen on the last fifth of the training part; the held-out ratings chose nothing. Seeds
0, 1, 2 gave, on the held-out ratings:

    transformer (BST)   AUC .7982 .7989 .7971   log loss .5528 .5552 .5463
    attention (DIN)     AUC .7904 .7886 .7880   log loss .5541 .5540 .5553
    mean                AUC .7877 .7872 .7864   log loss .5569 .5612 .5589

The AUC was best with the transformer for every seed, the log loss for two of three. Within a user
it orders the films no better: with seeds 0 and 2 the user-weighted AUC was .6329 and .6345, that of
the mean .6382 and .6392.

This file is the job: data, tables, picture. The models are in `bst.py`, training and scores in
`din.py`, the data in `movielens.py`, the command line in `command_line.py`.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from command_line import Parser, add_seeds, movielens_parser, run_example, seeds
from din_movielens import draw_training, print_reading_aid
from movielens import (
    Examples,
    Ints,
    MovieLens,
    genre_combinations,
    newest_first,
    number,
    number_users,
    read,
    read_users,
    sizes,
    split,
)

# What is slow to import is imported where it is needed: a mistyped option is answered at once.
if TYPE_CHECKING:
    import keras
    from din import Run


# The published model ---------------------------------------------------------------------------


class Part(NamedTuple):
    """One line of the published table, and the layers that are this part here."""

    name: str
    shape: tuple[int | None, ...]
    parameters: int
    here: tuple[str, ...]  # names of layers in `bst.build_bst`; none for what needs no layer


def _encoder_layers(blocks: int) -> tuple[str, ...]:
    parts = ("self_attention", "norm_1", "feed_forward_1", "feed_forward_2", "norm_2")
    return tuple(f"block_{block}_{part}" for block in range(1, blocks + 1) for part in parts)


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
    Part("encoder", (50, 1024), 12_603_392, _encoder_layers(2)),
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


def published_model(seed: int | None = None) -> keras.Model:
    """Build the model with the sizes of the published one."""
    import bst

    return bst.build_bst(
        {"item": (5001, 512), "category": (214, 512)},
        {"user": (301, 512), "gender": (3, 512), "age": (11, 512)},
        compare=False,
        history=50,
        blocks=2,
        heads=8,
        feed_forward_units=1024,
        encoder_dropout=0.1,
        attention_units=(1024, 1024),
        attention_activation="relu",
        hidden_units=(512, 128, 32),
        activation="relu",
        dropout=0.1,
        seed=seed,
    )


def print_parts(model: keras.Model) -> None:
    """Print the published table beside the model's own parts; raise where a line has no match."""
    print(f"{'the published line':<33}{'output':<13}{'parameters':>11}{'here':>12}   layers here")
    layers = {layer.name: layer for layer in model.layers}
    total, difference = 0, 0
    for part in PUBLISHED:
        here = [layers[name] for name in part.here]
        parameters = sum(layer.count_params() for layer in here)
        shape = _shape(here[-1]) if here else part.shape
        # Shared embeddings have an output for each of their calls; the table has none for them.
        if part.shape and shape != part.shape:
            raise RuntimeError(f"{part.name}: {shape} instead of {part.shape}")
        total, difference = total + parameters, difference + parameters - part.parameters
        note = f" ({parameters - part.parameters:+,})" if parameters != part.parameters else ""
        print(
            f"{part.name:<33}{'x'.join(map(str, part.shape)) or 'several':<13}"
            f"{part.parameters:>11,}{parameters:>12,}   {_names(part.here)}{note}"
        )
    print(f"{'total':<46}{PUBLISHED_TOTAL:>11,}{total:>12,}   ({difference:+,})")
    if total != model.count_params():
        raise RuntimeError(f"the model has {model.count_params():,} parameters, {total:,} in parts")
    kernel, bias = layers["attention"].trainable_weights[-2:]
    print(
        f"The difference is the attention's last, linear unit: {kernel.shape[0]:,} weights and"
        f" {bias.shape[0]} bias. The published layer makes\nit inside `call`, where Keras does not"
        " find it: it is neither counted nor trained. Here it is both."
    )


def _shape(layer: Any) -> tuple[int | None, ...]:
    return tuple(layer.output.shape[1:])


def _names(names: Sequence[str]) -> str:
    if not names:
        return "- (the mask is made by the layers)"
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


# The MovieLens model ---------------------------------------------------------------------------

POOLINGS = {"transformer (BST)": "transformer", "attention (DIN)": "attention", "mean": "mean"}


def build_model(
    data: MovieLens, genres: Ints, users: dict[str, Ints], pooling: str, seed: int
) -> keras.Model:
    """Build a BST for so many films, or one of its smaller relatives."""
    import bst
    import din

    return bst.build_bst(
        {
            "movie": (len(data.titles), 16),
            "genres": (int(genres.max()) + 1, 8),
            "rating": (din.NOT_RATED + 1, 8),
        },
        {field: (int(ids.max()) + 1, 8) for field, ids in users.items()},
        pooling=pooling,
        blocks=1,
        heads=4,
        feed_forward_units=64,
        encoder_dropout=0.2,
        attention_activation="dice",
        hidden_units=(64, 32),
        activation="dice",
        dropout=0.2,
        # Most films have a handful of ratings, which their embedding would learn by heart.
        embedding_l2=1e-3,
        seed=seed,
    )


def inputs_of(questions: Examples, *, genres: Ints, users: dict[str, Ints]) -> dict[str, Ints]:
    """Examples as the model takes them: histories newest first, position 0 is the latest film."""
    import din

    history = newest_first(questions.history_movies)
    return {
        "movie": questions.movie[:, None],
        "genres": genres[questions.movie][:, None],
        "rating": np.full((len(questions.movie), 1), din.NOT_RATED, np.int32),
        "history_movie": history,
        "history_genres": genres[history],
        "history_rating": newest_first(questions.history_ratings),
        **{field: ids[questions.user][:, None] for field, ids in users.items()},
    }


# The table -------------------------------------------------------------------------------------


def print_table(runs: dict[str, list[Run]]) -> None:
    """Print a line per model: mean and standard deviation of its scores over the seeds."""
    print(
        f"\n{'history encoded by':<19}{'AUC':>17}{'user-weighted AUC':>20}{'log loss':>18}"
        f"{'parameters':>12}{'seconds':>9}"
    )
    for name, of_seeds in runs.items():
        last = [run.held_out[-1] for run in of_seeds]
        columns = ([getattr(scores, field) for scores in last] for field in SCORES)
        cells = "".join(f"{mean_and_spread(values):>18}" for values in columns)
        seconds = np.mean([run.seconds for run in of_seeds])
        print(f"{name:<19}{cells}{of_seeds[0].parameters:>12,}{seconds:>9.1f}")


SCORES = ("auc", "user_auc", "log_loss")


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    spread = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


# The job ---------------------------------------------------------------------------------------

FILES = ("bst.keras", "training.png")


def parser() -> Parser:
    """All options."""
    result = movielens_parser(
        "Train a Behavior Sequence Transformer on MovieLens ratings.",
        epochs=2,
        out=Path("runs/bst_movielens"),
        files=FILES,
    )
    add_seeds(result, default=1)
    result.add_argument(
        "--sizes",
        choices=("movielens", "seed"),
        default="movielens",
        help="seed: build the published model, print its parts beside the published table, and"
        " train nothing (default: movielens)",
    )
    return result


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    if options.sizes == "seed":
        print_parts(published_model(options.seed))
        return
    seeds_of_runs = seeds(options)
    films, ratings = read(options.data, options.limit)
    users = number_users(ratings, read_users(options.data))
    data = number(films, ratings)
    parts = split(data, options.history, options.data)
    questions, test = parts.questions, parts.test
    print(sizes(data, parts), flush=True)

    # Only now, with arguments and data in order: TensorFlow takes seconds to start and writes lines
    # of its own to standard error, where bad arguments or data get exactly one.
    import din

    genres = genre_combinations(data)
    to_inputs = functools.partial(inputs_of, genres=genres, users=users)
    runs: dict[str, list[Run]] = {name: [] for name in POOLINGS}
    for seed in seeds_of_runs:
        for name, pooling in POOLINGS.items():
            model = build_model(data, genres, users, pooling, seed)
            title = f"Training, history encoded by {name}, seed {seed}"
            trained = din.train(name, title, model, questions, test, options.epochs, to_inputs)
            runs[name].append(trained)
    print_table(runs)
    print_reading_aid(len(questions.movie))

    first_runs = [of_seeds[0] for of_seeds in runs.values()]
    din.save_and_check(first_runs[0].model, test, staging / "bst.keras", to_inputs, "BST")
    draw_training(
        first_runs,
        staging / "training.png",
        "Training: the history encoded by a transformer (BST), by attention alone (DIN), by a mean",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("bst_movielens", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
