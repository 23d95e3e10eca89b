"""Built when built, round trips: weights exist early, and what is saved gives its numbers back."""

import inspect
import itertools
import json

import keras
import numpy as np
import pytest
from helpers.backend import needs_tensorflow, recording
from helpers.layers import CASES, DIM, ONE_OF_EACH, randomize
from helpers.models import click_model, numeric_inputs, numeric_model, string_inputs, string_model

import din_layers
from din_layers.testing import check_round_trip

EVERY_LAYER = {
    **{name: (case.layer, case.config) for name, case in CASES.items()},
    **{name: one[:2] for name, one in ONE_OF_EACH.items() if name != "valid_positions"},
    "dice_with_everything": (
        din_layers.Dice,
        {"axis": 1, "momentum": 0.5, "alpha_initializer": "ones", "synchronized": True},
    ),
    "l2_of_arrays": (
        din_layers.MiniBatchAwareL2,
        {"frequencies": np.array([0, 7]), "l2": np.float32(0.5), "mask_value": None},
    ),
    "augru_with_everything": (
        din_layers.AUGRU,
        {
            "units": np.int64(4),
            "return_sequences": True,
            "return_state": True,
            "activation": "relu",
            "recurrent_activation": keras.activations.hard_sigmoid,
            "use_bias": False,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "recurrent_regularizer": "l2",
            "kernel_constraint": "non_neg",
            "hist_mask_value": "",
            "name": "named",
            "dtype": "mixed_float16",
        },
    ),
    "attention_with_everything": (
        din_layers.AttentionPoolingLayer,
        {
            "att_hidden_units": [np.int64(7)],
            "att_activation": keras.layers.PReLU(),
            "mode": "sequence",
            "hist_mask_value": "",
            "mask_required": True,
            "scale": True,
            "dropout": 0.3,
            "seed": 5,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "kernel_regularizer": "l2",
            "bias_constraint": "non_neg",
            "name": "named",
            "dtype": "mixed_float16",
        },
    ),
}
SAID_AS_GIVEN = bool | int | float | str | list | tuple | None


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_the_config_is_plain_json_with_every_argument_and_makes_the_same_layer(name):
    """By its class, and by the name that the class is registered under, which is the package's."""
    layer_class, given = EVERY_LAYER[name]
    layer = layer_class(**given)
    config = layer.get_config()
    assert json.loads(json.dumps(config)) == config
    arguments = set(inspect.signature(layer_class.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    for key, value in given.items():
        if isinstance(value, SAID_AS_GIVEN) and not isinstance(config[key], dict):
            assert config[key] == (list(value) if isinstance(value, tuple) else value)
    assert layer_class.from_config(json.loads(json.dumps(config))).get_config() == config
    registered = keras.saving.get_registered_name(layer_class)
    assert registered == f"din_layers>{layer_class.__name__}"
    assert din_layers.custom_objects[layer_class.__name__] is layer_class
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == config


# The other modes have the weights of the first.
@pytest.mark.parametrize("name", ["attend_sum_softmax", "attend_dice", "attend_linear"])
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


def test_mixed_precision_trains_on_empty_histories():
    """In float16, whose range is the smallest."""
    keras.config.set_dtype_policy("mixed_float16")
    model = click_model()
    model.compile("adam", "binary_crossentropy")
    inputs, target = numeric_inputs(batch=32), np.arange(32)[:, None] % 2
    inputs[0][::3] = 0
    with recording():
        history = model.fit(inputs, target, epochs=3, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


MODELS = {"numeric": (numeric_model, numeric_inputs), "string": (string_model, string_inputs)}


@pytest.mark.parametrize("kind", ["numeric", pytest.param("string", marks=needs_tensorflow)])
def test_a_fresh_process_gives_the_same_numbers(kind):
    model, inputs = MODELS[kind]
    model = model()
    randomize(model)
    check_round_trip(model, inputs())


@needs_tensorflow
def test_a_saved_ragged_model_gives_the_same_numbers(tmp_path):
    """Its inputs are not arrays, which is what `check_round_trip` takes."""
    model, inputs = numeric_model(ragged=True), numeric_inputs(ragged=True)
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(loaded(inputs), model(inputs), strict=True):
        np.testing.assert_array_equal(one, other)
