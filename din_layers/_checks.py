"""Argument checks, and the form of every error.

It is the same everywhere: the argument in backticks, what is expected, then what came::

    `keys` must have shape (batch, time, dim). Received: keys.shape=(2, 4)

A wrong value or shape is a ValueError, a wrong type or dtype a TypeError.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

Shape = tuple[int | None, ...]
Sizes = Mapping[str, Any]  # by axis; None where it is not known, a symbol where JAX exports
LARGEST_SIZE = 2**31 - 2  # of an axis; some backends count in int32


def message(name: str, expected: str, **received: Any) -> str:
    """Word an error about the argument `name`.

    Args:
        name: The argument, without backticks.
        expected: What follows "`name` ", e.g. "must be a positive integer".
        **received: What came; a key ending in `_shape` is shown as `key.shape`, one ending in
            `_dtype` as `key.dtype`.
    """
    shown = ", ".join(f"{_attribute(key)}={value!r}" for key, value in received.items())
    return f"`{name}` {expected}. Received: {shown}"


def deprecate(name: str, expected: str, value: Any) -> None:
    """Warn of what goes on working; Python shows the same warning once."""
    warnings.warn(message(name, expected, **{name: value}), FutureWarning, stacklevel=2)


def _attribute(key: str) -> str:
    for attribute in ("shape", "dtype"):
        if key.endswith("_" + attribute):
            return f"{key.removesuffix('_' + attribute)}.{attribute}"
    return key


def check_bool(name: str, value: Any) -> bool:
    """Return `value` if it is a bool, else raise a TypeError."""
    if not isinstance(value, bool):
        raise TypeError(message(name, "must be a bool", **{name: value}))
    return value


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as a plain int from `minimum` to `maximum`."""
    if not _is_integer(value):
        raise TypeError(message(name, "must be an integer", **{name: value}))
    if (number := value.__index__()) < minimum:
        raise ValueError(message(name, f"must be at least {minimum}", **{name: value}))
    if maximum is not None and number > maximum:
        raise ValueError(message(name, f"must be at most {maximum}", **{name: value}))
    return int(number)


def _is_integer(value: Any) -> bool:
    return _is_scalar(value) and hasattr(value, "__index__")


def _is_scalar(value: Any) -> bool:
    """Tell a number from a bool, and from an array, which may be one number long."""
    return not isinstance(value, bool | np.bool_) and np.ndim(value) == 0


def check_id(name: str, value: Any) -> int | str:
    """Return `value` as a plain int or str."""
    if isinstance(value, str):
        return str(value)
    if not _is_integer(value):
        raise TypeError(message(name, "must be an integer or a string", **{name: value}))
    return int(value.__index__())


