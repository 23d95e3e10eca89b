"""Gradients of a function of tensors on each backend, with those of the variables that it reads."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers.testing._strategies import Array

Tensor = Any
Function = Callable[..., Tensor]
Variables = Sequence[Any] | None
Gradients = tuple[Array, list[Array], list[Array]]


def differentiate(
    function: Function,
    inputs: Sequence[Array],
    valid: Array,
    variables: Variables = None,
) -> Gradients:
    """Return the output, the gradients of `inputs`, and those of variables.

    The gradients are those of a sum of the outputs with another weight for each channel: errors
    that cancel in a plain sum show.

    Args:
        function: Called with one tensor for each of `inputs`.
        inputs: Floating-point arrays.
        valid: Which outputs count: boolean, of the leading axes of the output.
        variables: Keras variables, or None: the trainable ones that the function reads.
    """
    by_backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    return by_backend[keras.backend.backend()](function, inputs, valid, variables)


def gradients(
    function: Function, *inputs: Any, valid: Array | None = None
) -> tuple[list[Array], list[Array]]:
    """Return the gradients that `check_masking` and `check_ids` look at.

    They are the gradients of a sum of the outputs with a different weight for each channel. The two
    lists have one gradient for each floating-point array among the inputs, and one for each
    trainable variable that the function reads.

    Args:
        function: Called with the inputs, as tensors.
        *inputs: Arrays, or structures of arrays; the first axis of the first one is the batch.
        valid: Which outputs count: boolean, of their leading axes. By default all do.

    Example:
        >>> pool = din_layers.SequencePoolingLayer("mean")
        >>> sequence, mask = np.ones((1, 2, 1), "float32"), np.array([[True, False]])
        >>> of_inputs, of_weights = testing.gradients(lambda s, m: pool(s, mask=m), sequence, mask)
        >>> of_inputs[0].tolist()
        [[[1.0], [0.0]]]
    """
    flat = [np.asarray(x) for x in keras.tree.flatten(inputs)]
    floats = [place for place, x in enumerate(flat) if np.issubdtype(x.dtype, np.floating)]

    def called(*tensors: Tensor) -> Tensor:
        given = {**dict(enumerate(flat)), **dict(zip(floats, tensors, strict=True))}
        values = [ops.convert_to_tensor(given[place]) for place in range(len(flat))]
        return function(*keras.tree.pack_sequence_as(inputs, values))

    counted = np.ones(len(flat[0]), bool) if valid is None else np.asarray(valid)
    _, of_inputs, of_variables = differentiate(called, [flat[i] for i in floats], counted)
    return of_inputs, of_variables


def _loss(output: Tensor, valid: Array) -> Tensor:
    shape = tuple(output.shape)
    channel_axes = shape[valid.ndim :]
    channels = np.linspace(1, 2, int(np.prod(channel_axes))).reshape(channel_axes)
    wide = "float64" if "64" in str(output.dtype) else "float32"
    counts = valid.reshape(valid.shape + (1,) * (len(shape) - valid.ndim))
    terms = ops.cast(output, wide) * ops.cast(channels, wide)
    return ops.sum(ops.where(ops.convert_to_tensor(counts), terms, ops.zeros_like(terms)))


def to_numpy(x: Tensor) -> Array:
    """Return a tensor as an array that NumPy can compute with: bfloat16 as float32."""
    if "bfloat16" in str(x.dtype):
        x = ops.cast(x, "float32")
    return np.asarray(ops.convert_to_numpy(x))


def _arrays(gradients: Sequence[Tensor], like: Sequence[Any]) -> list[Array]:
    """Return gradients as arrays; what the output does not depend on has one of zeros."""
    return [
        np.zeros(tuple(x.shape), "float32") if g is None else to_numpy(ops.convert_to_tensor(g))
        for g, x in zip(gradients, like, strict=True)
    ]


def _tensorflow(
    function: Function, inputs: Sequence[Array], valid: Array, variables: Variables
) -> Gradients:
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = function(*tensors)
        loss = _loss(output, valid)
    if variables is None:  # the tape has seen those that were read, inside a `tf.function` too
        values = list(tape.watched_variables())
    else:
        values = [variable.value for variable in variables]
    of_inputs, of_variables = tape.gradient(loss, [tensors, values])
    return to_numpy(output), _arrays(of_inputs, tensors), _arrays(of_variables, values)


def _jax(
    function: Function, inputs: Sequence[Array], valid: Array, variables: Variables
) -> Gradients:
    import jax

    read = _variables_read(function, inputs) if variables is None else variables

    def loss(tensors: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope(state_mapping=list(zip(read, values, strict=True))):
            output = function(*tensors)
        return _loss(output, valid), output

    values = [variable.value for variable in read]
    tensors = [ops.convert_to_tensor(x) for x in inputs]
    differentiated = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, output), (of_inputs, of_variables) = differentiated(tensors, values)
    return to_numpy(output), _arrays(of_inputs, tensors), _arrays(of_variables, values)


def _torch(
    function: Function, inputs: Sequence[Array], valid: Array, variables: Variables
) -> Gradients:
    import torch

    read = _variables_read(function, inputs) if variables is None else variables
    values = [variable.value for variable in read]
    tensors = [ops.convert_to_tensor(x).detach().requires_grad_() for x in inputs]
    sources = [*tensors, *values]
    gradients: list[Any] = [None] * len(sources)
    with torch.enable_grad():  # also where the caller records none
        output = function(*tensors)
        loss = _loss(output, valid)
        if loss.requires_grad:
            gradients = list(torch.autograd.grad(loss, sources, allow_unused=True))
    arrays = _arrays(gradients, sources)
    return to_numpy(output.detach()), arrays[: len(inputs)], arrays[len(inputs) :]


class _Reads(keras.StatelessScope):
    """Notes the trainable variables that are read while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        if variable.trainable:
            self.variables[id(variable)] = variable
        return super().get_current_value(variable)


def _variables_read(function: Function, inputs: Sequence[Array]) -> list[Any]:
    with _Reads() as reads:
        function(*(ops.convert_to_tensor(x) for x in inputs))
    return list(reads.variables.values())
