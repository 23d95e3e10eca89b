"""What tells which positions of a sequence are valid, turned into a history.

That is Keras's masks, and the keywords of every sequence layer. A new keyword is a class below and
its line in `SOURCES`.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor, is_ragged
from din_layers._checks import Shape, check_axes, check_ragged, message
from din_layers._history import History, history_of, is_nested
from din_layers._tensors import before

Id = int | str
Sources = Mapping[str, Tensor]
Axes = Mapping[str, tuple[Shape, str]]


class Source(abc.ABC):
    """A way to tell which positions of a sequence are valid; users read the docstring of each."""

    @abc.abstractmethod
    def check(self, x: Tensor, axes: Axes, hist_mask_value: Id) -> None:
        """Raise an error where a shape or a dtype is wrong.

        Args:
            x: The tensor that tells it.
            axes: The name of the sequence, its shape and its axes, as `check_axes` wants them.
            hist_mask_value: The id of an invalid position.
        """

    @abc.abstractmethod
    def restrict(self, history: History, x: Tensor, hist_mask_value: Id) -> None:
        """Make the positions invalid that `x` says are."""


class Lengths(Source):
    """Integers (batch,) or (batch, 1): the first so many positions of each row are valid.

    More than `time` counts as `time`, less than 0 as 0.
    """

    def check(self, x: Tensor, axes: Axes, hist_mask_value: Id) -> None:
        row, _ = _position(axes).rsplit(maxsplit=1)
        check_axes(**axes, lengths=(tuple(x.shape), f"{row} or {row} 1"))
        _check_integers("lengths", x)

    def restrict(self, history: History, x: Tensor, hist_mask_value: Id) -> None:
        lengths = history.per_row("lengths", x)
        history.restrict_aligned(before(history.positions(), lengths))


class Ids(Source):
    """Integers or strings (batch, time), valid where they differ from `hist_mask_value`."""

    def check(self, x: Tensor, axes: Axes, hist_mask_value: Id) -> None:
        check_axes(**axes, ids=(tuple(x.shape), _position(axes)))
        if not isinstance(hist_mask_value, str):
            _check_integers("ids", x)
            bounds = np.iinfo(_dtype(x))
            if not bounds.min <= hist_mask_value <= bounds.max:
                expected = f"must be an id that {_dtype(x)} can hold"
                received = {"hist_mask_value": hist_mask_value, "ids_dtype": _dtype(x)}
                raise ValueError(message("hist_mask_value", expected, **received))
        elif not _backend.is_text(x):
            received = {"ids_dtype": _dtype(x), "ids_shape": tuple(x.shape)}
            raise TypeError(message("ids", "must be strings like `hist_mask_value`", **received))

    def restrict(self, history: History, x: Tensor, hist_mask_value: Id) -> None:
        valid = _differ(x.values if is_ragged(x) else x, hist_mask_value)
        history.restrict("ids", x.with_values(valid) if is_ragged(x) else valid)


#: By keyword; in this order they stand in the one dict that a layer is called with.
SOURCES: dict[str, Source] = {"lengths": Lengths(), "ids": Ids()}


def check_sources(
    name: str, sequence: Tensor, sources: Sources, masks: Sequence[Tensor], hist_mask_value: Id
) -> None:
    """Check all that tells which positions are valid of the sequence that is called `name`."""
    names = "batch time tags dim" if is_nested(sequence) else "batch time dim"
    axes = {name: (tuple(sequence.shape), names)}
    for x in masks:
        check_mask(x, _position(axes), axes)
        check_ragged("mask", x, sequence)
    for keyword, x in sources.items():
        SOURCES[keyword].check(x, axes, hist_mask_value)
        check_ragged(keyword, x, sequence)


def check_mask(x: Tensor, own: str, axes: Axes) -> None:
    """Check a Keras mask, whose own axes are those of what it belongs to."""
    check_axes(**axes, mask=(tuple(x.shape), own))
    if _dtype(x) != "bool" and "int" not in _dtype(x):  # floats may be meant to be added
        received = {"mask_dtype": _dtype(x), "mask_shape": tuple(x.shape)}
        raise TypeError(message("mask", "must be boolean", **received))


def read_history(
    sequence: Tensor, sources: Sources, masks: Sequence[Tensor], hist_mask_value: Id
) -> History:
    """Return the history of real tensors that passed `check_sources`."""
    history = history_of(sequence)
    for x in masks:
        history.restrict("mask", x)
    for keyword, x in sources.items():
        SOURCES[keyword].restrict(history, x, hist_mask_value)
    return history


def _position(axes: Axes) -> str:
    """Return the axes of what each position of a sequence has: all but `dim`."""
    ((_, names),) = axes.values()
    return names.removesuffix(" dim")


def _differ(ids: Tensor, value: Id) -> Tensor:
    if isinstance(value, str):
        return _backend.tensorflow().not_equal(ids, value)
    return ops.not_equal(ids, ops.cast(value, ids.dtype))


def _check_integers(name: str, x: Tensor) -> None:
    dtype = _dtype(x)
    if "int" in dtype:
        return
    hint = {"bool": " (a mask goes into `mask`)"}.get(dtype, "")
    if dtype == "string" and name == "ids":
        hint = ", or strings if `hist_mask_value` is one"
    received: dict[str, Any] = {f"{name}_dtype": dtype, f"{name}_shape": tuple(x.shape)}
    raise TypeError(message(name, "must be integers" + hint, **received))


def _dtype(x: Tensor) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))
