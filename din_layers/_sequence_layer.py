"""What the layers that read a history share: their inputs, their checks, the masks they hand on."""

import inspect
import textwrap
from collections import OrderedDict
from typing import Any, ClassVar

import keras

from din_layers._backend import Tensor, is_ragged
from din_layers._checks import (
    Shape,
    Sizes,
    check_axes,
    check_bool,
    check_id,
    check_numeric,
    check_ragged,
    deprecate,
    message,
)
from din_layers._history import is_nested
from din_layers._inputs import InputNames, Inputs
from din_layers._sources import SOURCES, check_mask, check_sources
from din_layers._valid_positions import valid_positions


class SequenceLayer(keras.Layer):
    """A layer that reads a history: which of its positions are events, and which are padding.

    A subclass declares the axes of its inputs and of its output, and computes. This class reads
    the inputs in every form, checks them, tells the shape of the output, and hands the mask on. A
    subclass's docstring has `{validity}` where its call arguments belong that are described here:
    the docstrings of `SOURCES` and the text below.

    Keras gives `compute_mask`, and the file of a functional model, the first argument alone. So
    the keywords become part of it: `layer([a, b], ids=c)` is recorded as one dict,
    `{"a": a, "b": b, "ids": c}`.

    Args:
        hist_mask_value: The id of an invalid position.
        mask_required: Whether a dense sequence that comes with nothing to tell its padding is an
            error. Before 0.4 it was called `supports_masking`; that name warns.
        **kwargs: As in every Keras layer.

    Call arguments:
        mask: The Keras mask, boolean (batch, time). Keras passes the one that
            `Embedding(mask_zero=True)` and `Masking` attach to an input.

    Inputs and keywords may also come as one dict. A position counts as an event only if every
    source that you pass agrees; if you pass none, every position does. A `tf.RaggedTensor` has no
    padding. Invalid positions may hold anything, NaN included, and get zero gradients.
    """

    #: What the layer is called on, in the order of a list, and the axes of each.
    axes: ClassVar[dict[str, str]] = {"sequence": "batch time dim"}
    #: What else may be given by keyword.
    optional: ClassVar[tuple[str, ...]] = ()
    #: The axes of the output; a number is a size.
    output_axes: str
    #: Whether there are weights, whose shapes follow from `dim`.
    has_weights: ClassVar[bool] = False
    input_names: ClassVar[InputNames]
    #: Whether ids are meant where an input of an old list could also be lengths.
    ids_first: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.input_names = InputNames.of(cls.axes, cls.optional)
        if cls.__doc__ and SequenceLayer.__doc__:  # `python -OO` has none
            mask = SequenceLayer.__doc__.partition("Call arguments:")[2].strip()
            validity = f"\n{' ' * 8}".join([*map(_call_argument, SOURCES), mask])
            cls.__doc__ = cls.__doc__.replace("{validity}", validity)

    def __init__(
        self, hist_mask_value: int | str = 0, mask_required: bool = False, **kwargs: Any
    ) -> None:
        # Keras's attribute of that name is True: the layers read masks in any case.
        if "supports_masking" in kwargs:
            mask_required = kwargs.pop("supports_masking")
            deprecate("supports_masking", "is called `mask_required` now", mask_required)
        super().__init__(**kwargs)
        self._out_of_config = False
        self.hist_mask_value = check_id("hist_mask_value", hist_mask_value)
        self.mask_required = check_bool("mask_required", mask_required)
        self.supports_masking = True

    def _keywords(self) -> tuple[str, ...]:
        """Return what is folded into the first argument when it is given by keyword."""
        return self.input_names.known

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, see the class."""
        if args:
            kwargs |= dict(zip([*inspect.signature(self.call).parameters][1:], args, strict=False))
        keywords = {name: kwargs.pop(name) for name in self._keywords() if name in kwargs}
        # None by itself, Keras would record the mask it finds, and what made it, in the model.
        mask = kwargs.setdefault("mask", None)
        named, masks = self._named({} if inputs is None else inputs, mask, keywords)
        alone = len(named) == 1
        if mask is not None:
            kwargs["mask"] = masks.get(self.input_names.sequence) if alone else masks
        return super().__call__(named[self.input_names.sequence] if alone else named, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        if "supports_masking" in config:  # in a file of a version before 0.4
            config = {"mask_required": config["supports_masking"], **config}
            del config["supports_masking"]
        layer = super().from_config(config)
        layer._out_of_config = True
        return layer

    def _named(
        self, inputs: Any, mask: Any, keywords: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        # Who says what the id of an invalid position is gives ids.
        ids_first = self.ids_first or self.hist_mask_value != 0
        return self.input_names.read(inputs, mask, keywords, ids_first, not self._out_of_config)

    def _open(self, inputs: Any, mask: Any, **more: Any) -> Inputs:
        """Return the inputs by name; not read again where `__call__` made the dict."""
        read = isinstance(inputs, OrderedDict) and isinstance(mask, dict | None) and not more
        named, masks = (inputs, mask or {}) if read else self._named(inputs, mask, more)
        return self.input_names.group(named, masks, self.hist_mask_value)

    def _read(self, inputs: Any, mask: Any, **more: Any) -> Inputs:
        """Return the inputs by name, or raise an error that says what is wrong with them."""
        given = self._open(inputs, mask, **more)
        self._check(given)
        return given

    def _check(self, given: Inputs) -> None:
        """Check what is known of the inputs before anything is computed."""
        name, sequence = self.input_names.sequence, given.sequence
        shapes = {name: tuple(given.tensors[name].shape) for name in self.axes}
        self._sizes(shapes)
        for name in self.axes:
            self._check_tensor(name, given.tensors[name], sequence)
        check_sources(name, sequence, given.sources, given.masks, self.hist_mask_value)
        for name, mask in given.other_masks.items():
            axes = self.axes[name]
            check_mask(mask, axes.rpartition(" ")[0], {name: (shapes[name], axes)})
        if self.mask_required and not (given.masks or given.sources or is_ragged(sequence)):
            raise ValueError(_missing_mask(self.input_names.sequence, sequence))

    def _check_tensor(self, name: str, x: Tensor, sequence: Tensor) -> None:
        """Check what an input holds, and whether it may be ragged."""
        check_numeric(name, x)
        if is_ragged(x) and not ("time" in self.axes[name] and is_ragged(sequence)):
            expected = "must be dense"
            if "time" in self.axes[name]:
                expected += f" where `{self.input_names.sequence}` is"
            raise TypeError(message(name, expected, **{f"{name}_shape": tuple(x.shape)}))
        check_ragged(name, x, None if x is sequence else sequence)

    # What is known before anything is computed --------------------------------------------------

    def _sizes(self, shapes: dict[str, Shape]) -> Sizes:
        """Check the shapes of the inputs, and return the sizes of their axes."""
        sizes = check_axes(**{name: (shapes[name], axes) for name, axes in self.axes.items()})
        if self.has_weights:
            self._check_dim({n: shape for n, shape in shapes.items() if "dim" in self.axes[n]})
        return sizes

    def _check_dim(self, shapes: dict[str, Shape]) -> None:
        """Check that `dim` is known, and that which the layer was built with."""
        received = {f"{name}_shape": shape for name, shape in shapes.items()}
        for name, (*_, dim) in reversed(shapes.items()):  # of two, rather the sequence
            if dim is None:
                raise ValueError(message(name, "must have a known `dim`", **received))
            if self.built and dim != self._dim:
                expected = f"must have the `dim` that the layer was built with, {self._dim}"
                raise ValueError(message(name, expected, **received))

    def _keeps_time(self, sequence: Tensor) -> bool:
        """Tell whether the output has the time axis of the sequence; then its mask goes on."""
        return is_nested(sequence) or "time" in self.output_axes

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        """Return the symbolic output."""
        return self._output_spec(self._read(inputs, mask))

    def _output_spec(self, given: Inputs) -> keras.KerasTensor:
        shape = self._output_shape({name: tuple(given.tensors[name].shape) for name in self.axes})
        ragged = self._keeps_time(given.sequence) and is_ragged(given.sequence)
        return keras.KerasTensor(shape, self.compute_dtype, ragged=ragged)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output, from a shape or a list or dict of them."""
        return self._output_shape(self.input_names.shapes(input_shape))

    def _output_shape(self, shapes: dict[str, Shape]) -> Shape:
        sizes = self._sizes(shapes)
        # Each of nested events is pooled by itself.
        axes = "batch time dim" if "tags" in sizes else self.output_axes
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in axes.split())

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of the output: which positions are valid, if it still has them."""
        given = self._open(inputs, previous_mask)
        if not self._keeps_time(given.sequence):
            return None
        return valid_positions(given.sequence, given.sources, given.masks, self.hist_mask_value)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hist_mask_value": self.hist_mask_value,
            "mask_required": self.mask_required,
        }


def _call_argument(keyword: str) -> str:
    text = " ".join((SOURCES[keyword].__doc__ or "").split())
    return textwrap.fill(f"{keyword}: {text}", width=88, subsequent_indent=" " * 12)


def _missing_mask(name: str, sequence: Tensor) -> str:
    expected = (
        "must be given, or `lengths` or `ids`, because of `mask_required=True`. Keras silently "
        "loses a mask in `x * 2`, slicing and `keras.ops.concatenate`, in `keras.layers.Add` and "
        "`Concatenate` if one input has none, and, from Keras 3.16 on, in an RNN. Pass `ids=` or "
        "`lengths=`"
    )
    return message("mask", expected, mask=None, **{f"{name}_shape": tuple(sequence.shape)})
