"""A model written on one backend gives the same numbers, and goes on training, on the others."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import BACKEND
from helpers.models import click_model, numeric_inputs

import din_layers
from din_layers.testing._fresh_process import run_fresh

BACKENDS = ("tensorflow", "jax", "torch")

CONTINUE = """
import sys
import numpy as np
import din_layers
din_layers.VocabLayer(["a"]), din_layers.HashLayer(9)  # which need TensorFlow when they are called
loaded = sorted({"tensorflow", "jax", "torch"} & set(sys.modules))
import keras
assert keras.backend.backend() == sys.argv[2]
model = keras.models.load_model(sys.argv[1] + "/model.keras")
with np.load(sys.argv[1] + "/data.npz") as data:
    inputs = [data[f"input_{i}"] for i in range(len(model.inputs))]
    # Sums in another order, through a softmax and a Dice: a few units of float32.
    np.testing.assert_allclose(model.predict(inputs, verbose=0), data["output"], atol=2e-5)
model.compile("adam", "binary_crossentropy")
before = model.get_weights()
history = model.fit(inputs, np.ones(len(inputs[0])), epochs=2, verbose=0)
assert history.history["loss"][1] < history.history["loss"][0]
assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
model.save(sys.argv[1] + "/trained.keras")
print(" ".join(loaded))
"""


def needs(backend):
    return pytest.mark.skipif(
        importlib.util.find_spec(backend) is None,
        reason=f"{backend} is not installed: pip install 'din-layers[{backend}]'",
    )


# Keras saves that JAX compiled the model; TensorFlow then finds that `skip_padding` cannot be.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model doesn't support `jit_compile=True`:UserWarning")
@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=needs(name)) for name in BACKENDS if name != BACKEND]
)
def test_a_saved_model_goes_on_under_another_backend(backend, tmp_path):
    # With what only some backends do, and all must load.
    dice = din_layers.Dice(synchronized=True)
    model = click_model(skip_padding=True, att_activation=dice)
    inputs = numeric_inputs()
    model.save(tmp_path / "model.keras")
    arrays = {f"input_{i}": x for i, x in enumerate(inputs)}
    np.savez(tmp_path / "data.npz", output=model.predict(inputs, verbose=0), **arrays)
    printed = run_fresh(CONTINUE, tmp_path, backend, KERAS_BACKEND=backend)
    # Importing the package brings no TensorFlow where Keras itself does without.
    assert printed.split("\n")[-2] == " ".join(keras_brings(backend))
    trained = keras.models.load_model(tmp_path / "trained.keras")
    assert np.isfinite(trained.predict(inputs, verbose=0)).all()


def keras_brings(backend):
    program = "import sys, keras; print(*sorted({'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    return run_fresh(program, KERAS_BACKEND=backend).split()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there nothing is refused")
def test_what_only_tensorflow_can_do_is_refused_with_a_reason():
    for layer in (din_layers.VocabLayer(["a"]), din_layers.HashLayer(9)):
        with pytest.raises(ValueError, match="TensorFlow"):
            layer(keras.Input((None,), dtype="string"))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there nothing is refused")
@pytest.mark.parametrize(
    "layer",
    [
        din_layers.AUGRU(2),
        din_layers.AttentionPoolingLayer([2]),
        din_layers.Dice(),
        din_layers.SequencePoolingLayer(),
        din_layers.WeightedSequenceLayer(),
    ],
)
def test_ragged_tensors_and_strings_are_refused_with_a_reason(layer):
    sequence = np.ones((1, 2, 3), "float32")
    ragged = tf.RaggedTensor.from_tensor(sequence)
    strings = np.array([["a", ""]])
    inputs = [
        [ragged, ragged],
        [sequence, strings, sequence],
        [sequence, tf.constant(strings), sequence],
        [sequence, strings.astype(object), sequence],
    ]
    if isinstance(layer, din_layers.Dice):
        inputs = [ragged, strings]
    for wrong in inputs:
        with pytest.raises(ValueError, match="strings need the TensorFlow backend"):
            layer(wrong)
