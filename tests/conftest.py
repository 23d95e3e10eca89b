"""Starts TensorFlow without a GPU; chooses how long to search and what other backends run.

`KERAS_BACKEND=jax pytest` and `KERAS_BACKEND=torch pytest` run what does not need TensorFlow.
"""

import contextlib
import inspect
import os

# Before TensorFlow is imported: the tests compare numbers, and must give the same everywhere.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from cases import BACKEND
from hypothesis import HealthCheck, Phase, settings

# An example may trace or compile a graph, which says nothing about the law: no deadlines.
COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("default", max_examples=10, derandomize=True, **COMMON)
settings.register_profile("brief", max_examples=3, derandomize=True, **COMMON)
# That a mutant fails is enough; the smallest failure takes long to find.
settings.register_profile(
    "mutation", max_examples=3, derandomize=True, phases=[Phase.explicit, Phase.generate], **COMMON
)
settings.register_profile("deep", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Seed Keras, and undo what a test does to the global dtype policy."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    with _arrays():
        yield
    keras.config.set_dtype_policy(policy)


def _arrays():
    """Let NumPy read torch's tensors, which it does not where gradients are recorded."""
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def pytest_collection_modifyitems(items):
    """Skip, on other backends, the tests that say in their own code that they need TensorFlow."""
    if BACKEND == "tensorflow":
        return
    reason = "uses what only TensorFlow has: strings, ragged tensors, its graphs or gradient tape"
    for item in items:
        if item.get_closest_marker("skipif"):
            continue  # it says itself where it runs
        module, code = inspect.getmodule(item.function).__name__, inspect.getsource(item.function)
        if module.startswith(TENSORFLOW_MODULES) or "tf." in code or "skip_padding" in code:
            item.add_marker(pytest.mark.skip(reason=reason))


# Lookups compute with TensorFlow on every backend, which their own tests show in processes of their
# own; the examples, the page of results and the exports are TensorFlow's.
TENSORFLOW_MODULES = (
    "test_benchmarks",
    "test_docs",
    "test_examples",
    "test_export",
    "test_faults",
    "test_gauc",
    "test_hash",
    "test_id",
    "test_vocab",
)
