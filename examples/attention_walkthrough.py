"""DIN's attention step by step: every step in NumPy, and AttentionPoolingLayer beside it.

Thirty-two readers have one candidate and a history of 1 to 20 events each, all vectors of 14
numbers; lengths say which positions are valid. An MLP on [query, key, query - key, query * key],
with one hidden layer of 36 units, gives the scores, which are divided by the root of 14 before the
softmax. Prints shape and first numbers of every step, and how far the layer is off; the same for
the steps of Dice; and a history where the recipe fails and the layer does not. Ten seconds.

    python examples/attention_walkthrough.py

`steps.png`, in `runs/attention_walkthrough`, shows the scores on their way to weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from command_line import Parser, example_parser, run_example
from movielens import Floats, Ints

# What is slow to import is imported where it is needed: a mistyped option is answered at once.
if TYPE_CHECKING:
    import keras

Steps = dict[str, Floats]

FILES = ("steps.png",)
READERS, TIME, DIM = 32, 20, 14
TOLERANCE = 1e-6  # the layer computes in float32, NumPy here in float64


def build_attention(
    dim: int = DIM,
    *,
    attention_units: Sequence[int] = (36,),
    attention_activation: str = "sigmoid",
    weight_normalization: bool = True,
    scale: bool = True,
    dropout: float = 0.0,
    kernel_l2: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Pool each reader's history by their candidate.

    Inputs: `query` (batch, dim), `keys` (batch, time, dim) and `lengths` (batch,). Outputs: the
    pooled history (batch, dim) and the weights of its events (batch, 1, time).

    Args:
        dim: Size of the vectors.
        attention_units: Hidden units of the network that scores a pair of query and key.
        attention_activation: Their activation, "dice" or one of Keras's.
        weight_normalization: Whether the weights are the softmax of the scores, or the scores.
        scale: Whether the scores are divided by the root of `dim`.
        dropout: The share of the weights that is dropped in training.
        kernel_l2: Weight decay of the scoring network's kernels.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    import keras

    from din_layers import AttentionPoolingLayer

    if seed is not None:
        keras.utils.set_random_seed(seed)
    query = keras.Input((dim,), name="query")
    keys = keras.Input((None, dim), name="keys")
    lengths = keras.Input((), dtype="int32", name="lengths")
    attention = AttentionPoolingLayer(
        tuple(attention_units),
        att_activation=attention_activation,
        weight_normalization=weight_normalization,
        scale=scale,
        dropout=dropout,
        kernel_regularizer=keras.regularizers.L2(kernel_l2) if kernel_l2 else None,
        name="attention",
    )
    queries = keras.ops.expand_dims(query, 1)
    pooled, weights = attention([queries, keys, lengths], return_attention_scores=True)
    return keras.Model([query, keys, lengths], [keras.ops.squeeze(pooled, 1), weights])


# The steps in NumPy ----------------------------------------------------------------------------


def attention_steps(query: Floats, keys: Floats, lengths: Ints, weights: Sequence[Floats]) -> Steps:
    """Every step of the attention, in float64.

    Args:
        query: (batch, dim).
        keys: (batch, time, dim).
        lengths: (batch,).
        weights: Kernel and bias of the hidden layer, then of the linear unit.
    """
    query, keys, *weights = (np.asarray(x, np.float64) for x in (query, keys, *weights))
    hidden_kernel, hidden_bias, kernel, bias = weights
    time, dim = keys.shape[1:]
    steps: Steps = {}
    steps["queries, one for each key"] = q = np.repeat(query[:, None], time, axis=1)
    steps["[q, k, q - k, q * k]"] = pairs = np.concatenate([q, keys, q - keys, q * keys], axis=-1)
    steps["hidden layer, sigmoid"] = hidden = sigmoid(pairs @ hidden_kernel + hidden_bias)
    steps["scores"] = scores = np.swapaxes(hidden @ kernel + bias, 1, 2)
    steps["valid positions"] = valid = np.arange(time) < np.reshape(lengths, (-1, 1, 1))
    # So low that the exponential is 0: as good as minus infinity, while no valid score is as low.
    steps["invalid scores lowered"] = lowered = np.where(valid, scores, -(2.0**32) + 1)
    steps["divided by the root of dim"] = scaled = lowered / np.sqrt(dim)
    exponentials = np.exp(scaled - scaled.max(-1, keepdims=True))
    steps["softmax"] = shares = exponentials / exponentials.sum(-1, keepdims=True)
    steps["weighted sum of the keys"] = (shares @ keys)[:, 0]
    return steps


def dice_steps(x: Floats, alpha: Floats, epsilon: float = 1e-8) -> Steps:
    """Every step of Dice in training, for x (batch, units), in float64."""
    x = np.asarray(x, np.float64)
    steps: Steps = {}
    steps["mean of the batch"] = mean = x.mean(0)
    steps["variance of the batch"] = variance = x.var(0)
    steps["p, the sigmoid of the norm"] = p = sigmoid((x - mean) / np.sqrt(variance + epsilon))
    steps["p x + (1 - p) alpha x"] = p * x + (1 - p) * alpha * x
    return steps


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


# The layer beside them -------------------------------------------------------------------------


def readers(seed: int) -> tuple[Floats, Floats, Ints]:
    """Draw candidates, histories and their lengths."""
    rng = np.random.default_rng(seed)
    query = rng.random((READERS, DIM), np.float32)
    keys = rng.random((READERS, TIME, DIM), np.float32)
    return query, keys, rng.integers(1, TIME + 1, READERS).astype(np.int32)


def layer_steps(model: keras.Model, inputs: Sequence[Any]) -> Steps:
    """What the layer gives for the same steps, under the names of `attention_steps`.

    A step that is inside the layer is the result of a layer that stops there, with its weights.
    """

    def stopping_at(**options: bool) -> list[Any]:
        stopped = build_attention(inputs[0].shape[-1], **options)
        stopped.set_weights(model.get_weights())
        return stopped.predict_on_batch(list(inputs))

    return {
        "scores": stopping_at(scale=False, weight_normalization=False)[1],
        "divided by the root of dim": stopping_at(weight_normalization=False)[1],
        "softmax": model.predict_on_batch(list(inputs))[1],
        "weighted sum of the keys": model.predict_on_batch(list(inputs))[0],
    }


def dice_layer_steps(x: Floats, alpha: Floats) -> Steps:
    """What the Dice layer gives for the last of the steps."""
    from din_layers import Dice

    layer = Dice()
    layer.build(x.shape)
    layer.alpha.assign(alpha)
    return {"p x + (1 - p) alpha x": np.asarray(layer(x, training=True))}


def differences(steps: Steps, layer: Steps, valid: Any = True) -> dict[str, float]:
    """Largest difference per step; scores count where they are valid, the layer has 0 elsewhere."""
    result = {}
    for name, ours in layer.items():
        counted = valid if ours.ndim == 3 else True
        result[name] = float(np.abs(np.where(counted, ours - steps[name], 0.0)).max())
    return result


def print_steps(steps: Steps, differences: Mapping[str, float]) -> None:
    """Print one line per step; stop where the layer is off."""
    print(f"{'step':<28} {'shape':<13} {'first numbers':<26} difference of the layer")
    for name, value in steps.items():
        first = " ".join(f"{number:.4g}" for number in np.ravel(value)[:3].astype(float))
        difference = f"{differences[name]:.0e}" if name in differences else "-"
        print(f"{name:<28} {value.shape!s:<13} {first:<26} {difference}")
    worst = max(differences.values())
    # Not `worst > TOLERANCE`, which NaN passes.
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the layer is off by {worst}")


def print_empty_history(model: keras.Model, inputs: Sequence[Any]) -> None:
    """Print what an empty history gives, by the recipe and by the layer."""
    query, keys, lengths = inputs
    weights = model.get_weights()
    recipe = attention_steps(query, keys, 0 * lengths, weights)["weighted sum of the keys"]
    pooled, _ = model.predict_on_batch([query, keys, 0 * lengths])
    print(
        "\nA history of length 0: every score is lowered alike, so the recipe takes the mean of the"
        f"\npadding (first number {recipe[0, 0]:.4f}). The layer gives {pooled[0, 0]:.4f}."
    )


# The picture -----------------------------------------------------------------------------------


def draw(steps: Steps, lengths: Ints, file: Path) -> None:
    """Draw scores, masked scores and weights, a reader per row, the shortest history first."""
    from matplotlib.figure import Figure

    order = np.argsort(lengths, kind="stable")
    valid = steps["valid positions"][order, 0]
    scores, shares = (steps[name][order, 0] for name in ("scores", "softmax"))
    panels = {
        "scores of all 20 positions": scores,
        "valid scores / root of 14": np.ma.masked_where(~valid, scores / np.sqrt(DIM)),
        "weights: softmax": np.ma.masked_where(~valid, shares),
        "weights x length: 1 is a plain mean": np.ma.masked_where(
            ~valid, shares * lengths[order, None]
        ),
    }
    figure = Figure(figsize=(15, 5), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.set_facecolor("lightgrey")  # padding
        figure.colorbar(axes.imshow(values, aspect="auto"), ax=axes)
        axes.set_title(title)
        axes.set_xlabel("position in the history (grey: padding)")
    figure.axes[0].set_ylabel("reader, by length of the history")
    figure.savefig(file, dpi=110)


# The job ---------------------------------------------------------------------------------------


def parser() -> Parser:
    """All options."""
    return example_parser(
        "Walk through DIN's attention in NumPy, with the layer beside it.",
        out=Path("runs/attention_walkthrough"),
        files=FILES,
    )


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the picture goes to `staging`."""
    inputs = readers(options.seed)
    model = build_attention(seed=options.seed)
    steps = attention_steps(*inputs, model.get_weights())
    print("The attention, and AttentionPoolingLayer(scale=True) beside it\n")
    print_steps(steps, differences(steps, layer_steps(model, inputs), steps["valid positions"]))

    x = 4 * inputs[0] - 2
    alpha = np.linspace(-0.5, 0.5, DIM)
    print("\nDice in training, on the candidates shifted to -2 to 2, and the layer beside it\n")
    dice = dice_steps(x, alpha)
    print_steps(dice, differences(dice, dice_layer_steps(x, alpha)))

    print_empty_history(model, inputs)
    draw(steps, inputs[2], staging / "steps.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("attention_walkthrough", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
