"""What is checked, and what it is checked on."""

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from din_layers._checks import check_choice, check_number, message
from din_layers.testing._gradients import to_numpy
from din_layers.testing._strategies import GARBAGE, PADDINGS, Array, Draw, Sizes

Tensor = Any

# What the order of sums may change, relative to the largest number in the output: some units in
# the last place of each dtype, after a few layers.
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 3e-2, "bfloat16": 2e-1}


#: What the output of a row without events may be.
EMPTY = ("finite", "zeros")


@dataclass(frozen=True)
class Batch:
    """Rows of padded histories."""

    mask: Array  # which positions are valid, bool (batch, time)
    # By input, what has the time axis: (batch, time, ...). What it has at invalid positions does
    # not count: `padding` does.
    aligned: dict[str, Array]
    per_row: dict[str, Array] = field(default_factory=dict)  # what belongs to a row: (batch, ...)
    padding: float = 0.0  # what stands at invalid positions

    def take(self, rows: Any) -> "Batch":
        """Return the batch of some rows."""
        aligned = {name: x[rows] for name, x in self.aligned.items()}
        per_row = {name: x[rows] for name, x in self.per_row.items()}
        return replace(self, mask=self.mask[rows], aligned=aligned, per_row=per_row)

    def moved(self, mask: Array) -> "Batch":
        """Return the same events in the same order, at the valid positions of another mask."""
        aligned = {}
        for name, x in self.aligned.items():
            aligned[name] = np.zeros((*mask.shape, *x.shape[2:]), x.dtype)
            aligned[name][mask] = x[self.mask]
        return replace(self, mask=mask, aligned=aligned)

    def permuted(self, order: Array) -> "Batch":
        """Return the batch with its positions in another order."""
        aligned = {name: x[:, order] for name, x in self.aligned.items()}
        return replace(self, mask=self.mask[:, order], aligned=aligned)

    def filled(self, name: str) -> Array:
        """Return an aligned input with the padding in its place."""
        x = self.aligned[name].copy()
        x[~self.mask] = self.padding if np.issubdtype(x.dtype, np.floating) else 0
        return x


@dataclass(frozen=True)
class Gradients:
    """What `Subject.differentiate` returns."""

    output: Array
    aligned: dict[str, Array]  # by input, if it is of floats
    padding: Array | None  # of what else is padding, such as an embedding's row 0
    weights: list[Array]  # of all that are trainable


