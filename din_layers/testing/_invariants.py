"""The invariants of masking: each draws batches and compares what a subject makes of them.

An invariant is a function of a subject (a layer or a model, wired to be called on a `Batch`) and
Hypothesis's `draw`; it raises a `MaskingError` where it is violated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
from hypothesis import strategies as st
from keras import ops

from din_layers.testing._gradients import to_numpy
from din_layers.testing._strategies import Array, Draw, draw_mask, placements
from din_layers.testing._subject import Batch, Gradients, Subject

# "No sentinel shines through": -1e9 and its like are far above, every honest result far below.
SENTINEL_RATIO = 1e4


class MaskingError(AssertionError):
    """An invariant of masking does not hold; the text has the smallest counterexample found.

    Attributes:
        invariant: The name of the invariant.
    """

    __module__ = "din_layers.testing"  # where users find it, and what a traceback shows

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


def padding_invariance(subject: Subject, draw: Draw) -> None:
    """The same events with padding elsewhere, or none, give the same output and gradients."""
    batch = _draw(subject, draw)
    counts = batch.mask.sum(1)
    other = batch.moved(draw(placements(counts, subject.sizes, subject.padding)))
    _same_events(subject, batch, other)


def _same_events(subject: Subject, batch: Batch, other: Batch) -> None:
    one, two = subject.differentiate(batch), subject.differentiate(other)
    fail = _Failure("padding_invariance", subject, batch, other)
    fail.unless_close(
        "padding the same events differently changes the output",
        subject.counted(batch, one.output),
        subject.counted(other, two.output),
        "output",
    )
    what = "padding the same events differently changes the gradient of the {}"
    for name in one.aligned:
        pair = one.aligned[name][batch.mask], two.aligned[name][other.mask]
        fail.unless_close(what.format(f"valid positions of `{name}`"), *pair, "inputs")
    for pair in zip(one.weights, two.weights, strict=True):
        fail.unless_close(what.format("weights"), *pair, "weights")


def padding_is_inert(subject: Subject, draw: Draw) -> None:
    """Whatever stands at invalid positions, NaN too, changes nothing, and gets no gradient."""
    _inert(subject, _draw(subject, draw), draw(st.sampled_from(subject.garbage)))


def _inert(subject: Subject, batch: Batch, padding: float) -> None:
    spoilt = replace(batch, padding=padding)
    clean, dirty = subject.differentiate(batch), subject.differentiate(spoilt)
    fail = _Failure("padding_is_inert", subject, batch, spoilt)
    fail.unless_equal(
        f"{spoilt.padding} at invalid positions changes the output",
        subject.counted(batch, clean.output),
        subject.counted(batch, dirty.output),
    )
    # Huge numbers may get none where ordinary ones, and 0, get some.
    _no_gradient(_Failure("padding_is_inert", subject, batch), batch, clean)
    if spoilt.padding not in subject.gradient_garbage:
        return
    _no_gradient(fail, spoilt, dirty)
    what = f"with {spoilt.padding} at invalid positions, the gradient of the "
    for name, gradient in dirty.aligned.items():
        pair = clean.aligned[name][batch.mask], gradient[batch.mask]
        fail.unless_close(f"{what}valid positions changes", *pair, "inputs")
    for pair in zip(clean.weights, dirty.weights, strict=True):
        fail.unless_close(f"{what}weights changes", *pair, "weights")


def _no_gradient(fail: "_Failure", batch: Batch, gradients: Gradients) -> None:
    """Check that the padding gets none."""
    what = f"with {batch.padding} at invalid positions, the gradient of the padding"
    for gradient in gradients.aligned.values():
        at_padding = gradient[~batch.mask]
        fail.unless_equal(f"{what} is not 0", np.zeros_like(at_padding), at_padding)
    if gradients.padding is not None:
        none = np.zeros_like(gradients.padding)
        fail.unless_equal(f"{what}'s embedding is not 0", none, gradients.padding)


def finite_gradients(subject: Subject, draw: Draw) -> None:
    """All gradients are finite, whatever stands at invalid positions, in empty rows too."""
    padding = draw(st.sampled_from([0.0, *subject.gradient_garbage]))
    batch = replace(_draw(subject, draw), padding=padding)
    gradients = subject.differentiate(batch)
    fail = _Failure("finite_gradients", subject, batch)
    for name, gradient in gradients.aligned.items():
        fail.unless_finite(f"the gradient of `{name}` is not finite", gradient)
    for gradient in gradients.weights:
        fail.unless_finite("the gradient of the weights is not finite", gradient)


def empty_history(subject: Subject, draw: Draw) -> None:
    """A row without events gives finite numbers that neither padding nor sentinels decide.

    With `empty="zeros"` it gives zeros.
    """
    batch = _draw(subject, draw)
    empty = draw(st.integers(0, len(batch.mask) - 1))
    mask = batch.mask.copy()
    mask[empty] = False
    batch = replace(batch, mask=mask)
    other = replace(batch, padding=draw(st.sampled_from([1.0, -3.0, 100.0])))
    result = subject.differentiate(batch)
    fail = _Failure("empty_history", subject, batch)
    fail.unless_finite("the output of an empty row is not finite", result.output[empty])
    if subject.empty == "zeros":
        zeros = np.zeros_like(result.output[empty])
        fail.unless_equal("the output of an empty row is not 0", zeros, result.output[empty])
    for gradient in [*result.aligned.values(), *result.weights]:
        fail.unless_finite("a gradient is not finite when a row is empty", gradient)
    bound = SENTINEL_RATIO * max(1.0, subject.largest(batch))
    fail.unless_below("a sentinel decides the output of an empty row", result.output[empty], bound)
    fail = _Failure("empty_history", subject, batch, other)
    only_valid = [] if subject.keeps_time else [empty]
    fail.unless_equal(
        "the padding decides the output of an empty row",
        result.output[only_valid],
        subject.run(other)[only_valid],
    )


def batch_independence(subject: Subject, draw: Draw) -> None:
    """A row gives alone what it gives beside others, be they NaN."""
    batch = _draw(subject, draw)
    row = draw(st.integers(0, len(batch.mask) - 1))
    others = np.arange(len(batch.mask)) != row
    spoilt = batch.moved(batch.mask)
    if draw(st.booleans()):
        bad = draw(st.sampled_from(subject.garbage))
        for x in spoilt.aligned.values():
            if np.issubdtype(x.dtype, np.floating):
                x[others] = bad
    together = subject.run(spoilt)[[row]]
    companion = subject.sizes.min_batch  # where one row alone is too few, it comes several times
    alone = batch.take([row] * companion)
    fail = _Failure("batch_independence", subject, spoilt, alone)
    fail.unless_close(
        f"row {row} depends on the other rows",
        subject.counted(alone.take([0]), subject.run(alone)[[0]]),
        subject.counted(batch.take([row]), together),
        "output",
    )


def extreme_values(subject: Subject, draw: Draw) -> None:
    """Large valid numbers stay finite, and no sentinel in the padding competes with them."""
    batch = _draw(subject, draw)
    scale = draw(st.sampled_from([2e9, -2e9, 1e-30, 1e4]))
    if subject.output_dtype == "float16":  # what it cannot hold says nothing about masking
        scale = float(np.clip(scale, -1e3, 1e3))
    scaled = {
        # All of one sign: sums of large numbers that cancel say nothing about masking either.
        name: np.abs(x) * np.float32(scale) if np.issubdtype(x.dtype, np.floating) else x
        for name, x in batch.aligned.items()
    }
    batch = replace(batch, aligned=scaled)
    other = batch.moved(draw(placements(batch.mask.sum(1), subject.sizes, subject.padding)))
    output, moved = subject.run(batch), subject.run(other)
    fail = _Failure("extreme_values", subject, batch)
    fail.unless_finite("the output of large events is not finite", output[batch.mask.any(1)])
    _Failure("extreme_values", subject, batch, other).unless_close(
        "padding the same large events differently changes the output",
        subject.counted(batch, output),
        subject.counted(other, moved),
        "output",
    )


def permutation_invariance(subject: Subject, draw: Draw) -> None:
    """The order of the positions changes nothing; an output with a time axis follows it."""
    batch = _draw(subject, draw)
    if subject.padding != "any":  # then only the order of full rows may change
        batch = replace(batch, mask=np.ones_like(batch.mask))
    order = np.array(draw(st.permutations(range(batch.mask.shape[1]))), int)
    other = batch.permuted(order)
    before, after = subject.run(batch), subject.run(other)
    if subject.keeps_time:
        before = before[:, order]
    _Failure("permutation_invariance", subject, batch, other).unless_close(
        "another order of the positions changes the output",
        subject.counted(other, before),
        subject.counted(other, after),
        "output",
    )


def dtype_and_shape(subject: Subject, draw: Draw) -> None:
    """A symbolic call tells the dtype and the shape of a real one."""
    subject.check_spec(draw)


def loss_skips_padding(subject: Subject, draw: Draw) -> None:
    """A loss, to which Keras hands the mask of the output, weighs no invalid position."""
    if not subject.keeps_time:
        return
    batch = _draw(subject, draw)
    output, loss = subject.call(batch), keras.losses.MeanSquaredError()
    labels = np.zeros(tuple(output.shape), "float32")
    other = labels.copy()
    other[~batch.mask] = 1.0
    one, two = (to_numpy(loss(ops.convert_to_tensor(x), output)) for x in (labels, other))
    what = "the labels of invalid positions change the loss: the output has lost its mask"
    _Failure("loss_skips_padding", subject, batch).unless_close(what, one, two, "output")


Invariant = Callable[[Subject, Draw], None]

#: All invariants by their names.
BY_NAME: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        padding_invariance,
        padding_is_inert,
        finite_gradients,
        empty_history,
        batch_independence,
        extreme_values,
        permutation_invariance,
        dtype_and_shape,
        loss_skips_padding,
    )
}

#: The names of the invariants of layers: but for that of a model's loss.
INVARIANTS = tuple(name for name in BY_NAME if name != "loss_skips_padding")

# They do not hold of every right layer: an LSTM heeds the order, and not every function takes
# symbolic tensors.
_ASKED_FOR = ("permutation_invariance", "dtype_and_shape")
#: Those that are checked unless others are named.
DEFAULT_INVARIANTS = tuple(name for name in INVARIANTS if name not in _ASKED_FOR)


def certain(subject: Subject, invariant: str) -> None:
    """Try what Hypothesis may not draw: NaN beside events for certain, and one long history."""
    cases = {"padding_invariance": _certain_places, "padding_is_inert": _certain_nan}
    if invariant in cases:
        cases[invariant](subject)


def _certain_places(subject: Subject) -> None:
    if subject.sizes.long:
        count, time = max(1, subject.sizes.max_time // 2), subject.sizes.max_time
        batch = _placed(subject, count, time)
        _same_events(subject, batch, batch.moved(_placed(subject, count, subject.sizes.long).mask))


def _certain_nan(subject: Subject) -> None:
    for time in sorted({subject.sizes.max_time, subject.sizes.long or 0} - {0, 1}):
        batch = _placed(subject, time // 2, time)
        for padding in (1.0, np.nan):
            _inert(subject, batch, padding)


def _placed(subject: Subject, count: int, time: int) -> Batch:
    """Return a batch with some events in each row, at either end or spread where it may be."""
    positions = np.arange(time)
    first, last = positions < count, positions >= time - count
    spread = np.isin(positions, np.linspace(0, time - 1, count).astype(int))
    rows = {"right": [first], "left": [last], "any": [first, last, spread]}[subject.padding]
    batch = subject.typical((subject.sizes.max_batch, time))
    return replace(batch, mask=np.resize(rows, batch.mask.shape))


def _draw(subject: Subject, draw: Draw) -> Batch:
    return subject.draw(draw, draw(draw_mask(subject.sizes, subject.padding)))


@dataclass(frozen=True)
class _Failure:
    """Words a violation of an invariant: the smallest batch, both outputs, code that shows it."""

    invariant: str
    subject: Subject
    batch: Batch
    other: Batch | None = None

    def unless_close(self, what: str, expected: Array, actual: Array, scale: str) -> None:
        if expected.shape == actual.shape:
            allowed = self.subject.tolerance_of(expected, scale)
            # NaN on both sides is no change: that it is wrong, other invariants say.
            if np.allclose(expected, actual, rtol=0.0, atol=allowed, equal_nan=True):
                return
        self._fail(what, expected, actual)

    def unless_equal(self, what: str, expected: Array, actual: Array) -> None:
        if not np.array_equal(expected, actual, equal_nan=True):
            self._fail(what, expected, actual)

    def unless_finite(self, what: str, actual: Array) -> None:
        if not np.all(np.isfinite(actual)):
            self._fail(what, None, actual)

    def unless_below(self, what: str, actual: Array, bound: float) -> None:
        if np.max(np.abs(actual), initial=0.0) > bound:
            self._fail(f"{what} (larger than {bound:g})", None, actual)

    def _fail(self, what: str, expected: Array | None, actual: Array) -> None:
        parts = [what, _shown("mask", self.batch.mask)]
        for name in self.batch.aligned:
            parts.append(_shown(name, self.batch.filled(name)))
        if self.other is not None and self.other.mask.tolist() != self.batch.mask.tolist():
            parts.append(_shown("other mask", self.other.mask))
        gradient = "gradient" in what
        of = " gradient" if gradient else ""
        if expected is not None:
            parts.append(_shown(f"expected{of}", expected))
        parts.append(_shown(f"actual{of}", actual))
        batches = [batch for batch in (self.batch, self.other) if batch is not None]
        snippets = [self.subject.snippet(batch, gradient) for batch in batches]
        parts.append("Reproduce with\n\n" + "\n\n".join(snippets))
        raise MaskingError(self.invariant, "\n\n".join(parts))


def _shown(name: str, x: Array) -> str:
    text = np.array2string(x, separator=", ", threshold=200, prefix=f"{name} = ")
    return f"{name} = {text}  # {x.dtype} {x.shape}"
