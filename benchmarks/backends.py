"""What differs between backends: how a forward pass and a training step run, as in `fit`.

TensorFlow runs a plain graph or XLA, JAX runs under `jit`, PyTorch eagerly.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops
from report import BACKENDS as NAMES

Run, Forward = Callable[[], Any], Callable[..., Any]
Tensors = Sequence[Any]

BACKEND = keras.backend.backend()
NAME = dict(zip(("tensorflow", "jax", "torch"), NAMES, strict=True))[BACKEND]
HOW = dict(zip(NAMES, ("in a plain graph", "under `jax.jit`", "eagerly"), strict=True))[NAME]
NAIVE = "naive"
PADDED, SKIPPING, DEFAULT = "padded", "skipping", "default"  # False, True, None of `skip_padding`
XLA, RAGGED = ", XLA", "ragged"  # TensorFlow alone has these
CHOICES = (PADDED, SKIPPING, DEFAULT)
# All ways, and those of the sections that are about something else.
ALL_WAYS, WAYS = CHOICES, (PADDED, DEFAULT)
if BACKEND == "tensorflow":
    ALL_WAYS = (*CHOICES, *(way + XLA for way in CHOICES), RAGGED)
    WAYS = (PADDED, DEFAULT, DEFAULT + XLA, RAGGED)


def skip_padding(way: str) -> bool | None:
    """Return what the layer's argument is; of ragged input there is nothing to skip."""
    return {PADDED: False, SKIPPING: True}.get(way.removesuffix(XLA))


def device() -> str:
    """Return what the backend computes on."""
    if BACKEND == "jax":
        import jax

        gpus = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    elif BACKEND == "torch":
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    else:
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        gpus = [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in found]
    return ", ".join(gpus) or f"{os.cpu_count()} cores"


def _loss(result: Any) -> Any:
    return ops.sum(ops.square(result))


def _floats(inputs: Tensors) -> list[Any]:
    floats = [getattr(x, "flat_values", x) for x in inputs]
    return [x for x in floats if keras.backend.standardize_dtype(x.dtype) == "float32"]


def _tensorflow(way: str, call: Forward, weights: Tensors, inputs: Tensors, gradients: bool) -> Run:
    import tensorflow as tf

    of = [w.value for w in weights if w.trainable] + _floats(inputs)

    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(_floats(inputs))
            loss = _loss(call(*inputs))
        found = tape.gradient(loss, of)
        # Those of the embedding stay sparse, as in `fit`.
        return [g.values if isinstance(g, tf.IndexedSlices) else g for g in found]

    run = step if gradients else lambda: call(*inputs)
    graph = tf.function(run, jit_compile=way.endswith(XLA), autograph=False)
    return _waiting(graph, _tensorflow_wait())


def _tensorflow_wait() -> Run | None:
    import tensorflow as tf

    has_gpu = tf.config.list_physical_devices("GPU")
    return tf.test.experimental.sync_devices if has_gpu else None


def _jax(way: str, call: Forward, weights: Tensors, inputs: Tensors, gradients: bool) -> Run:
    import jax

    trained = [w for w in weights if w.trainable]
    state = [w for w in weights if not w.trainable]

    def forward(values: Tensors, inputs: Tensors, state_values: Tensors) -> Any:
        mapping = [*zip(trained, values, strict=True), *zip(state, state_values, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            result = call(*inputs)
        return result, [scope.get_current_value(w) for w in state]

    def loss(*arguments: Any) -> Any:
        result, updated = forward(*arguments)
        return _loss(result), updated

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
    run = jax.jit(gradient if gradients else forward)
    arguments = [w.value for w in trained], list(inputs), [w.value for w in state]
    return lambda: jax.block_until_ready(run(*arguments))[0]


def _torch(way: str, call: Forward, weights: Tensors, inputs: Tensors, gradients: bool) -> Run:
    import torch

    floats = _floats(inputs)
    of = [w.value for w in weights if w.trainable] + floats

    def forward() -> Any:
        with torch.no_grad():
            return call(*inputs)

    def step() -> Any:
        for x in floats:
            x.requires_grad_()
        return torch.autograd.grad(_loss(call(*inputs)), of)

    wait = torch.cuda.synchronize if torch.cuda.is_available() else None
    return _waiting(step if gradients else forward, wait)


def _waiting(run: Run, wait: Run | None) -> Run:
    """Return what also waits for the GPU, if there is one."""

    def both() -> Any:
        result = run()
        wait()
        return result

    return both if wait else run


_compiled = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
# Of a way, a function, the weights that it reads, and its inputs: what runs the function, and what
# computes the gradients of the weights and of the inputs that are floats.
forward_pass = partial(_compiled, gradients=False)
training_step = partial(_compiled, gradients=True)


def eager(call: Forward, inputs: Tensors) -> Run:
    """Return what a user's own call runs where no gradients are asked for."""
    if BACKEND == "tensorflow":
        return _waiting(lambda: call(*inputs), _tensorflow_wait())
    if BACKEND == "jax":
        import jax

        return lambda: jax.block_until_ready(call(*inputs))
    return forward_pass("", call, [], inputs)