class Subject(abc.ABC):
    """A layer or model under test; `padding`, `empty` and `tolerance` are those of the checks."""

    sizes: Sizes  # how many rows and positions it takes
    # What may stand in the padding that must not matter, and not to gradients either: also numbers
    # that events have, which a layer may let through that clips others.
    garbage: Sequence[float] = (*GARBAGE, 1.0, -1.0)
    gradient_garbage: Sequence[float] = garbage
    keeps_time: bool  # whether the second axis of its output is time
    output_dtype: str
    # How large the output, the gradients of inputs and those of weights are for the batch
    # `typical`: what rounds to less than the tolerance of that is no difference.
    scales: dict[str, float]

    def __init__(self, padding: str, empty: str, tolerance: float | None) -> None:
        self.padding = check_choice("padding", padding, PADDINGS)
        self.empty = check_choice("empty", empty, EMPTY)
        if tolerance is not None:
            check_number("tolerance", tolerance, 0.0, 1.0)
        self._tolerance = tolerance

    @property
    def tolerance(self) -> float:
        """The largest relative difference that counts as none."""
        return TOLERANCES[self.output_dtype] if self._tolerance is None else self._tolerance

    @abc.abstractmethod
    def draw(self, draw: Draw, mask: Array) -> Batch:
        """Draw what stands at the valid positions of a mask, and the inputs beside it."""

    @abc.abstractmethod
    def typical(self, shape: tuple[int, int]) -> Batch:
        """Return a batch of a shape (batch, time), without padding, the same one always."""

    @abc.abstractmethod
    def call(self, batch: Batch) -> Tensor:
        """Return the output for a batch, a tensor."""

    def run(self, batch: Batch) -> Array:
        """Return the output for a batch, an array."""
        return to_numpy(self.call(batch))

    @abc.abstractmethod
    def differentiate(self, batch: Batch) -> Gradients:
        """Return the output and gradients for a batch."""

    @abc.abstractmethod
    def largest(self, batch: Batch) -> float:
        """Return the largest magnitude of what is valid in a batch."""

    @abc.abstractmethod
    def snippet(self, batch: Batch, gradient: bool = False) -> str:
        """Return code that prints the output or the gradients of the subject for a batch."""

    def check_spec(self, draw: Draw) -> None:
        """Compare a symbolic call with a real one."""
        raise ValueError("`dtype_and_shape` needs a function that takes symbolic tensors.")

    def learn_output(self, name: str) -> Gradients:
        """Call what is checked, `name` in messages, on two sizes to learn what it returns.

        The gradients of the larger one are returned.
        """
        shapes = []
        for time in self.sizes.times[-2:]:
            batch = self.typical((self.sizes.max_batch, time))
            output = _checked_output(name, self.call(batch), batch)
            _check_same(name, output, self.call(batch))
            shapes.append((time, tuple(output.shape)))
        self.output_dtype = keras.backend.standardize_dtype(output.dtype)
        self.keeps_time = all(len(shape) > 1 and shape[1] == time for time, shape in shapes)
        if len(shapes) == 1:  # of one size: a vector of as many numbers is no time axis
            self.keeps_time &= len(shapes[0][1]) > 2
        try:
            typical = self.differentiate(batch)
        except Exception as error:  # of whatever kind the backend's is
            raise TypeError(message(name, "must have gradients", error=str(error))) from error
        # What gradients are sums of: where these cancel, as those of a softmax do, they round to
        # something all the same.
        of_output = _largest([typical.output])
        terms = of_output / (self.largest(batch) or 1.0)
        self.scales = {
            "output": of_output,
            "inputs": max(terms, _largest(typical.aligned.values(), least=0.0)),
            "weights": max(terms, _largest(typical.weights, least=0.0)),
        }
        return typical

    def counted_outputs(self, batch: Batch) -> Array:
        """Return which outputs of a batch stand for events, of their leading axes."""
        return batch.mask if self.keeps_time else np.ones(len(batch.mask), bool)

    def counted(self, batch: Batch, output: Array) -> Array:
        """Return the outputs that stand for events: those of valid positions, or all of them."""
        return output[self.counted_outputs(batch)]

    def tolerance_of(self, x: Array, scale: str) -> float:
        """Return the largest difference from `x`, which is of one of `scales`, that is none."""
        return self.tolerance * max(self.scales[scale], _largest([x], least=0.0))


def _largest(arrays: Iterable[Array], least: float = 1.0) -> float:
    """Return the largest finite magnitude, `least` where all is 0."""
    magnitudes = (float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)) for x in arrays)
    return max(magnitudes, default=least) or least


def as_code(x: Array) -> str:
    """Return an expression that makes an array."""
    if 0 in x.shape:
        return f"np.zeros({x.shape}, {str(x.dtype)!r})"
    numbers = repr(x.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({numbers}, {str(x.dtype)!r})"


def _checked_output(name: str, output: Any, batch: Batch) -> Tensor:
    """Check that an output is one floating-point tensor with the batch first, and return it."""
    if isinstance(output, list | tuple | dict) or not hasattr(output, "dtype"):
        raise TypeError(message(name, "must return one tensor", returned=type(output).__name__))
    shape = tuple(output.shape)
    if "float" not in keras.backend.standardize_dtype(output.dtype):
        raise TypeError(message(name, "must return floats", output_dtype=str(output.dtype)))
    if not shape or shape[0] != len(batch.mask):
        expected = "must return a tensor with the batch first"
        received = {"batch": len(batch.mask), "output_shape": shape}
        raise ValueError(message(name, expected, **received))
    return output


def _check_same(name: str, once: Tensor, again: Tensor) -> None:
    """Check that the same input has given the same output."""
    one, two = to_numpy(once), to_numpy(again)
    if not np.array_equal(one, two, equal_nan=True):
        expected = "must return the same for the same input (dropout in training does not)"
        difference = float(np.max(np.abs(one - two)))
        raise ValueError(message(name, expected, largest_difference=difference))


def symbolic_mismatch(spec: Any, output: Any) -> str | None:
    """Tell how the output of a real call differs from a `KerasTensor`, if it does."""
    dtype = keras.backend.standardize_dtype(output.dtype)
    if dtype != spec.dtype:
        return f"dtype {dtype}, symbolically {spec.dtype}"
    sizes = zip(tuple(output.shape), tuple(spec.shape), strict=False)
    if len(output.shape) == len(spec.shape) and all(want in (None, have) for have, want in sizes):
        return None
    return f"shape {tuple(output.shape)}, symbolically {tuple(spec.shape)}"
