"""Starts TensorFlow without a GPU and chooses how long Hypothesis searches."""

import os

# Before TensorFlow is imported: the tests compare numbers, and must give the same everywhere.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from hypothesis import HealthCheck, settings

# An example may trace or compile a graph, which says nothing about the law: no deadlines.
COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("default", max_examples=10, derandomize=True, **COMMON)
settings.register_profile("deep", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Seed Keras, and undo what a test does to the global dtype policy."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
