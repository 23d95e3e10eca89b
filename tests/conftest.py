"""Starts TensorFlow without a GPU; chooses how long to search and what other backends run.

`KERAS_BACKEND=jax pytest` and `KERAS_BACKEND=torch pytest` run all that is not TensorFlow's alone.
"""

import os

# Before TensorFlow is imported: the tests compare numbers, and must give the same everywhere.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from helpers.backend import needs_tensorflow, recording
from hypothesis import HealthCheck, Phase, settings

# An example may trace or compile a graph, which says nothing about the law: no deadlines.
COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("default", max_examples=10, derandomize=True, **COMMON)
settings.register_profile("brief", max_examples=2, derandomize=True, **COMMON)
# That a mutant fails is enough; the smallest failure takes long to find.
settings.register_profile(
    "mutation", max_examples=3, derandomize=True, phases=[Phase.explicit, Phase.generate], **COMMON
)
settings.register_profile("deep", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _fresh_keras_state(monkeypatch):
    """Seed Keras, and undo what a test does to the global dtype policy."""
    # The batches of the tests are small: several blocks of events all the same.
    monkeypatch.setattr("din_layers._backend._BLOCK", 5)
    monkeypatch.setattr("din_layers._backend._SMALL", 20)  # some are small, some are not
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    with recording(on=False):
        yield
    keras.config.set_dtype_policy(policy)


# Graphs of TensorFlow, and what is written for it.
TENSORFLOW_FOLDERS = {"examples", "project"}
SLOW_FOLDERS = {"benchmarks", "export"}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Mark whole folders: those that are about TensorFlow, and those that are slow."""
    for item in items:
        if item.path.parent.name in TENSORFLOW_FOLDERS:
            item.add_marker(needs_tensorflow)
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