def check_number(name: str, value: Any, minimum: float, maximum: float) -> float:
    """Return `value` as a plain float between `minimum` and `maximum`."""
    real = hasattr(value, "__float__") and not isinstance(value, str | np.complexfloating)
    if not real or not _is_scalar(value):
        raise TypeError(message(name, "must be a number", **{name: value}))
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = float("inf") if value > 0 else -float("inf")
    if not minimum <= number <= maximum:
        expected = f"must lie between {minimum} and {maximum}"
        raise ValueError(message(name, expected, **{name: value}))
    return number


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`, else raise a ValueError that lists them."""
    # `1 in (True, ...)` holds in Python: compare the types too, so that only the choices pass.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        shown = ", ".join(repr(choice) for choice in choices)
        raise ValueError(message(name, f"must be one of {shown}", **{name: value}))
    return value


def check_normalization(value: Any, choices: Collection[Any]) -> Any:
    """Return the canonical form of a `weight_normalization`: the bools are names of two choices."""
    names = {True: "softmax", False: None}
    value = check_choice("weight_normalization", value, [*names, *choices])
    return names[value] if isinstance(value, bool) else value


def check_tensors(name: str, value: Any) -> None:
    """Check that a value, or all that is nested in it, is a tensor or an array."""
    if getattr(getattr(value, "shape", ...), "rank", 0) is not None and hasattr(value, "shape"):
        return
    leaves = keras.tree.flatten(value)
    if all(hasattr(x, "shape") for x in leaves):
        if any(getattr(x.shape, "rank", 0) is None for x in leaves):  # in a graph of TensorFlow
            raise ValueError(message(name, "must have a known rank", **{f"{name}_shape": None}))
        return
    missing = any(x is None for x in leaves)
    expected = "must hold no None" if missing else "must be a tensor or an array, or hold such"
    some = any(hasattr(x, "shape") for x in leaves)
    shown = [tuple(x.shape) if hasattr(x, "shape") else x for x in leaves] if some else value
    raise TypeError(message(name, expected, **{name: shown}))


def check_numeric(name: str, x: Any) -> None:
    """Check that a tensor holds real numbers, which TensorFlow itself finds out too late."""
    dtype = getattr(x.dtype, "name", str(x.dtype))
    if dtype == "string" or "complex" in dtype:
        expected = "must hold numbers" if dtype == "string" else "must hold real numbers"
        received = {f"{name}_dtype": dtype, f"{name}_shape": tuple(x.shape)}
        raise TypeError(message(name, expected, **received))


def check_floats(name: str, x: Any) -> None:
    """Check that a tensor holds floats: not a mask, nor ids, nor strings."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" not in dtype:
        received = {f"{name}_dtype": dtype, f"{name}_shape": tuple(x.shape)}
        raise TypeError(message(name, "must hold floats", **received))


def check_axes(**tensors: tuple[Shape, str]) -> Sizes:
    """Check the static shapes of tensors whose axes have names, and return the sizes of the axes.

    Args:
        **tensors: By argument name, the shape and its axes, e.g. `keys=(shape, "batch time dim")`,
            or several forms, `"batch time or batch time 1"`. Axes of the same name must agree
            wherever both sizes are known; an axis named by a number must have that size.

    Raises:
        ValueError: A rank or a size is wrong; the message shows every shape.
    """
    sizes: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, (shape, axes) in tensors.items():
        forms = [form.split() for form in axes.split(" or ")]
        fitting = [form for form in forms if _fits(form, shape, sizes)]
        if not fitting:
            received = {f"{name}_shape": shape for name, (shape, _) in tensors.items()}
            raise ValueError(message(name, _wanted(forms, shape, sizes, owners), **received))
        # (batch, 1, None) is rather "batch 1 time" than "batch time 1".
        for axis, size in zip(max(fitting, key=partial(_ones, shape)), shape, strict=True):
            if not axis.isdigit() and sizes.get(axis) is None:
                sizes[axis], owners[axis] = size, name
    return sizes


def _fits(form: Sequence[str], shape: Shape, sizes: Sizes) -> bool:
    return len(form) == len(shape) and not _clashes(form, shape, sizes)


def _clashes(form: Sequence[str], shape: Shape, sizes: Sizes) -> list[str]:
    """Return the axes whose sizes are known, and not what they must be."""
    wanted = [int(axis) if axis.isdigit() else sizes.get(axis) for axis in form]
    return [
        axis
        for axis, size, other in zip(form, shape, wanted, strict=False)
        if size is not None and other is not None and size != other
    ]


def _ones(shape: Shape, form: Sequence[str]) -> int:
    return sum(axis == str(size) for axis, size in zip(form, shape, strict=True))


def _wanted(
    forms: Sequence[Sequence[str]], shape: Shape, sizes: Sizes, owners: Mapping[str, str]
) -> str:
    *shown, last = [f"({', '.join(form)}{',' * (len(form) == 1)})" for form in forms]
    wanted = f"must have shape {', '.join(shown)}{' or ' * bool(shown)}{last}"
    if len(forms) == 1 and len(forms[0]) == len(shape):
        named = [axis for axis in _clashes(forms[0], shape, sizes) if axis in owners]
        wanted += "".join(f" with the `{axis}` of `{owners[axis]}`" for axis in named[:1])
    return wanted


def check_ragged(name: str, x: Any, sequence: Any = None) -> None:
    """Check that ragged `x` is ragged in time only, and has the rows of a ragged sequence.

    Beside nested sequences, or as one, it may be ragged in both axes, of time and tags.
    """
    ragged_axes = len((x if sequence is None else sequence).shape) - 2
    if hasattr(x, "row_splits") and x.ragged_rank > ragged_axes:
        expected = "must be ragged in its time axis only"
        if ragged_axes > 1:
            expected = "must be ragged in its axes of time and tags only"
        received = {f"{name}_shape": tuple(x.shape), "ragged_rank": x.ragged_rank}
        raise ValueError(message(name, expected, **received))
    if hasattr(x, "row_splits") and hasattr(sequence, "row_splits"):
        _check_rows(name, x, sequence)


def _check_rows(name: str, x: Any, sequence: Any) -> None:
    """Compare the lengths of rows where they are known: not in a graph."""
    import tensorflow as tf  # ragged tensors are TensorFlow's

    if not tf.executing_eagerly():
        return
    if x.ragged_rank > 1 and sequence.ragged_rank > 1:
        _check_rows(name, x.values, sequence.values)
    if x.row_splits is sequence.row_splits:
        return
    lengths, expected = (t.row_lengths().numpy().tolist() for t in (x, sequence))
    if lengths != expected:
        wanted = f"must have rows of lengths {expected}, like the sequence"
        raise ValueError(message(name, wanted, row_lengths=lengths))
