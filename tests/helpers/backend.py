"""Keras's backend under the tests: what only TensorFlow has, where PyTorch records gradients."""

import contextlib

import keras
import pytest

BACKEND = keras.backend.backend()

needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason="TensorFlow's alone: strings and ragged tensors in a model, its graphs",
)


def recording(on=True):
    """Let PyTorch record gradients or not: not while NumPy reads tensors, but where a model trains.

    The tests begin without; on other backends this does nothing.
    """
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.set_grad_enabled(on)
