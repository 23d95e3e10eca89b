"""What only AttentionPoolingLayer has: scores, activations, statistics, dropout."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracles
from helpers.backend import BACKEND, needs_tensorflow, recording
from helpers.layers import CASES, Attention, cases_of, layer_of, mlp, randomize
from helpers.sources import as_ragged
from helpers.strategies import DIM, batches
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import din_layers
from din_layers.testing import garbage
from din_layers.testing._gradients import differentiate

CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # see test_contract.py


@pytest.mark.parametrize("name", [name for name in cases_of(Attention) if "_skip" not in name])
@given(data=st.data())
def test_the_scores_are_the_weights_of_the_events(name, data):
    layer = layer_of(name)
    batch = data.draw(batches(queries=1 if layer.mode == "sequence" else None))
    inputs, mask = [batch.query, batch.sequence], [None, ops.convert_to_tensor(batch.valid)]
    output, scores = layer(inputs, mask=mask, return_attention_scores=True)
    np.testing.assert_array_equal(output, layer(inputs, mask=mask))
    assert scores.shape == (len(batch.valid), batch.query.shape[1], batch.valid.shape[1])
    for row, (events, valid) in enumerate(zip(batch.sequence, batch.valid, strict=True)):
        np.testing.assert_array_equal(np.asarray(scores[row])[:, ~valid], 0)
        expected = oracles.attention_scores(
            np.float64(batch.query[row]), np.float64(events[valid]), *mlp(layer), scale=layer.scale
        )
        expected = oracles.normalize(layer.weight_normalization, expected)
        np.testing.assert_allclose(np.asarray(scores[row])[:, valid].T, expected, **CLOSE)


@needs_tensorflow
def test_scores_of_ragged_keys_are_dense():
    layer = layer_of("attend_sum_softmax")
    keys = tf.RaggedTensor.from_row_lengths(ops.ones((3, DIM)), [1, 0, 2])
    _, scores = layer([ops.ones((3, 2, DIM)), keys], return_attention_scores=True)
    expected = [[[1, 0]] * 2, [[0, 0]] * 2, [[0.5, 0.5]] * 2]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@given(batch=batches(), garbage=garbage())
def test_short_histories_give_what_long_ones_would(batch, garbage):
    """Both ways to compute the first layer: the one for long histories obeys the contract, too."""
    layer = layer_of("attend_sum_softmax")
    spoilt = batch.garbage_where_invalid(garbage)

    mask = [None, ops.convert_to_tensor(batch.valid)]
    rows = np.ones(len(batch.valid), bool)

    def results(short):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("din_layers._local_activation_unit._SHORT", short)
            output, of_inputs, of_weights = differentiate(
                lambda *inputs: layer(inputs, mask=mask), [spoilt.query, spoilt.sequence], rows
            )
        return output, *of_inputs, *of_weights

    by_event, by_row = results(short=100), results(short=-1)
    for other, result in zip(by_event, by_row, strict=True):
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(by_row[2][~batch.valid], 0)
    for row, expected in zip(
        by_row[0], CASES["attend_sum_softmax"].expected(layer, batch), strict=True
    ):
        np.testing.assert_allclose(row, expected, **CLOSE)


@pytest.mark.parametrize(
    "way", ["padded", "packed", pytest.param("ragged", marks=needs_tensorflow)]
)
@given(batch=batches(), garbage=garbage())
def test_padding_does_not_enter_the_statistics_of_dice(way, batch, garbage):
    """Outputs, gradients and saved statistics are those of the events alone, in every layout."""
    # With a single event the variance is 0: a tiny epsilon would magnify rounding by 10,000.
    dice = din_layers.Dice(epsilon=1e-2)
    query, mask = ops.convert_to_tensor(batch.query), ops.convert_to_tensor(batch.valid)

    def train(sequence, way):
        layer = Attention(att_activation=dice, skip_padding=way == "packed").make()

        def attend(sequence):
            if way == "ragged":
                return layer([query, as_ragged(sequence, batch.valid)], training=True)
            return layer([query, sequence], mask=mask, training=True)

        rows = np.ones(len(batch.valid), bool)
        output, (gradient,), _ = differentiate(attend, [sequence], rows)
        if BACKEND == "jax":  # which keeps no statistics where it takes gradients
            attend(ops.convert_to_tensor(sequence))
        return output, gradient, layer.get_weights()

    output, gradient, weights = train(batch.sequence, "padded")
    other = train(batch.garbage_where_invalid(garbage).sequence, way)
    np.testing.assert_allclose(other[0], output, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other[1], gradient, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(other[1][~batch.valid], 0)
    for a, b in zip(other[2], weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def batch_of(queries=1):
    rng = np.random.default_rng(3)
    query, keys = (rng.normal(size=(4, n, DIM)).astype("float32") for n in (queries, 5))
    ids = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [2, 0, 3, 0, 0], [4, 0, 0, 0, 0]])
    return [query, keys, ids]


ACTIVATIONS = {
    "none": None,
    "name": "relu",
    "function": keras.activations.tanh,
    "dice": "dice",
    "dice_with_arguments": din_layers.Dice(momentum=0.5),
    "layer": keras.layers.PReLU(),
    "prelu": "prelu",
    "batch_norm": keras.layers.BatchNormalization(),
    "softmax": keras.layers.Softmax(),  # whose mask has the shape of its input
    "sequential": keras.Sequential([keras.layers.BatchNormalization(), keras.layers.ReLU()]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_that_keras_takes(name):
    layer = din_layers.AttentionPoolingLayer((6, 3), att_activation=ACTIVATIONS[name])
    layer.build([(None, None, DIM), (None, None, DIM)])
    weights = len(layer.weights)
    inputs = batch_of()
    output = layer(inputs, training=True)
    assert len(layer.weights) == weights
    np.testing.assert_array_equal(output[1], 0)
    again = din_layers.AttentionPoolingLayer.from_config(layer.get_config())
    again.build([(None, None, DIM), (None, None, DIM)])
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(inputs), again(inputs))


def test_it_is_computed_again_in_the_backward_pass_under_a_remat_scope():
    """On JAX, under which every argument of a layer's `call` must be an array."""
    query, keys, ids = map(ops.convert_to_tensor, batch_of())
    results = []
    for mode in (None, "full"):
        with keras.RematScope(mode):
            layer = Attention().make()
        attend = lambda keys, layer=layer: layer([query, keys], ids=ids)  # noqa: E731
        results.append(keras.tree.flatten(differentiate(attend, [keys], np.ones(4, bool))))
    for rematerialized, kept in zip(*results, strict=True):
        np.testing.assert_allclose(rematerialized, kept, **CLOSE)


