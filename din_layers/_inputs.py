"""The inputs of the sequence layers, read by name from every form in which they may come."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from din_layers._backend import Tensor
from din_layers._checks import Shape, check_tensors, message
from din_layers._old_lists import name_companions
from din_layers._sources import SOURCES


@dataclass(frozen=True)
class Inputs:
    """What a sequence layer was called with.

    Attributes:
        sequence: The tensor with the time axis.
        tensors: By name, all that the layer computes with, the sequence among it.
        sources: By keyword, what tells which positions are valid.
        masks: The Keras masks of the history.
        other_masks: By name, the Keras masks of what stands before the sequence.
    """

    sequence: Tensor
    tensors: dict[str, Tensor]
    sources: dict[str, Tensor]
    masks: list[Tensor]
    other_masks: dict[str, Tensor]


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

    before: tuple[str, ...] = ()
    sequence: str = "sequence"
    after: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """What the layer cannot do without, in the order of a list."""
        return (*self.before, self.sequence, *self.after)

    def read(
        self, inputs: Any, mask: Any, keywords: Mapping[str, Any], ids_first: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return inputs and masks by name, from a tensor, a list or a dict, and keywords.

        Args:
            inputs: What the layer was called with.
            mask: The mask of the sequence, or one for each input, in the form of the inputs.
            keywords: What was given by keyword; None is nothing.
            ids_first: Whether ids are meant where an input of an old list could also be lengths.
        """
        if isinstance(inputs, dict):
            named = {name: x for name, x in inputs.items() if x is not None}
        else:
            several = isinstance(inputs, list | tuple)
            named = self._from_list(inputs if several else [inputs], ids_first)
        masks = _masks_by_name(mask, list(named), self.sequence)
        for name, x in keywords.items():
            if x is not None and name in named:
                expected = "must be given once, among the inputs or by keyword"
                raise ValueError(message(name, expected, inputs=list(named)))
            if x is not None:
                named[name] = x
        for name, x in named.items():
            check_tensors(name, x)
        self._check_names(named)
        # The order of the old lists: `layer.input`, which is flat, can be given back as one.
        order = (*self.before, self.sequence, *SOURCES, *self.after, *self.optional)
        return OrderedDict((name, named[name]) for name in order if name in named), masks

    def _from_list(self, inputs: Sequence[Any], ids_first: bool) -> dict[str, Any]:
        check_tensors("inputs", inputs)
        place, end = len(self.before), len(inputs) - len(self.after)
        if place >= end:
            return dict(zip(self.required, inputs, strict=False))
        companions = name_companions(inputs[place + 1 : end], inputs[place], ids_first)
        names = (*self.before, self.sequence, *companions, *self.after)
        return dict(zip(names, inputs, strict=True))

    def _check_names(self, named: Mapping[str, Any]) -> None:
        known = (*self.required, *SOURCES, *self.optional)
        if not set(self.required) <= set(named) <= set(known):
            names = ", ".join(self.required)
            form = f"a list [{names}]" if len(self.required) > 1 else f"a {names}"
            expected = f"must be {form}, or a dict of {', '.join(known)}"
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

    def group(self, named: Mapping[str, Any], masks: Mapping[str, Any]) -> Inputs:
        """Sort named inputs and masks by what they are for."""
        no_history = (*self.before, *self.optional)
        masks = {name: x for name, x in masks.items() if x is not None}
        return Inputs(
            sequence=named[self.sequence],
            tensors={name: x for name, x in named.items() if name not in SOURCES},
            sources={name: x for name, x in named.items() if name in SOURCES},
            masks=[x for name, x in masks.items() if name not in no_history],
            other_masks={name: x for name, x in masks.items() if name in self.before},
        )


def _masks_by_name(mask: Any, names: Sequence[str], sequence: str) -> dict[str, Any]:
    given = [x for x in keras.tree.flatten(mask) if x is not None]
    if not all(hasattr(x, "shape") for x in given):
        expected = "must be a tensor or an array, as `np.array(mask)`, or hold one for each input"
        raise TypeError(message("mask", expected, mask=mask))
    check_tensors("mask", given)
    if isinstance(mask, dict):
        if not set(mask) <= set(names):
            expected = f"must be one mask or hold masks of {', '.join(names)}"
            raise ValueError(message("mask", expected, masks=list(mask)))
        return mask
    if not isinstance(mask, list | tuple):
        return {} if mask is None else {sequence: mask}
    if len(mask) != len(names):
        expected = "must be one mask or a list of one for each input"
        raise ValueError(message("mask", expected, masks=len(mask), inputs=len(names)))
    return dict(zip(names, mask, strict=True))
