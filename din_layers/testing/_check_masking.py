"""`check_masking`: the invariants for a function of a sequence and its mask."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers._checks import check_integer, message
from din_layers.testing import _gradients
from din_layers.testing._invariants import DEFAULT_INVARIANTS, INVARIANTS, MaskingError
from din_layers.testing._search import chosen, search
from din_layers.testing._strategies import Array, Draw, Sizes, draw_mask, tenths, values
from din_layers.testing._subject import Batch, Gradients, Subject, as_code, symbolic_mismatch

Tensor = Any

# A mistake that begins at so many positions, with a window or a table of that length, shows.
_LONG = 64


def check_masking(
    apply: Callable[[Tensor, Tensor], Tensor],
    *,
    dim: int = 4,
    min_batch: int = 1,
    max_batch: int = 4,
    min_time: int = 1,
    max_time: int | None = None,
    padding: str = "any",
    invariants: Sequence[str] | None = None,
    empty: str = "finite",
    tolerance: float | None = None,
    max_examples: int = 20,
    seed: int = 0,
) -> None:
    """Look for a batch on which a layer or a model breaks an invariant of masking.

    Args:
        apply: The function to check. It is called as `apply(sequence, mask)` with tensors of the
            backend, `sequence` float32 (batch, time, dim) and `mask` bool (batch, time), and
            returns one floating-point tensor with the batch first. If the second axis of the
            output is time, only valid positions are compared. `sequence` may hold NaN where `mask`
            is False.
        dim: The size of the last axis of `sequence`.
        min_batch: The smallest number of rows; the same as `max_batch` if `apply` needs one size.
        max_batch: The largest number of rows.
        min_time: The smallest number of positions; the same as `max_time` if `apply` needs one.
        max_time: The largest number of positions; checks that add padding need two more. By default
            6, and one history of 64: set it if `apply` takes fewer. On JAX, which compiles for each
            shape, only the smallest and largest sizes are drawn.
        padding: Where invalid positions may stand: `"any"`, between events too; `"right"` or
            `"left"` for layers that support only one side.
        invariants: The names to check, of `INVARIANTS`. By default `DEFAULT_INVARIANTS`: all except
            `permutation_invariance` (the order may matter) and `dtype_and_shape` (which also calls
            `apply` with `keras.KerasTensor`s). `padding_invariance` is left out if one number of
            positions and one-sided padding leave nothing to vary.
        empty: What `empty_history` expects of the output of a row without events: `"finite"`,
            finite numbers that depend neither on the padding nor on a sentinel such as -1e9; or
            `"zeros"`.
        tolerance: The largest difference between outputs, or gradients, that should be equal,
            relative to the largest one there or in a typical batch. `None`: by the dtype of the
            output, 2e-5 for float32.
        max_examples: How many batches to draw for each invariant.
        seed: The same seed draws the same batches.

    Raises:
        MaskingError: An invariant does not hold; the text names it and shows the smallest batch
            found, the outputs, and code that reproduces them. Or the output depends on padding
            alone.
        TypeError: `apply` is not callable, does not return one tensor, or its output has no
            gradient with respect to `sequence`.
        ValueError: `apply` returns another batch size, or another output for the same input, or
            an argument is out of range.

    Example:
        >>> pool = keras.layers.GlobalAveragePooling1D()
        >>> testing.check_masking(
        ...     lambda sequence, mask: pool(sequence, mask=mask), invariants=["empty_history"]
        ... )
        Traceback (most recent call last):
            ...
        din_layers.testing.MaskingError: empty_history: the output of an empty row is not finite
        ...
    """
    __tracebackhide__ = True
    default = {"max_time": max(6, check_integer("min_time", min_time, minimum=0)), "long": _LONG}
    times = default if max_time is None else {"max_time": max_time}
    sizes = Sizes(min_batch, max_batch, min_time, **times)
    subject = _Function(apply, dim, sizes, padding, empty, tolerance)
    for name in chosen(invariants, DEFAULT_INVARIANTS, INVARIANTS, subject):
        search(subject, name, max_examples, seed)


class _Function(Subject):
    """A function of a sequence and its mask."""

    def __init__(
        self, apply: Any, dim: int, sizes: Sizes, padding: str, empty: str, tolerance: float | None
    ) -> None:
        super().__init__(padding, empty, tolerance)
        if not callable(apply):
            expected = "must be callable as `apply(sequence, mask)`"
            raise TypeError(message("apply", expected, apply=apply))
        self.apply = apply
        self.dim = check_integer("dim", dim, minimum=1)
        self.sizes = sizes
        typical = self.learn_output("apply")
        if not typical.aligned["sequence"].any():
            self._check_inverted()
            expected = "must return a tensor with a gradient with respect to `sequence`"
            raise TypeError(message("apply", expected, gradient=0.0))

    def _check_inverted(self) -> None:
        """Say so where nothing but padding makes the output."""
        batch = self.typical((self.sizes.max_batch, self.sizes.max_time))
        batch = replace(batch, mask=np.zeros_like(batch.mask))
        # All of it stands at invalid positions here, which `filled` would clear.
        _, (gradient,), _ = _gradients.differentiate(
            lambda sequence: self.apply(sequence, ops.convert_to_tensor(batch.mask)),
            [batch.aligned["sequence"]],
            np.ones_like(self.counted_outputs(batch)),
        )
        if gradient.any():
            what = "the output depends on padding alone: is `mask` False where events are?"
            raise MaskingError("padding_is_inert", what)

    def typical(self, shape: tuple[int, int]) -> Batch:
        return Batch(np.ones(shape, bool), {"sequence": tenths((*shape, self.dim), seed=1)})

    def call(self, batch: Batch) -> Tensor:
        sequence = ops.convert_to_tensor(batch.filled("sequence"))
        return self.apply(sequence, ops.convert_to_tensor(batch.mask))

    def draw(self, draw: Draw, mask: Array) -> Batch:
        return Batch(mask, {"sequence": draw(values((*mask.shape, self.dim)))})

    def differentiate(self, batch: Batch) -> Gradients:
        mask = ops.convert_to_tensor(batch.mask)
        output, (of_sequence,), of_weights = _gradients.differentiate(
            lambda sequence: self.apply(sequence, mask),
            [batch.filled("sequence")],
            self.counted_outputs(batch),
        )
        return Gradients(output, {"sequence": of_sequence}, None, of_weights)

    def largest(self, batch: Batch) -> float:
        return float(np.max(np.abs(batch.aligned["sequence"][batch.mask]), initial=0.0))

    def check_spec(self, draw: Draw) -> None:
        batch = self.draw(draw, draw(draw_mask(self.sizes, self.padding)))
        output = self.call(batch)
        spec = self.apply(
            keras.KerasTensor((*self.sizes.shape, self.dim), "float32"),
            keras.KerasTensor(self.sizes.shape, "bool"),
        )
        if mismatch := symbolic_mismatch(spec, output):
            raise MaskingError("dtype_and_shape", f"{mismatch}\n\n{self.snippet(batch)}")

    def snippet(self, batch: Batch, gradient: bool = False) -> str:
        arguments = "sequence, mask, valid=mask" if self.keeps_time else "sequence, mask"
        taken = f"testing.gradients(apply, {arguments})" if gradient else "apply(sequence, mask)"
        sequence = f"sequence = {as_code(batch.filled('sequence'))}"
        return f"{sequence}\nmask = {as_code(batch.mask)}\nprint({taken})"
