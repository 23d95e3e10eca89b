"""What only AUGRU has: its kinship with the GRU, its forms of scores, its state."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from helpers.layers import randomize
from helpers.sources import as_ragged
from helpers.strategies import DIM, batches, values
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import ops

import din_layers

UNITS = 4


def twins(**config):
    """Return an AUGRU and a GRU with the same weights."""
    layers = [cls(UNITS, return_sequences=True, **config) for cls in TWINS]
    layers[0].build([(None, None, DIM), (None, None)])
    layers[1].build((None, None, DIM))
    randomize(layers[0])
    layers[1].set_weights(layers[0].get_weights())
    return layers


TWINS = din_layers.AUGRU, keras.layers.GRU
CONFIGS = {
    "default": {},
    "without_bias": {"use_bias": False},
    "other_activations": {"activation": "elu", "recurrent_activation": "hard_sigmoid"},
}


@pytest.mark.parametrize("config", CONFIGS)
@given(batch=batches(), data=st.data())
def test_scores_of_one_make_it_a_gru(config, batch, data):
    """The same weights give the same states, carried ones too, and from any state on."""
    augru, gru = twins(**CONFIGS[config])
    state = data.draw(values((len(batch.valid), UNITS)), "state")
    assume(batch.valid.shape[1] > 0)  # Keras's GRU cannot do without a step
    mask, ones = ops.convert_to_tensor(batch.valid), np.ones_like(batch.weights)
    output = augru([batch.sequence, ones], mask=[mask, None])
    # The same arithmetic in another order, over up to six steps.
    np.testing.assert_allclose(output, gru(batch.sequence, mask=mask), rtol=1e-5, atol=1e-5)
    output = augru([batch.sequence, ones], mask=[mask, None], initial_state=state)
    # Keras's GRU says zeros, not the initial state, at invalid positions before the first event.
    expected = gru(batch.sequence, mask=mask, initial_state=state)[batch.valid]
    np.testing.assert_allclose(output[batch.valid], expected, rtol=1e-5, atol=1e-5)


@given(batch=batches(), data=st.data())
def test_invalid_positions_and_scores_of_zero_carry_the_state(batch, data):
    """To the last bit; a list may hold the initial state, as in Keras."""
    augru, _ = twins()
    state = data.draw(values((len(batch.valid), UNITS)), "state")
    scores = np.where(batch.weights < 2, 0, batch.weights / 4)
    mask = [ops.convert_to_tensor(batch.valid), None]
    output = augru([batch.sequence, scores], mask=mask, initial_state=[state])
    before = np.concatenate([state[:, None], output], axis=1)[:, :-1]
    carried = ~batch.valid | (scores == 0)
    np.testing.assert_array_equal(output[carried], before[carried])


@given(batch=batches())
def test_every_form_of_the_scores(batch):
    """(batch, time), (batch, time, 1), and (batch, 1, time) as the attention returns them."""
    augru, _ = twins()
    scores = batch.weights / 4
    mask = [ops.convert_to_tensor(batch.valid), None]
    expected = augru([batch.sequence, scores], mask=mask)
    for form in (scores[:, :, None], scores[:, None, :]):
        np.testing.assert_array_equal(augru([batch.sequence, form], mask=mask), expected)


@needs_tensorflow
@pytest.mark.parametrize("axis", [None, 1, 2])
@given(batch=batches())
def test_dense_scores_beside_a_ragged_sequence(axis, batch):
    """Those of the attention are dense in any case, and as long as the longest row or longer."""
    augru, _ = twins()
    sequence, scores = (as_ragged(x, batch.valid) for x in (batch.sequence, batch.weights / 4))
    expected = augru([sequence, scores])
    dense = scores.to_tensor(default_value=np.nan, shape=[None, batch.valid.shape[1]])
    dense = dense if axis is None else tf.expand_dims(dense, axis)
    np.testing.assert_array_equal(augru([sequence, dense]).values, expected.values)


@pytest.mark.parametrize("ragged", [False, pytest.param(True, marks=needs_tensorflow)])
@given(batch=batches())
def test_the_state_comes_beside_the_output(ragged, batch):
    augru, _ = twins()
    inputs, mask = [batch.sequence, batch.weights / 4], [ops.convert_to_tensor(batch.valid), None]
    if ragged:
        inputs, mask = [as_ragged(x, batch.valid) for x in inputs], None
    expected = augru(inputs, mask=mask)
    results = {}
    for sequences in (False, True):
        layer = din_layers.AUGRU(UNITS, return_sequences=sequences, return_state=True)
        layer.build([(None, None, DIM), (None, None)])
        layer.set_weights(augru.get_weights())
        results[sequences] = layer(inputs, mask=mask)
    (last, state), (sequence, same_state) = results[False], results[True]
    np.testing.assert_array_equal(last, state)
    np.testing.assert_array_equal(same_state, state)
    if ragged:
        np.testing.assert_array_equal(sequence.values, expected.values)
    else:
        np.testing.assert_array_equal(sequence, expected)


def test_regularizers_and_constraints_hold():
    names = "kernel", "recurrent", "bias"
    layer = din_layers.AUGRU(
        UNITS,
        bias_initializer="ones",
        **{f"{name}_regularizer": keras.regularizers.L2(0.5) for name in names},
        **{f"{name}_constraint": "non_neg" for name in names},
    )
    layer.build([(None, None, DIM), (None, None)])
    weights = layer.get_weights()
    assert len(layer.losses) == len(weights) == 3
    squares = sum((weight**2).sum() for weight in weights)
    np.testing.assert_allclose(sum(layer.losses), 0.5 * squares, rtol=1e-6)
    assert np.max(np.asarray(layer.weights[2].constraint(-layer.weights[2].value))) == 0


@needs_tensorflow
def test_gradients_under_xla_are_those_without():
    """XLA compiles a loop with its gradient only together; padding gets none, NaN or not."""
    augru, _ = twins()
    sequence = np.random.default_rng(0).normal(size=(2, 4, DIM)).astype("float32")
    sequence[0, 2:] = np.nan
    mask = ops.convert_to_tensor([[True, True, False, False], [True] * 4])

    def gradients(sequence):
        with tf.GradientTape() as tape:
            tape.watch(sequence)
            output = augru([sequence, ops.full((2, 4), 0.5)], mask=[mask, None])
        return tape.gradient(output, [sequence, *augru.trainable_variables])

    compiled = tf.function(gradients, jit_compile=True)(tf.constant(sequence))
    np.testing.assert_array_equal(compiled[0][0, 2:], 0)
    for one, two in zip(compiled, gradients(tf.constant(sequence)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_an_attached_mask_counts_beside_an_initial_state(tmp_path):
    """Keras passes a layer no attached mask beside a second tensor: the state is folded in."""
    ids, scores = np.array([[1, 2, 0], [0, 0, 0]]), np.full((2, 3), 0.5, "float32")
    inputs = [keras.Input((None,), dtype="int32"), keras.Input((None,)), keras.Input((UNITS,))]
    events = keras.layers.Embedding(9, DIM, mask_zero=True)(inputs[0])
    layer = din_layers.AUGRU(UNITS, return_sequences=True)
    model = keras.Model(inputs, layer([events, inputs[1]], initial_state=inputs[2]))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    data = [ids, scores, np.ones((2, UNITS), "float32")]
    states = np.asarray(model(data))
    np.testing.assert_array_equal(states[1], 1)
    np.testing.assert_array_equal(states[0, 2], states[0, 1])
    assert np.abs(states[0, :2] - np.asarray(model([*data[:2], 0 * data[2]]))[0, :2]).min() > 0
    np.testing.assert_array_equal(again(data), states)


def test_a_model_trained_before_0_4_goes_on_as_it_was_trained():
    """There padding counted beside an initial state; a file of then says no `mask_required`."""
    layer = din_layers.AUGRU(UNITS)
    config = layer.get_config()
    del config["mask_required"]
    ids, scores = np.array([[1, 0]]), np.full((1, 2), 0.5, "float32")
    events = keras.layers.Embedding(9, DIM, mask_zero=True)(ids)
    state = np.zeros((1, UNITS), "float32")
    layer([events, scores])
    old = din_layers.AUGRU.from_config(config)
    old([events, scores])
    old.set_weights(layer.get_weights())
    everything = layer([np.asarray(events), scores], initial_state=state)
    np.testing.assert_array_equal(old([events, scores], initial_state=state), everything)
    np.testing.assert_array_equal(old([events, scores]), layer([events, scores]))
    assert din_layers.AUGRU.from_config(old.get_config()).get_config() == old.get_config()


def test_many_small_scores_move_the_state_in_mixed_precision():
    """400 softmax scores of 1/400: in bfloat16 a step of so little changes no state."""
    rng = np.random.default_rng(4)
    sequence = rng.normal(0, 1, (2, 400, DIM)).astype("float32")
    scores = np.full((2, 400), 1 / 400, "float32")
    exact = din_layers.AUGRU(UNITS)
    mixed = din_layers.AUGRU(UNITS, dtype="mixed_bfloat16")
    expected = np.asarray(exact([sequence, scores]))
    mixed([sequence, scores])
    mixed.set_weights(exact.get_weights())
    output = mixed([sequence, scores])
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    error = np.asarray(ops.convert_to_numpy(ops.cast(output, "float32"))) - expected
    # The inputs are rounded to 8 bits, and so is the output: some units of 2**-8.
    assert np.abs(error).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("return_state", [False, True])
def test_what_it_tells_in_advance_is_one_thing_or_a_list(return_state):
    """Every size another number, so that none can stand for another."""
    layer = din_layers.AUGRU(4, return_sequences=True, return_state=return_state)
    shape = layer.compute_output_shape([(2, 5, 3), (2, 5)])
    assert shape == (((2, 5, 4), (2, 4)) if return_state else (2, 5, 4))
    inputs = [np.ones((2, 5, 3), "float32"), np.ones((2, 5), "float32")]
    mask = ops.convert_to_tensor(np.arange(5) < np.array([[2], [0]]))
    masks = layer.compute_mask(inputs, [mask, None])
    assert isinstance(masks, list) is return_state
    np.testing.assert_array_equal(masks[0] if return_state else masks, mask)
