"""Built when built, round trips: weights exist early, and what is saved gives its numbers back."""

import inspect
import itertools
import json

import attention_cases
import keras
import numpy as np
import pytest
from backend import needs_tensorflow, recording
from cases import CASES, DIM
from models import click_model, numeric_inputs, numeric_model, string_inputs, string_model
from wiring import randomize

import din_layers
from din_layers.testing._fresh_process import run_fresh

EVERY_LAYER = {
    **{name: lambda case=case: case.layer(**case.config) for name, case in CASES.items()},
    "dice": lambda: din_layers.Dice(axis=1, momentum=0.5, alpha_initializer="ones"),
    "vocab": lambda: din_layers.VocabLayer(["a", "b\n", ""], mask_value=""),
    "vocab_integers": lambda: din_layers.VocabLayer(np.array([3, 1])),
    "l2": lambda: din_layers.MiniBatchAwareL2(np.array([0, 7]), np.float32(0.5), mask_value=None),
    "hash": lambda: din_layers.HashLayer(np.int64(9), mask_zero=True, mask_value=""),
    "augru_with_everything": lambda: din_layers.AUGRU(
        np.int64(4),
        True,
        return_state=True,
        activation="relu",
        recurrent_activation=keras.activations.hard_sigmoid,
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        recurrent_initializer="glorot_uniform",
        recurrent_regularizer="l2",
        kernel_constraint="non_neg",
        hist_mask_value="",
        name="named",
        dtype="mixed_float16",
    ),
    "attention_with_everything": lambda: din_layers.AttentionPoolingLayer(
        [np.int64(7)],
        att_activation=keras.layers.PReLU(),
        mode="sequence",
        hist_mask_value="",
        scale=True,
        dropout=0.3,
        seed=5,
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        kernel_regularizer="l2",
        bias_constraint="non_neg",
        name="named",
        dtype="mixed_float16",
    ),
}


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_the_config_is_plain_json_with_every_argument_and_makes_the_same_layer(name):
    """By its class, and by the name that the class is registered under, which is the package's."""
    layer = EVERY_LAYER[name]()
    layer_class, config = type(layer), layer.get_config()
    assert json.loads(json.dumps(config)) == config
    arguments = set(inspect.signature(layer_class.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    assert layer_class.from_config(json.loads(json.dumps(config))).get_config() == config
    registered = keras.saving.get_registered_name(layer_class)
    assert registered == f"din_layers>{layer_class.__name__}"
    assert din_layers.custom_objects[layer_class.__name__] is layer_class
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == config


@pytest.mark.parametrize("name", attention_cases.CASES)
def test_all_weights_exist_after_build(name):
    case = CASES[name]
    layer = case.layer(**case.config)
    layer.build([(None, 1, DIM), (None, None, DIM), (None, None)])
    names, count = [w.path for w in layer.weights], layer.count_params()
    optimizer = keras.optimizers.Adam()
    optimizer.build(layer.trainable_variables)
    layer([np.ones((2, 1, DIM), "float32"), np.ones((2, 4, DIM), "float32")], training=True)
    assert [w.path for w in layer.weights] == names
    assert layer.count_params() == count
    sizes = [4 * DIM, *layer.att_hidden_units, 1]
    dense = sum(a * b + b for a, b in itertools.pairwise(sizes))
    dice = 3 * sum(layer.att_hidden_units) if layer.att_activation == "dice" else 0
    assert count == dense + dice


def test_kernel_and_bias_of_each_layer_in_order():
    layer = din_layers.AttentionPoolingLayer()
    layer.build([(None, 1, 8), (None, None, 8)])
    shapes = [w.shape for w in layer.get_weights()]
    assert shapes == [(32, 80), (80,), (80, 40), (40,), (40, 1), (1,)]


def test_freezing_before_the_first_call_counts():
    layer = din_layers.AttentionPoolingLayer(att_activation="dice")
    layer.trainable = False
    layer.build([(None, 1, 4), (None, None, 4)])
    assert layer.trainable_weights == []
    model = numeric_model()
    model.trainable = False
    assert model.trainable_weights == []


def test_a_clone_takes_the_weights_before_any_call():
    model = numeric_model()
    clone = keras.models.clone_model(model)
    assert clone.count_params() == model.count_params()
    clone.set_weights(model.get_weights())
    inputs = numeric_inputs()
    for a, b in zip(model(inputs), clone(inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_goes_on_where_it_stopped(tmp_path):
    """The optimizer, Dice's statistics and the weights come back together."""
    inputs, target = numeric_inputs(), np.array([1.0, 0, 1, 0, 1, 0])[:, None]
    model = click_model()
    model.compile("adam", "binary_crossentropy")
    with recording():
        model.fit(inputs, target, epochs=2, shuffle=False, verbose=0)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        for m in (model, again):
            m.fit(inputs, target, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_on_empty_histories(dtype):
    keras.config.set_dtype_policy(dtype)
    model = click_model()
    model.compile("adam", "binary_crossentropy")
    inputs, target = numeric_inputs(batch=32), np.arange(32)[:, None] % 2
    inputs[0][::3] = 0
    with recording():
        history = model.fit(inputs, target, epochs=3, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


# One process for all, since importing TensorFlow takes seconds. Exported models come first,
# before the package is there.
FRESH = """
import sys
import numpy as np, tensorflow as tf
folder = sys.argv[1]
exported = {kind: tf.saved_model.load(f"{folder}/{kind}") for kind in ("numeric", "string")}
assert "din_layers" not in sys.modules

import din_layers
import keras
import models  # the functions that make the inputs
inputs = {
    "numeric": models.numeric_inputs(),
    "string": models.string_inputs(),
    "ragged": models.numeric_inputs(ragged=True),
}

def check(kind, call, how):
    for i, output in enumerate(keras.tree.flatten(call(inputs[kind]))):
        expected = np.load(f"{folder}/{kind}_{i}.npy")
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6, err_msg=f"{kind} {how}")

for kind, served in exported.items():
    check(kind, served.serve, "export")
for kind in inputs:
    for custom_objects in (None, din_layers.custom_objects):
        model = keras.models.load_model(
            f"{folder}/{kind}.keras", custom_objects=custom_objects, safe_mode=True
        )
        check(kind, model, ".keras")
    rebuilt = keras.models.model_from_json(model.to_json())
    rebuilt.load_weights(f"{folder}/{kind}.weights.h5")
    check(kind, rebuilt, ".weights.h5")
print("same")
"""


@needs_tensorflow
def test_a_fresh_process_gives_the_same_numbers(tmp_path):
    """`.keras`, `.weights.h5`, `export()`; numeric, string and ragged models."""
    for kind, model, inputs in (
        ("numeric", numeric_model(), numeric_inputs()),
        ("string", string_model(), string_inputs()),
        ("ragged", numeric_model(ragged=True), numeric_inputs(ragged=True)),
    ):
        randomize(model)
        for i, output in enumerate(keras.tree.flatten(model(inputs))):
            np.save(tmp_path / f"{kind}_{i}.npy", output)
        model.save(tmp_path / f"{kind}.keras")
        model.save_weights(tmp_path / f"{kind}.weights.h5")
        if kind != "ragged":
            model.export(tmp_path / kind, verbose=False)
    assert run_fresh(FRESH, tmp_path).endswith("same\n")