@pytest.mark.parametrize("queries", [1, 2, DIM])
def test_one_query_whose_axis_only_a_running_graph_knows(queries):
    """As many queries as `dim` would multiply as one does."""
    layer = din_layers.AttentionPoolingLayer((4,), mode="sequence")
    query, keys, _ = batch_of(queries)
    specs = [keras.KerasTensor((None, None, DIM))] * 2
    assert layer(specs).shape == (None, None, DIM)

    def run(query, keys):
        if BACKEND != "tensorflow":
            return layer([query, keys])
        spec = tf.TensorSpec((None, None, DIM))
        return tf.function(lambda *x: layer(list(x)), input_signature=[spec] * 2)(query, keys)

    if queries == 1:
        np.testing.assert_allclose(run(query, keys), layer([query, keys]), **CLOSE)
        return
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"`query` must have sh"):
        run(query, keys)


def test_padding_beside_a_nan_is_zero():
    layer = din_layers.AttentionPoolingLayer((4,), mode="sequence")
    query, keys, ids = batch_of()
    keys[2, 0] = np.nan  # a valid event
    output, scores = layer([query, keys], ids=ids, return_attention_scores=True)
    np.testing.assert_array_equal(np.asarray(output)[ids == 0], 0)
    np.testing.assert_array_equal(np.asarray(scores)[:, 0][ids == 0], 0)


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: keras.Sequential([layer])])
def test_batch_normalization_sees_no_padding(wrap):
    activation = wrap(keras.layers.BatchNormalization(momentum=0.0))
    layer = din_layers.AttentionPoolingLayer((6,), att_activation=activation)
    query, keys, ids = batch_of()
    layer([query, keys, ids], training=True)
    kernel, bias = layer.unit.dense_layers[0].get_weights()
    rows, times = np.nonzero(ids)
    q, k = query[rows, 0], keys[rows, times]
    hidden = np.concatenate([q, k, q - k, q * k], -1) @ kernel + bias
    mean, variance = layer.unit.activations[0].get_weights()[2:]
    np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, hidden.var(0), rtol=1e-4, atol=1e-5)


