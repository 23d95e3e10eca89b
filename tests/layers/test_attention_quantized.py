"""AttentionPoolingLayer after `quantize` and `enable_lora`: as its Dense layers, saved too."""

import copy

import keras
import numpy as np
import pytest
from helpers import oracles
from helpers.backend import recording
from helpers.layers import Attention
from helpers.strategies import DIM
from keras import ops

# Keras warns of every layer without such a method, its own `InputLayer` among them.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")

UNITS = (5, 4)
RNG = np.random.default_rng(0)
QUERY, KEYS = (RNG.normal(size=(6, n, DIM)).astype("float32") for n in (2, 20))
LENGTHS = np.array([20, 0, 1, 7, 12, 3], "int32")
INPUTS, TARGETS = [QUERY, KEYS, LENGTHS], RNG.normal(size=QUERY.shape)


def attention_model(**config):
    """Return a model of one attention layer, its weights drawn, and the layer."""
    query, keys = (keras.Input((None, DIM)) for _ in range(2))
    lengths = keras.Input((), dtype="int32")
    layer = Attention(att_hidden_units=UNITS, **config).make()
    return keras.Model([query, keys, lengths], layer([query, keys], lengths=lengths)), layer


def train(model):
    model.compile(keras.optimizers.Adam(0.05), "mse")
    with recording():
        model.fit(INPUTS, TARGETS, epochs=3, verbose=0)


def plain_result(layer, mode):
    """Return what plain Dense layers of the same weights, quantized, make of the valid events."""
    hidden = [keras.layers.Dense(units, "sigmoid") for units in UNITS]
    mlp = keras.Sequential([keras.Input((4 * DIM,)), *hidden, keras.layers.Dense(1)])
    mlp.set_weights(layer.get_weights())
    mlp.quantize(mode)
    result = np.zeros_like(QUERY)
    for row, length in enumerate(LENGTHS):
        pairs = (length, 2, DIM)
        k = np.broadcast_to(KEYS[row, :length, None], pairs)
        q = np.broadcast_to(QUERY[row], pairs)
        features = np.concatenate([q, k, q - k, q * k], axis=-1).reshape(-1, 4 * DIM)
        if length:
            scores = mlp.predict(features, verbose=0).reshape(pairs[:2])
            result[row] = oracles.attend("sum", oracles.softmax(scores), KEYS[row, :length])
    return result


def saved_and_loaded(model, folder):
    """Yield what every way of saving gives back."""
    model.save(folder / "model.keras")
    yield keras.models.load_model(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    again = keras.models.model_from_json(model.to_json())
    again.load_weights(folder / "model.weights.h5")
    yield again
    yield copy.deepcopy(model)


# The largest difference from the float32 layer, relative to the largest output.
@pytest.mark.parametrize(
    ("mode", "skip_padding", "loss"),
    [("int8", False, 0.01), ("int8", True, 0.01), ("int4", False, 0.09), ("float8", False, 0.05)],
)
def test_quantized_it_gives_what_its_dense_layers_give(mode, skip_padding, loss, tmp_path):
    model, layer = attention_model(skip_padding=skip_padding)
    before, plain = model.predict(INPUTS, verbose=0), plain_result(layer, mode)
    model.quantize(mode)
    after = model.predict(INPUTS, verbose=0)
    assert 0 < np.abs(after - before).max() < loss * np.abs(before).max()
    # Another order of a sum may round a number to the next of its few values.
    np.testing.assert_allclose(after, plain, atol=2e-3)
    for again in saved_and_loaded(model, tmp_path):
        np.testing.assert_allclose(again.predict(INPUTS, verbose=0), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("skip_padding", [False, True])
def test_quantized_it_takes_a_batch_without_events(mode, skip_padding):
    model, _ = attention_model(skip_padding=skip_padding)
    model.quantize(mode)
    nothing = keras.tree.map_structure(np.zeros_like, INPUTS)
    assert not np.any(model.predict(nothing, verbose=0))


def test_training_in_float8_moves_weights_and_scales():
    model, _ = attention_model()
    model.quantize("float8")
    before = {w.path: ops.convert_to_numpy(w) for w in model.weights}
    train(model)
    moved = {w.path.split("/")[-1] for w in model.weights if (before[w.path] != w).any()}
    assert {"kernel", "bias", "inputs_scale", "kernel_scale"} <= moved
    assert np.isfinite(model.predict(INPUTS, verbose=0)).all()


@pytest.mark.parametrize("quantized", [False, True])
def test_lora_trains_beside_the_frozen_kernels_and_is_saved(quantized, tmp_path):
    model, layer = attention_model()
    if quantized:
        model.quantize("int8")
    before = model.predict(INPUTS, verbose=0)
    layer.enable_lora(2, lora_alpha=3)
    np.testing.assert_array_equal(model.predict(INPUTS, verbose=0), before)
    kernels = [ops.convert_to_numpy(dense._kernel) for dense in layer.unit.dense_layers]
    train(model)
    for dense, kernel in zip(layer.unit.dense_layers, kernels, strict=True):
        np.testing.assert_array_equal(dense._kernel, kernel)
    after = model.predict(INPUTS, verbose=0)
    assert np.abs(after - before).max() > 0.05
    for again in saved_and_loaded(model, tmp_path):
        # Keras merges the matrices into the kernels, which it quantizes anew.
        close = {"atol": 0.02} if quantized else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(again.predict(INPUTS, verbose=0), after, **close)
        assert len(again.trainable_weights) == len(model.trainable_weights)
