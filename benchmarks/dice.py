"""Section `dice`: training with Dice, inside the attention and beside a plain sigmoid."""

import keras
import numpy as np
from attention import (
    COLUMN,
    FASTER_COLUMNS,
    HIDDEN,
    Scored,
    Shape,
    against_the_faster,
    enough,
    histories,
)
from backends import ALL_WAYS, BACKEND, HOW, NAIVE, XLA, training_step
from keras import ops
from report import Measured, Options, Table, cell, interleaved_medians, milliseconds
from tqdm import tqdm

import din_layers

SHAPES: list[Shape] = [
    (512, 50, 32, 0.3),
    (512, 100, 64, 0.3),
    (128, 1000, 64, 0.2),
    (512, 50, 32, 0.8),
]


def attention_row(options: Options, shape: Shape) -> list[str]:
    batch, time, dim, fill = shape
    scored, data = Scored(dim, "dice"), histories(batch, time, fill)
    steps = {way: scored.run(way, True, *data) for way in scored.layers}
    medians = interleaved_medians(steps, enough(options, shape))
    ratios = [medians[NAIVE] / medians[way] for way in ALL_WAYS]
    cells = [cell([ratio]) for ratio in [*ratios, *against_the_faster(medians)]]
    return [", ".join(map(str, shape)), *cells]


def beside_sigmoid(options: Options, rows: int, way: str) -> list[str]:
    x = np.random.default_rng(0).normal(size=(rows, HIDDEN[0])).astype("float32")
    dice = din_layers.Dice()
    dice.build(x.shape)
    steps = {
        "sigmoid": (keras.activations.sigmoid, []),
        "Dice": (lambda x: dice(x, training=True), dice.weights),
    }
    runs = {
        name: training_step(way, call, weights, [ops.convert_to_tensor(x)])
        for name, (call, weights) in steps.items()
    }
    medians = interleaved_medians(runs, 2 * options.runs)
    seconds = medians["sigmoid"], medians["Dice"]
    return [*map(milliseconds, seconds), cell([seconds[1] / seconds[0]])]


def measure(options: Options) -> Measured:
    shapes = [(4, 20, 4, 0.3)] if options.quick else SHAPES
    yield Table(
        "A training step of the attention with Dice, as `attention` has it with sigmoid, against"
        " the naive layer with a Dice whose statistics count the padding.",
        [COLUMN, *ALL_WAYS, *FASTER_COLUMNS],
        [attention_row(options, shape) for shape in tqdm(shapes, unit="shape", leave=False)],
    )
    rows = 20 if options.quick else 20_700
    ways = {HOW: "", "under XLA": XLA} if BACKEND == "tensorflow" else {HOW: ""}
    yield Table(
        f"Dice alone in training, with its gradients, of shape ({rows}, {HIDDEN[0]}), against a"
        " plain sigmoid: time of Dice / time of sigmoid. Smaller is better.",
        ["", "sigmoid, ms", "Dice, ms", "ratio"],
        [[how, *beside_sigmoid(options, rows, way)] for how, way in ways.items()],
    )
