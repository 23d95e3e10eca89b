"""Inputs by name: keywords, dicts, the lists of earlier versions; eager, in models, in files."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from helpers.layers import IDS, LENGTHS, QUERY, SEQUENCE, WEIGHTS, every_layer, made
from helpers.strategies import DIM
from keras import ops

import din_layers


@every_layer
@pytest.mark.parametrize("given", ["lengths", "ids", "both"])
def test_a_functional_model_of_names_is_saved_cloned_and_hands_its_mask_on(name, given, tmp_path):
    layer, arrays = made(name)
    inputs = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), arrays)
    told = {
        "lengths": (keras.Input((), dtype="int32"), LENGTHS),
        "ids": (keras.Input((None,), dtype="int32"), IDS),
    }
    told = told if given == "both" else {given: told[given]}
    output = layer(inputs, **{key: symbolic for key, (symbolic, _) in told.items()})
    outputs = [output]
    if name != "pooling":
        pool = din_layers.SequencePoolingLayer("sum", mask_required=True)
        outputs.append(pool(output))  # the mask arrived
    model = keras.Model([inputs, [symbolic for symbolic, _ in told.values()]], outputs)
    model.save(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    # What combines the masks is no layer of the model; weights are named alike in every model.
    written = {keras.layers.InputLayer, type(layer), din_layers.SequencePoolingLayer}
    assert {type(x) for x in model.layers} <= written
    assert [x.path for x in clone.weights] == [x.path for x in model.weights]
    data = [arrays, [array for _, array in told.values()]]
    valid = np.ones(IDS.shape, bool)
    if "ids" in told:
        valid &= IDS != 0
    if "lengths" in told:
        valid &= np.arange(4) < LENGTHS[:, None]
    eager = np.asarray(layer(arrays, mask=valid))
    for other in (model, clone, keras.models.load_model(tmp_path / "model.keras")):
        results = keras.tree.map_structure(np.asarray, other(data))
        first = results[0] if isinstance(results, list) else results
        np.testing.assert_allclose(first, eager, rtol=1e-5, atol=1e-6)
        if name != "pooling":
            counted = (eager * valid[..., None]).sum(1, keepdims=True)
            np.testing.assert_allclose(results[1], counted, rtol=1e-5, atol=1e-6)


@every_layer
def test_the_inputs_of_a_layer_can_be_given_back_as_a_list(name):
    """`layer.input` is flat; its order is that of the lists of earlier versions."""
    layer, arrays = made(name)
    inputs = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), arrays)
    ids = keras.Input((4,), dtype="int32")
    expected = layer(inputs, ids=ids)
    listed = list(inputs) if isinstance(inputs, list) else [inputs]
    listed.insert(2 if name == "attention" else 1, ids)
    assert [x is y for x, y in zip(layer.input, listed, strict=True)] == [True] * len(listed)
    assert layer(layer.input).shape == expected.shape


@every_layer
def test_a_mask_given_by_hand_goes_on_too(name):
    layer, inputs = made(name)
    mask = ops.convert_to_tensor(IDS != 0)
    output = layer(inputs, mask=mask, lengths=LENGTHS)
    handed_on = getattr(output, "_keras_mask", None)
    if name == "pooling":
        assert handed_on is None
    else:
        expected = (IDS != 0) & (np.arange(4) < LENGTHS[:, None])
        np.testing.assert_array_equal(handed_on, expected)


def test_a_subclassed_model_names_its_inputs():
    class Clicks(keras.Model):
        def __init__(self):
            super().__init__()
            self.attend = din_layers.AttentionPoolingLayer((4,))
            self.pool = din_layers.SequencePoolingLayer("mean", mask_required=True)
            self.click = keras.layers.Dense(1)

        def call(self, inputs):
            interest = self.attend([inputs["query"], inputs["keys"]], ids=inputs["ids"])
            taste = self.pool(inputs["keys"], lengths=inputs["lengths"])
            return self.click(ops.concatenate([interest, taste], -1)[:, 0])

    model, inputs = Clicks(), {"query": QUERY, "keys": SEQUENCE, "ids": IDS, "lengths": LENGTHS}
    spoilt = {**inputs, "keys": SEQUENCE.copy()}
    spoilt["keys"][(IDS == 0) & (np.arange(4) >= LENGTHS[:, None])] = 1e9
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(model.predict(spoilt, verbose=0), expected, rtol=1e-6)


def test_sessions_under_time_distributed_keep_their_mask():
    """Keras hands `TimeDistributed` one tensor and its mask, so nothing can be given by name."""
    sessions = np.stack([SEQUENCE, SEQUENCE[::-1]], axis=1)
    inputs = keras.Input(sessions.shape[1:])
    pooled = keras.layers.TimeDistributed(din_layers.SequencePoolingLayer("sum"))(inputs)
    activated = keras.layers.TimeDistributed(din_layers.Dice())(pooled)
    model = keras.Model(inputs, [pooled, activated])
    assert model.output_shape == [(None, 2, 1, DIM)] * 2
    np.testing.assert_allclose(model(sessions)[0][:, 0, 0], SEQUENCE.sum(1), rtol=1e-5, atol=1e-6)


def test_nothing_given_by_name_is_nothing():
    layer, inputs = made("weighting")
    expected = layer(inputs)
    np.testing.assert_array_equal(layer(inputs, lengths=None, ids=None, mask=None), expected)
    named = {"sequence": SEQUENCE, "weights": WEIGHTS, "ids": None}
    np.testing.assert_array_equal(layer(named), expected)


# What a list means, by static shape alone ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hist_mask_value", "time", "companion", "meaning"),
    [
        ("attention", 0, 4, (3,), "lengths"),
        ("attention", 0, 4, (3, 1), "lengths"),
        ("attention", 0, 4, (3, 4), "ids"),
        ("attention", 0, 1, (3, 1), "ids"),
        ("attention", 0, None, (None, 1), "lengths"),
        ("attention", 0, None, (None, None), "ids"),
        ("pooling", 0, 4, (3,), "lengths"),
        ("pooling", 0, 4, (3, 1), "lengths"),
        ("pooling", 0, 1, (3, 1), "lengths"),
        ("pooling", -1, 1, (3, 1), "ids"),  # who sets `hist_mask_value` gives ids
        ("pooling", -1, 2, (3, 2), "ids"),
        ("pooling", 0, 4, (3, 4), "ids"),
        ("pooling", 0, None, (None, None), "ids"),  # an `Input`, as files of 0.1 to 0.3 have it
    ],
)
def test_what_the_list_of_an_earlier_version_means(name, hist_mask_value, time, companion, meaning):
    layer, _ = made(name, hist_mask_value=hist_mask_value)
    batch = companion[0]
    sequence = keras.KerasTensor((batch, time, DIM))
    inputs = [keras.KerasTensor((batch, 1, DIM)), sequence] if name == "attention" else [sequence]
    inputs.append(keras.KerasTensor(companion, "int32"))
    named, _ = layer._named(inputs, None, {})
    assert list(named)[-1] == meaning


@needs_tensorflow
def test_a_list_in_a_graph_that_knows_no_shapes_is_read_by_position():
    pool = din_layers.SequencePoolingLayer("sum")
    attend, _ = made("attention")
    attend.mode = "sum"
    specs = [tf.TensorSpec([None, None, DIM]), tf.TensorSpec([None, None], "int32")]
    pooled = tf.function(lambda *inputs: pool(list(inputs)), input_signature=specs)
    np.testing.assert_allclose(
        pooled(SEQUENCE, LENGTHS[:, None]), pool(SEQUENCE, lengths=LENGTHS), rtol=1e-6
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="`lengths` must have the batch"):
        pooled(SEQUENCE, IDS)
    attended = tf.function(
        lambda query, *rest: attend([query, *rest]),
        input_signature=[tf.TensorSpec([None, 1, DIM]), *specs],
    )
    np.testing.assert_allclose(
        attended(QUERY, SEQUENCE, IDS), attend([QUERY, SEQUENCE], ids=IDS), rtol=1e-5
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="`ids` must have the batch and time"):
        attended(QUERY, SEQUENCE, LENGTHS[:, None])


@every_layer
def test_what_is_guessed_from_shapes_warns_and_says_what_to_write(name, tmp_path):
    """By place the third input of the attention is ids, elsewhere the companion is lengths."""
    layer, inputs = made(name)
    listed = inputs if isinstance(inputs, list) else [inputs]
    place = 2 if name == "attention" else 1  # where the lists of earlier versions had it
    by_place, guessed = (LENGTHS, IDS) if name != "attention" else (IDS, LENGTHS)
    write = "lengths" if name == "attention" else "ids"
    with pytest.warns(FutureWarning, match=f"must say by keyword .* `{write}=`. Received: inputs="):
        layer([*listed[:place], guessed, *listed[place:]])
    again = type(layer).from_config(layer.get_config())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer([*listed[:place], by_place, *listed[place:]])
        again([*listed[:place], guessed, *listed[place:]])  # as a file has it


@every_layer
def test_the_old_name_of_mask_required_warns_but_not_out_of_a_config(name):
    layer, _ = made(name)
    config = {**layer.get_config(), "supports_masking": True}
    del config["mask_required"]
    with pytest.warns(FutureWarning, match="`supports_masking` is called `mask_required` now"):
        assert type(layer)(**{k: v for k, v in config.items() if k != "dtype"}).mask_required
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(layer).from_config(config).mask_required