def test_weights_start_anew_in_every_layer_and_alike_under_one_seed():
    """The seed of the initializer is not fixed."""
    initializer = keras.initializers.RandomNormal()

    def kernels(seed=None):
        if seed:
            keras.utils.set_random_seed(seed)
        layer = din_layers.AttentionPoolingLayer((12, 12), kernel_initializer=initializer)
        layer.build([(None, 1, 3), (None, None, 3)])
        return layer.get_weights()[0:4:2]

    first, second = kernels(seed=1), kernels()
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first[0], second[0])
    assert not np.allclose(first[0], kernels(seed=2)[0])
    np.testing.assert_array_equal(first, kernels(seed=1))


def test_weights_are_named_by_their_place():
    layer = din_layers.AttentionPoolingLayer((4, 3), "dice", name="attention")
    layer.build([(None, 1, 3), (None, None, 3)])
    names = ["hidden_0", "hidden_1", "score", "activation_0", "activation_1"]
    assert list(dict.fromkeys(w.path.rpartition("/")[0] for w in layer.weights)) == [
        f"attention/unit/{name}" for name in names
    ]


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's alone")
def test_the_state_dict_of_a_model_fits_another_of_its_architecture():
    layers = [Attention(att_activation="dice", name="attention").make() for _ in range(2)]
    layers[1].set_weights([w + 1 for w in layers[1].get_weights()])
    layers[1].load_state_dict(layers[0].state_dict())
    np.testing.assert_array_equal(layers[1](batch_of()), layers[0](batch_of()))


def test_dropout_drops_weights_in_training_only():
    layer = din_layers.AttentionPoolingLayer(dropout=0.5, seed=1)
    inputs = [np.ones((1, 1, 4), "float32"), np.ones((1, 1000, 4), "float32")]
    _, scores = layer(inputs, return_attention_scores=True, training=True)
    assert 0.4 < np.mean(np.asarray(scores) == 0) < 0.6
    np.testing.assert_allclose(np.asarray(scores).max(), 2 / 1000, rtol=1e-4)
    _, scores = layer(inputs, return_attention_scores=True)
    np.testing.assert_allclose(scores, 1 / 1000, rtol=1e-4)


def test_a_stateless_call_of_the_layer_itself_can_train():
    layer = din_layers.AttentionPoolingLayer((4,), "dice", dropout=0.5, seed=1)
    inputs = [np.ones((2, 1, 3), "float32"), np.ones((2, 9, 3), "float32")]
    layer.build([x.shape for x in inputs])
    before = [ops.convert_to_numpy(v) for v in layer.non_trainable_variables]
    state = layer.trainable_variables, layer.non_trainable_variables
    given = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    (_, scores), after = layer.stateless_call(
        *state, given, return_attention_scores=True, training=True
    )
    assert 0 < np.sum(ops.convert_to_numpy(scores) == 0) < 18
    moved = [(ops.convert_to_numpy(x) != y).any() for x, y in zip(after, before, strict=True)]
    assert all(moved)


