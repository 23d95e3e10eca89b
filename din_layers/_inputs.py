"""The inputs of the sequence layers, read by name from every form in which they may come."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from din_layers._backend import Tensor, check_kinds
from din_layers._checks import Shape, check_tensors, deprecate, message
from din_layers._history import History
from din_layers._old_lists import name_companions
from din_layers._sources import SOURCES, Id, read_history


@dataclass(frozen=True)
class Inputs:
    """What a sequence layer was called with.

    Attributes:
        sequence: The tensor with the time axis.
        tensors: By name, all that the layer computes with, the sequence among it.
        sources: By keyword, what tells which positions are valid.
        masks: The Keras masks of the history.
        other_masks: By name, the Keras masks of what stands before the sequence.
        hist_mask_value: The id of an invalid position.
    """

    sequence: Tensor
    tensors: dict[str, Tensor]
    sources: dict[str, Tensor]
    masks: list[Tensor]
    other_masks: dict[str, Tensor]
    hist_mask_value: Id

    @cached_property
    def history(self) -> History:
        """The history, of real tensors that were checked."""
        return read_history(self.sequence, self.sources, self.masks, self.hist_mask_value)


@dataclass(frozen=True)
class InputNames:
    """How a layer calls its inputs.

    Attributes:
        before: What stands before the sequence in a list, and is not part of the history.
        sequence: The tensor with the time axis.
        after: What stands behind it; between the two, lists of earlier versions had what tells
            valid positions.
        optional: What may be given by keyword beside them.
    """

    before: tuple[str, ...]
    sequence: str
    after: tuple[str, ...]
    optional: tuple[str, ...]

    @classmethod
    def of(cls, axes: Mapping[str, str], optional: tuple[str, ...]) -> "InputNames":
        """Return the names of inputs with these axes; the first with time is the sequence."""
        names = list(axes)
        place = next(i for i, name in enumerate(names) if "time" in axes[name])
        return cls(tuple(names[:place]), names[place], tuple(names[place + 1 :]), optional)

    @cached_property
    def required(self) -> tuple[str, ...]:
        """What the layer cannot do without, in the order of a list."""
        return (*self.before, self.sequence, *self.after)

    @cached_property
    def known(self) -> tuple[str, ...]:
        """All names, in the order of the old lists: flat inputs can be given back as one."""
        return (*self.before, self.sequence, *SOURCES, *self.after, *self.optional)

    def read(
        self, inputs: Any, mask: Any, keywords: Mapping[str, Any], ids_first: bool, warn: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return inputs and masks by name, from a tensor, a list or a dict, and keywords.

        Args:
            inputs: What the layer was called with.
            mask: The mask of the sequence, or one for each input, in the form of the inputs.
            keywords: What was given by keyword; None is nothing.
            ids_first: Whether ids are meant where an input of an old list could also be lengths.
            warn: Whether to warn where a shape, not its place, tells what an input is.
        """
        if isinstance(inputs, dict):
            named = {name: x for name, x in inputs.items() if x is not None}
        else:
            several = isinstance(inputs, list | tuple)
            named = self._from_list(inputs if several else [inputs], ids_first, warn)
        listed = list(named)  # whose masks may come as a list
        for name, x in keywords.items():
            if x is not None and name in named:
                expected = "must be given once, among the inputs or by keyword"
                raise ValueError(message(name, expected, inputs=list(named)))
            if x is not None:
                named[name] = x
        for name, x in named.items():
            check_tensors(name, x)
        # Before Keras converts the inputs: its errors do not say why it cannot.
        check_kinds(*keras.tree.flatten([*named.values(), mask]))
        self._check_names(named)
        named = OrderedDict((name, named[name]) for name in self.known if name in named)
        return named, _masks_by_name(mask, listed or list(self.required), named, self.sequence)

    def _from_list(self, inputs: Sequence[Any], ids_first: bool, warn: bool) -> dict[str, Any]:
        check_tensors("inputs", inputs)
        place, end = len(self.before), len(inputs) - len(self.after)
        if place >= end:
            return dict(zip(self.required, inputs, strict=False))
        companions = name_companions(inputs[place + 1 : end], inputs[place], ids_first)
        if warn and companions not in ([], ["ids" if ids_first else "lengths"]):
            expected = f"must say by keyword what is given beside them: `{companions[-1]}=`"
            deprecate("inputs", expected, [*self.before, self.sequence, *companions, *self.after])
        names = (*self.before, self.sequence, *companions, *self.after)
        return dict(zip(names, inputs, strict=True))

    def _check_names(self, named: Mapping[str, Any]) -> None:
        if not set(self.required) <= set(named) <= set(self.known):
            names = ", ".join(self.required)
            form = f"a list [{names}]" if len(self.required) > 1 else f"a {names}"
            known = ", ".join([*self.required, *SOURCES, *self.optional])
            expected = f"must be {form}, or a dict of {known}"
            raise ValueError(message("inputs", expected, inputs=list(named)))

    def shapes(self, input_shape: Any) -> dict[str, Shape]:
        """Return the shapes of what is required, from a shape or a list or dict of them."""
        if not isinstance(input_shape, dict):
            several = bool(input_shape) and isinstance(input_shape[0], list | tuple)
            listed = list(input_shape) if several else [input_shape]
            start, end = len(self.before) + 1, max(len(listed) - len(self.after), 1)
            input_shape = dict(zip(self.required, listed[:start] + listed[end:], strict=False))
        if not set(self.required) <= set(input_shape):
            expected = f"must be the shapes of {', '.join(self.required)}"
            raise ValueError(message("input_shape", expected, input_shape=input_shape))
        return {name: tuple(input_shape[name]) for name in self.required}

    def group(self, named: Mapping[str, Any], masks: Mapping[str, Any], invalid: Id) -> Inputs:
        """Sort named inputs and masks by what they are for."""
        no_history = (*self.before, *self.optional)
        masks = {name: x for name, x in masks.items() if x is not None}
        return Inputs(
            sequence=named[self.sequence],
            tensors={name: x for name, x in named.items() if name not in SOURCES},
            sources={name: x for name, x in named.items() if name in SOURCES},
            masks=[x for name, x in masks.items() if name not in no_history],
            other_masks={name: x for name, x in masks.items() if name in self.before},
            hist_mask_value=invalid,
        )


def _masks_by_name(
    mask: Any, listed: Sequence[str], named: Mapping[str, Any], sequence: str
) -> dict[str, Any]:
    if mask is None:
        return {}
    given = [x for x in keras.tree.flatten(mask) if x is not None]
    if not all(hasattr(x, "shape") for x in given):
        expected = "must be a tensor or an array, as `np.array(mask)`, or hold one for each input"
        raise TypeError(message("mask", expected, mask=mask))
    check_tensors("mask", given)
    if isinstance(mask, dict):
        if not set(mask) <= set(named):
            expected = f"must be one mask or hold masks of {', '.join(named)}"
            raise ValueError(message("mask", expected, masks=list(mask)))
        return mask
    if not isinstance(mask, list | tuple):
        return {sequence: mask}
    if len(mask) != len(listed):
        expected = "must be one mask or a list of one for each input"
        raise ValueError(message("mask", expected, masks=len(mask), inputs=len(listed)))
    return dict(zip(listed, mask, strict=True))
