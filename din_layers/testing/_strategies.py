"""Draws padded histories: which positions are valid first, what stands there second."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st

from din_layers._checks import check_choice, check_integer, message

Array = np.ndarray[Any, Any]
Draw = st.DrawFn

#: Where the invalid positions of a row may stand.
PADDINGS = ("any", "right", "left")

_LARGEST = float(np.finfo(np.float32).max)
#: What may stand at the invalid positions of a sequence.
GARBAGE = (np.nan, np.inf, -np.inf, _LARGEST, -_LARGEST, 3e9, -2e9)


@dataclass(frozen=True)
class Sizes:
    """How many rows and positions a drawn batch has."""

    min_batch: int = 1
    max_batch: int = 4
    min_time: int = 1
    max_time: int = 6
    long: int | None = None  # the positions of one history that is tried for certain

    def __post_init__(self) -> None:
        """Check that the sizes can be drawn."""
        for axis, least in (("batch", 1), ("time", 0)):
            low, high = f"min_{axis}", f"max_{axis}"
            check_integer(low, getattr(self, low), minimum=least)
            check_integer(high, getattr(self, high), minimum=max(least, 1))
            if getattr(self, low) > getattr(self, high):
                received = {low: getattr(self, low), high: getattr(self, high)}
                raise ValueError(message(low, f"must be at most `{high}`", **received))

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """(batch, time), None for what varies."""
        batch = self.max_batch if self.min_batch == self.max_batch else None
        return batch, self.max_time if self.min_time == self.max_time else None

    @property
    def batches(self) -> list[int]:
        """The numbers of rows to draw from."""
        return _few(self.min_batch, self.max_batch)

    @property
    def times(self) -> list[int]:
        """The numbers of positions to draw from."""
        return _few(self.min_time, self.max_time)

    @property
    def padded_times(self) -> list[int]:
        """The numbers of positions to draw from for events that are padded otherwise."""
        # A time axis that may vary may also be longer than any that a batch is drawn with: else a
        # batch of the longest could not be padded.
        more = 1 if keras.backend.backend() == "jax" else 2
        longest = self.max_time + more * (self.min_time < self.max_time)
        return [*self.times, *range(self.max_time + 1, longest + 1)]


def _few(low: int, high: int) -> list[int]:
    """Return all sizes of an axis, or the ends: JAX compiles every operation for each shape."""
    if keras.backend.backend() != "jax":
        return list(range(low, high + 1))
    return sorted({low, max(low, 1), high})


def masks(
    *,
    min_batch: int = 1,
    max_batch: int = 4,
    min_time: int = 1,
    max_time: int = 6,
    padding: str = "any",
) -> st.SearchStrategy[Array]:
    """Draw which positions are valid: bool (batch, time), True where valid.

    Rows without any valid position, and rows without any invalid one, are frequent.

    Args:
        min_batch: The smallest number of rows.
        max_batch: The largest number of rows.
        min_time: The smallest number of positions, 0 too.
        max_time: The largest number of positions.
        padding: Where invalid positions stand: `"right"`, `"left"`, or `"any"`, between events too.

    Example:
        >>> from hypothesis import given
        >>> @given(testing.masks(max_time=3, padding="right"))
        ... def test(mask):
        ...     assert mask.dtype == bool and mask.ndim == 2
        ...     assert not (~mask[:, :-1] & mask[:, 1:]).any()
        >>> test()
    """
    check_choice("padding", padding, PADDINGS)
    sizes = Sizes(min_batch, max_batch, min_time, max_time)
    times = st.integers(sizes.min_time, sizes.max_time)
    return _mask(st.integers(sizes.min_batch, sizes.max_batch), times, padding)


def draw_mask(sizes: Sizes, padding: str) -> st.SearchStrategy[Array]:
    """Draw a mask for a check, of few sizes where every other one costs time."""
    return _mask(st.sampled_from(sizes.batches), st.sampled_from(sizes.times), padding)


@st.composite
def _mask(
    draw: Draw, batches: st.SearchStrategy[int], times: st.SearchStrategy[int], padding: str
) -> Array:
    batch, time = draw(batches), draw(times)
    return np.array([draw(_rows(time, padding)) for _ in range(batch)], bool).reshape(batch, time)


@st.composite
def _rows(draw: Draw, time: int, padding: str) -> Array:
    """Draw one row of a mask, (time,)."""
    kinds = {"any": ["prefix", "suffix", "holes"], "right": ["prefix"], "left": ["suffix"]}
    kind = draw(st.sampled_from(["empty", "full", *kinds[padding]]))
    if kind == "holes":
        return np.array(draw(st.lists(st.booleans(), min_size=time, max_size=time)), bool)
    length = {"empty": 0, "full": time}.get(kind)
    length = draw(st.integers(0, time)) if length is None else length
    positions = np.arange(time)
    return positions >= time - length if kind == "suffix" else positions < length


@st.composite
def placements(draw: Draw, counts: Array, sizes: Sizes, padding: str) -> Array:
    """Draw another mask with `counts`, (batch,), valid positions in its rows."""
    most = int(counts.max(initial=0))
    time = draw(st.sampled_from([time for time in sizes.padded_times if time >= most]))
    positions = np.arange(time)
    rows = []
    for count in counts:
        if padding == "any":
            chosen = draw(st.permutations(range(time)))[:count]
            rows.append(np.isin(positions, chosen))
        else:
            rows.append(positions < count if padding == "right" else positions >= time - count)
    return np.array(rows, bool).reshape(len(counts), time)


@st.composite
def values(draw: Draw, shape: tuple[int, ...], low: int = -40, high: int = 40) -> Array:
    """Draw float32 tenths, by default from -4 to 4, all of them at once from one seed.

    Hypothesis's own arrays are mostly one repeated element, under which a wrong divisor or a wrong
    order does not show. Tenths tie and are 0 now and then. The simplest array counts 1, 2, 3, so
    that a shrunk counterexample can be read.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    if seed == 0:
        counting = np.arange(np.prod(shape)) % max(high // 10, 1) + 1
        return counting.reshape(shape).astype("float32")
    return tenths(shape, seed, low, high)


def tenths(shape: tuple[int, ...], seed: int, low: int = -40, high: int = 40) -> Array:
    return (np.random.default_rng(seed).integers(low, high + 1, shape) / 10).astype("float32")


@st.composite
def ids(draw: Draw, shape: tuple[int, ...], vocabulary: int) -> Array:
    """Draw integer ids from 1 to `vocabulary` - 1, int32."""
    seed = draw(st.integers(0, 2**32 - 1))
    if seed == 0:
        return (np.arange(np.prod(shape)) % (vocabulary - 1) + 1).reshape(shape).astype("int32")
    return np.random.default_rng(seed).integers(1, vocabulary, shape).astype("int32")


@st.composite
def padded_sequences(
    draw: Draw,
    *,
    dim: int = 4,
    min_batch: int = 1,
    max_batch: int = 4,
    min_time: int = 1,
    max_time: int = 6,
    padding: str = "any",
) -> tuple[Array, Array]:
    """Draw `(sequence, mask)`: float32 (batch, time, dim), 0 where invalid, and bool (batch, time).

    Args:
        draw: Hypothesis's; it is not an argument of the strategy.
        dim: The size of the last axis.
        min_batch: As in `masks`.
        max_batch: As in `masks`.
        min_time: As in `masks`.
        max_time: As in `masks`.
        padding: As in `masks`.

    Example:
        >>> from hypothesis import given
        >>> @given(testing.padded_sequences(dim=2))
        ... def test(drawn):
        ...     sequence, mask = drawn
        ...     assert sequence.shape == (*mask.shape, 2)
        ...     assert not sequence[~mask].any()
        >>> test()
    """
    check_integer("dim", dim, minimum=1)
    sizes = {"min_batch": min_batch, "max_batch": max_batch}
    mask = draw(masks(**sizes, min_time=min_time, max_time=max_time, padding=padding))
    sequence = draw(values((*mask.shape, dim)))
    return np.where(mask[..., None], sequence, np.float32(0)), mask


@st.composite
def histories(
    draw: Draw,
    *,
    vocabulary: int = 10,
    min_batch: int = 1,
    max_batch: int = 4,
    min_time: int = 1,
    max_time: int = 6,
    padding: str = "right",
) -> Array:
    """Draw padded ids: int32 (batch, time), from 1 to `vocabulary` - 1, and 0 where invalid.

    Args:
        draw: Hypothesis's; it is not an argument of the strategy.
        vocabulary: The number of ids, that of padding included: an `Embedding`'s `input_dim`.
        min_batch: As in `masks`.
        max_batch: As in `masks`.
        min_time: As in `masks`.
        max_time: As in `masks`.
        padding: As in `masks`.

    Example:
        >>> from hypothesis import given
        >>> @given(testing.histories(vocabulary=5))
        ... def test(history):
        ...     assert history.dtype == "int32" and history.max(initial=0) < 5
        >>> test()
    """
    check_integer("vocabulary", vocabulary, minimum=2)
    sizes = {"min_batch": min_batch, "max_batch": max_batch}
    mask = draw(masks(**sizes, min_time=min_time, max_time=max_time, padding=padding))
    return np.where(mask, draw(ids(mask.shape, vocabulary)), np.int32(0))


def garbage() -> st.SearchStrategy[float]:
    """Draw what may stand at an invalid position: NaN, infinities, the largest float32 numbers.

    Example:
        >>> from hypothesis import given
        >>> @given(testing.garbage())
        ... def test(x):
        ...     assert np.isnan(x) or abs(x) >= 2e9
        >>> test()
    """
    return st.sampled_from(GARBAGE)