def test_regularizers_and_constraints_reach_every_kernel():
    layer = din_layers.AttentionPoolingLayer(
        (4,), kernel_regularizer=keras.regularizers.L2(1.0), kernel_constraint="non_neg"
    )
    layer.build([(None, 1, 3), (None, None, 3)])
    expected = sum((np.float64(k.numpy()) ** 2).sum() for k in layer.weights if "kernel" in k.path)
    np.testing.assert_allclose(sum(layer.losses), expected, rtol=1e-5)
    constrained = [w.constraint is not None for w in layer.trainable_weights]
    assert constrained == ["kernel" in w.path for w in layer.trainable_weights]


def test_scores_beyond_every_sentinel_are_still_ordered():
    """Adding -1e9 to invalid scores loses against a valid score of -2e9."""
    layer = din_layers.AttentionPoolingLayer((), att_activation=None)
    layer.build([(None, 1, 1), (None, None, 1)])
    kernel = np.array([[0.0], [1.0], [0.0], [0.0]])  # the score is the key itself
    layer.set_weights([kernel, np.zeros(1)])
    keys = np.array([[[-2e9], [-3e9], [5.0]]], "float32")
    _, scores = layer(
        [np.ones((1, 1, 1), "float32"), keys, np.array([[1, 1, 0]])], return_attention_scores=True
    )
    np.testing.assert_array_equal(scores, [[[1, 0, 0]]])


@pytest.mark.parametrize("skip_padding", [False, True])
def test_the_mask_of_the_candidates_goes_on_and_each_gets_its_result(skip_padding):
    layer = Attention(att_activation="dice", skip_padding=skip_padding).make()
    query, keys, ids = batch_of(queries=2)
    masks = [ops.convert_to_tensor([[1, 0], [0, 0], [1, 1], [0, 1]]), ids != 0]
    output, scores = layer([query, keys], mask=masks, return_attention_scores=True)
    unmasked = layer([query, keys], ids=ids)
    np.testing.assert_array_equal(output, unmasked)
    np.testing.assert_array_equal(output._keras_mask, masks[0])
    assert getattr(unmasked, "_keras_mask", None) is None
    assert getattr(scores, "_keras_mask", None) is None
    weighting = din_layers.AttentionPoolingLayer(mode="sequence")
    weighted = weighting([query[:, :1], keys], mask=[masks[0][:, :1], masks[1]])
    np.testing.assert_array_equal(weighted._keras_mask, masks[1])


def page_model(**attention):
    """Several candidates, as a user wires them; `Concatenate` needs the mask of both inputs."""
    page, history = (keras.Input((None,), dtype="int32") for _ in range(2))
    films = keras.layers.Embedding(20, 4, mask_zero=True)
    interest = din_layers.AttentionPoolingLayer((4,), **attention)([films(page), films(history)])
    x = keras.layers.Concatenate()([interest, films(page)])
    x = din_layers.Dice()(keras.layers.Dense(3)(x))
    model = keras.Model([page, history], keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", weighted_metrics=["auc"])
    return model


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("skip_padding", [False, True])
def test_padded_candidates_change_neither_the_loss_nor_any_statistics(weighted, skip_padding):
    rng = np.random.default_rng(0)
    page, history = rng.integers(1, 20, (6, 3)), rng.integers(0, 20, (6, 5))
    page[0, 1:], page[2] = 0, 0
    clicks = rng.integers(0, 2, (6, 3, 1))
    results = []
    for columns in (0, 2):
        keras.utils.set_random_seed(0)
        model = page_model(att_activation=din_layers.Dice(), skip_padding=skip_padding)
        padded, targets = (
            np.pad(x, [(0, 0), (0, columns)] + [(0, 0)] * (x.ndim - 2)) for x in (page, clicks)
        )
        given = {"sample_weight": (padded != 0).astype("float32")} if weighted else {}
        with recording():
            log = model.fit([padded, history], targets, epochs=2, batch_size=6, verbose=0, **given)
        log = log.history if weighted else {"loss": log.history["loss"]}  # Keras masks losses only
        results.append([*log.values(), *model.get_weights()])
    for padded, alone in zip(*results, strict=True):
        np.testing.assert_allclose(padded, alone, rtol=1e-4, atol=1e-6)


def test_a_model_of_an_earlier_version_hands_on_no_mask_of_its_candidates():
    config = din_layers.AttentionPoolingLayer(name="attend").get_config()
    del config["use_query_mask"]
    old, new = (
        din_layers.AttentionPoolingLayer.from_config(config),
        din_layers.AttentionPoolingLayer(),
    )
    inputs = [keras.Input((None, 4))] * 2
    masks = [keras.Input((None,), dtype="bool")] * 2
    assert old.compute_mask(inputs, masks) is None
    assert old.get_config()["use_query_mask"] is False
    assert new.compute_mask(inputs, masks) is masks[0]


@needs_tensorflow
def test_ragged_values_with_a_mask_of_their_own_raise_no_warning():
    """`tf.ragged.map_flat_values` leaves the mask of the flat ids on the flat values."""
    embedding = keras.layers.Embedding(9, 3, mask_zero=True)
    ids = tf.ragged.constant([[3, 5], [], [7]])
    keys = tf.ragged.map_flat_values(embedding, ids)
    layer = din_layers.AttentionPoolingLayer((4,))
    query = embedding(ops.convert_to_tensor([[1], [2], [3]]))
    np.testing.assert_array_equal(layer([query, keys]), layer([query, embedding(ids)]))


def test_padding_meets_no_singular_point_of_an_activation():
    """Zeroed keys under a query of zeros would: a norm has no gradient at 0."""

    def unit_norm(x):
        return x / keras.ops.norm(x, axis=-1, keepdims=True)

    layer = din_layers.AttentionPoolingLayer((6,), unit_norm)
    keys = np.random.default_rng(0).normal(size=(2, 3, 2)).astype("float32")
    mask = ops.convert_to_tensor([[True, False, True], [False, False, False]])
    output, _, gradients = differentiate(
        lambda keys: layer([ops.zeros((2, 1, 2)), keys], mask=mask), [keys], np.ones(2, bool)
    )
    np.testing.assert_array_equal(output[1], 0)
    assert len(gradients) == 4
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("config", [{}, {"weight_normalization": None}, {"mode": "sequence"}])
def test_the_query_of_an_empty_history_decides_nothing(config, garbage):
    layer = din_layers.AttentionPoolingLayer((4,), **config)
    query, keys, ids = batch_of()
    query[1] = garbage  # the history of this row is empty
    counted = ids != 0 if config.get("mode") else np.ones(4, bool)
    output, _, gradients = differentiate(
        lambda keys: layer([ops.convert_to_tensor(query), keys], ids=ids), [keys], counted
    )
    np.testing.assert_array_equal(output[1], 0)
    assert len(gradients) == 4
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("activation", ["dice", keras.layers.BatchNormalization()])
def test_frozen_is_frozen_after_loading_too(activation):
    """Also cloned, and frozen by the constructor."""
    layer = din_layers.AttentionPoolingLayer((4,), activation)
    layer.trainable = False
    for frozen in (
        layer,
        din_layers.AttentionPoolingLayer.from_config(layer.get_config()),
        din_layers.AttentionPoolingLayer((4,), activation, trainable=False),
    ):
        frozen.build([(None, 1, DIM), (None, None, DIM)])
        before = frozen.get_weights()
        frozen(batch_of(), training=True)
        assert not frozen.trainable_weights
        for old, new in zip(before, frozen.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


class Everything(keras.layers.BatchNormalization):
    """An activation with all that may go out of a layer on the side: state, losses, randomness."""

    def build(self, input_shape):
        super().build(input_shape)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None, mask=None):
        self.add_loss(ops.sum(ops.square(self.gamma)))
        noise = 0 * keras.random.normal(ops.shape(inputs), seed=self.seed_generator)
        return super().call(inputs, training=training, mask=mask) + noise


WITH_XLA = [False, True] if BACKEND == "tensorflow" else [BACKEND == "jax"]
SLOW = pytest.mark.slow  # XLA compiles for long


@pytest.mark.parametrize(
    ("activation", "jit_compile"),
    [
        pytest.param(activation, jit, marks=SLOW if jit and activation != "dice" else [])
        for activation in ("sigmoid", "dice", Everything(epsilon=1e-2))
        for jit in WITH_XLA
    ],
)
def test_fit_gives_the_same_weights_without_the_padding(activation, jit_compile, monkeypatch):
    """Whatever the share of events, which decides by itself what `None` does."""
    monkeypatch.setattr("din_layers._skip_padding._FEW", 1)
    rng = np.random.default_rng(0)
    lengths = np.array([0, 0, 2, 0, *[3, 0, 5, 4], *[8] * 4, *[13] * 4, *[30] * 4], "int32")
    keys = rng.normal(size=(20, 30, DIM)).astype("float32")
    keys[np.arange(30) >= lengths[:, None]] = np.nan
    data = [rng.normal(size=(20, 2, DIM)).astype("float32"), keys, lengths]
    results = []
    for skip in (False, True, None):
        inputs = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in data]
        layer = din_layers.AttentionPoolingLayer((4, 3), activation, skip_padding=skip)
        output = layer(inputs[:2], lengths=inputs[2])
        model = keras.Model(inputs, output)
        randomize(layer)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        with recording():
            model.fit(data, np.ones((20, 2, DIM)), batch_size=4, shuffle=False, verbose=0)
        results.append([model.predict(data, verbose=0), *model.get_weights()])
    assert len(results[0]) > 1
    for padded, skipped, chosen in zip(*results, strict=True):
        np.testing.assert_allclose(skipped, padded, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(chosen, padded, rtol=1e-3, atol=1e-4)


def jax_step(activation="sigmoid", **config):
    """Return a function of query, keys and lengths that gives their gradients."""
    import jax

    layer = din_layers.AttentionPoolingLayer((32, 16), activation, **config)
    layer.build([(None, 1, DIM), (None, None, DIM)])
    randomize(layer)

    def loss(query, keys, lengths):
        output = layer({"query": query, "keys": keys, "lengths": lengths})
        return ops.sum(ops.square(output))

    return jax.grad(loss, (0, 1))


def jax_inputs(batch):
    rng = np.random.default_rng(1)
    shapes = (batch, 1, DIM), (batch, 50, DIM)
    query, keys = (rng.normal(size=shape).astype("float32") for shape in shapes)
    return query, keys, rng.integers(0, 20, batch).astype("int32")


@pytest.mark.skipif(BACKEND != "jax", reason="loops over blocks are JAX's")
def test_memory_is_that_of_one_block():
    import jax

    padded, blocks = (
        jax.jit(jax_step(skip_padding=skip))
        .lower(*jax_inputs(64))
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for skip in (False, True)
    )
    assert blocks < padded / 3


@pytest.mark.skipif(BACKEND != "jax", reason="loops over blocks are JAX's")
@pytest.mark.parametrize("activation", ["sigmoid", "dice"])
@pytest.mark.parametrize("transform", ["vmap", "checkpoint"])
def test_blocks_under_the_transformations_of_jax(transform, activation):
    import jax

    padded, blocks = (jax_step(activation, skip_padding=skip) for skip in (False, True))
    inputs = jax_inputs(6)
    if transform == "vmap":
        inputs = [x.reshape(2, 3, *x.shape[1:]) for x in inputs]
        padded, blocks = jax.vmap(padded), jax.vmap(blocks)
    else:
        blocks = jax.checkpoint(blocks)
    for one, other in zip(jax.jit(blocks)(*inputs), jax.jit(padded)(*inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX spreads a batch over devices")
def test_a_batch_spread_over_devices_gives_what_one_gives():
    command = [sys.executable, Path(__file__).parent / "on_four_devices.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("skip_padding", [None, False, True])
def test_the_loss_of_an_activation_counts_no_padding(skip_padding):
    regularization = keras.layers.ActivityRegularization(l2=0.1)
    layer = din_layers.AttentionPoolingLayer((6, 3), regularization, skip_padding=skip_padding)
    query, keys, ids = batch_of(queries=2)
    losses = []
    for padding in (0, 5, 400):
        more = [[0, 0], [0, padding]]
        padded = np.pad(keys, [*more, [0, 0]], constant_values=9.0)
        layer([query, padded], ids=np.pad(ids, more), training=True)
        losses.append([float(loss) for loss in layer.losses])
    # Sums of 16 pairs in another order.
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)
    valid = np.repeat(keys[ids != 0], 2, 0)
    queries = np.concatenate([query[i] for i in np.nonzero(ids)[0]])
    features = np.concatenate([queries, valid, queries - valid, queries * valid], 1)
    expected, x = [], features.astype("float64")
    for dense in layer.unit.dense_layers[:2]:
        x = x @ np.asarray(dense.kernel, "float64") + np.asarray(dense.bias)
        expected.append(0.1 * np.square(x).sum() / len(x))
    np.testing.assert_allclose(sorted(losses[0]), sorted(expected), rtol=1e-5)


@pytest.mark.parametrize("rows", [5, 64, 0])
@pytest.mark.parametrize("skip_padding", [None, False, True])
def test_a_batch_without_events_leaves_batch_normalization_finite(skip_padding, rows):
    """Taken out of their padding, no events are left; of no rows Keras's statistics are NaN."""
    normalization = keras.layers.BatchNormalization()
    layer = din_layers.AttentionPoolingLayer((4,), normalization, skip_padding=skip_padding)
    query, keys = np.ones((rows, 1, DIM), "float32"), np.ones((rows, 50, DIM), "float32")
    ids = np.zeros((rows, 50), "int32")

    def call(query, keys, ids):
        return layer({"query": query, "keys": keys, "ids": ids}, training=True)

    runs = [call] if BACKEND != "tensorflow" else [call, tf.function(call)]
    for run in runs:
        # As arguments: TensorFlow 2.21 crashes where it folds constants without rows.
        output = run(*map(ops.convert_to_tensor, (query, keys, ids)))
        np.testing.assert_array_equal(output, np.zeros((rows, 1, DIM)))
        for kept in layer.non_trainable_variables:
            assert np.isfinite(ops.convert_to_numpy(kept)).all()


@pytest.mark.parametrize("skip_padding", [None, False, True])
@pytest.mark.parametrize("jit_compile", WITH_XLA)
def test_no_candidates_have_no_scores(skip_padding, jit_compile):
    layer = din_layers.AttentionPoolingLayer((4,), skip_padding=skip_padding)
    query, keys, ids = batch_of(queries=0)

    def call(query):
        inputs = {"query": query, "keys": keys, "ids": ids}
        return layer(inputs, return_attention_scores=True, training=True)

    calls = [call]
    if BACKEND == "tensorflow":
        any_number = [tf.TensorSpec((4, None, DIM))]
        calls.append(tf.function(call, input_signature=any_number))
        calls.append(tf.function(call, jit_compile=jit_compile))
    elif BACKEND == "jax":
        import jax

        calls.append(jax.jit(call))
    for run in calls:
        output, scores = run(ops.convert_to_tensor(query))
        assert tuple(output.shape) == (4, 0, DIM)
        assert tuple(scores.shape) == (4, 0, 5)


@pytest.mark.parametrize("batch", [(2, 2), (2, None), (None, 2)])
def test_shapes_are_told_before_anything_is_computed(batch):
    """Every size another number, so that none can stand for another."""
    pooling = din_layers.AttentionPoolingLayer([4])
    query, keys = (batch[0], 3, 5), (batch[1], 4, 5)
    assert pooling.compute_output_shape([query, keys]) == (2, 3, 5)
    inputs = [keras.KerasTensor(shape) for shape in (query, keys)]
    output, scores = pooling.compute_output_spec(inputs, return_attention_scores=True)
    assert (output.shape, scores.shape) == ((2, 3, 5), (2, 3, 4))
    weighting = din_layers.AttentionPoolingLayer([4], mode="sequence")
    assert weighting.compute_output_shape([(batch[0], 1, 5), keys]) == (2, 4, 5)


@needs_tensorflow
@pytest.mark.parametrize("dim", [3, 40])
def test_ragged_keys_wide_and_narrow(dim):
    """Which way the first layer goes depends on the time of padded keys, and on nothing else."""
    layer = din_layers.AttentionPoolingLayer((4,))
    query, keys = np.ones((2, 1, dim), "float32"), np.ones((2, 5, dim), "float32")
    keys[0, 1:4] = np.linspace(-1, 1, 3 * dim).reshape(3, dim)
    lengths = np.array([4, 2])
    ragged = tf.RaggedTensor.from_tensor(keys, lengths)
    np.testing.assert_allclose(layer([query, ragged]), layer([query, keys, lengths]), **CLOSE)


@pytest.mark.parametrize("mode", ["sum", "sequence"])
@pytest.mark.parametrize("skip_padding", [False, True])
def test_a_batch_without_events_trains_nothing(mode, skip_padding):
    """On PyTorch it had no graph of gradients where the events are taken out."""
    layer = din_layers.AttentionPoolingLayer((3,), mode=mode, skip_padding=skip_padding)
    query, keys, ids = keras.Input((1, 4)), keras.Input((5, 4)), keras.Input((5,), dtype="int32")
    model = keras.Model([query, keys, ids], layer([query, keys], ids=ids))
    model.compile("sgd", "mse")
    before = model.get_weights()
    inputs = [np.ones((2, 1, 4)), np.ones((2, 5, 4)), np.zeros((2, 5), "int32")]
    with recording():
        model.train_on_batch(inputs, np.ones((2, 1 if mode == "sum" else 5, 4)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("skip_padding", [False, True])
def test_large_numbers_in_half_precision_do_not_depend_on_the_length(skip_padding):
    """300 * 300 is infinite in float16; of 16 positions the products were multiplied out."""
    layer = Attention(dtype="mixed_float16", skip_padding=skip_padding).make()
    inputs = [np.full((2, 1, DIM), 300.0, "float32"), np.full((2, 17, DIM), 300.0, "float32")]
    lengths = np.array([3, 1])
    long = layer(inputs, lengths=lengths)
    short = layer([inputs[0], inputs[1][:, :16]], lengths=lengths)
    np.testing.assert_allclose(ops.convert_to_numpy(long), 300, rtol=1e-3)
    np.testing.assert_allclose(ops.convert_to_numpy(short), 300, rtol=1e-3)


@needs_tensorflow
def test_blocks_in_float64():
    import tensorflow as tf

    def gradients(skip_padding):
        layer = Attention(att_activation="dice", skip_padding=skip_padding, dtype="float64").make()
        query, keys, ids = batch_of()

        @tf.function(jit_compile=True)
        def step():
            with tf.GradientTape() as tape:
                output = layer([query, keys], ids=ids, training=True)
                loss = tf.reduce_sum(output**2)
            return tape.gradient(loss, [v.value for v in layer.trainable_variables])

        return step()

    for blocks, padded in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(blocks, padded, rtol=1e-6, atol=1e-9)
