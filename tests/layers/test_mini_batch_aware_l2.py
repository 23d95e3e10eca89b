"""Mini-batch aware regularisation against its definition, row by row in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import BACKEND, needs_tensorflow, recording
from helpers.strategies import values
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from keras import ops

from din_layers import MiniBatchAwareL2, SequencePoolingLayer
from din_layers.testing._fresh_process import run_fresh
from din_layers.testing._gradients import differentiate

ROWS, DIM = 6, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums of a few products

ids_of_any_shape = arrays(
    np.int32,
    array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=st.integers(0, ROWS - 1),
    fill=st.nothing(),  # each is drawn: an array is mostly one number else
)
frequencies = st.lists(st.integers(0, 9), min_size=ROWS, max_size=ROWS)


def oracle(table, ids, frequencies, l2, mask_value):
    """Return the penalty and its gradient with respect to the table."""
    penalty, gradient = 0.0, np.zeros(table.shape)
    for row in {int(i) for x in ids for i in x.ravel()} - {mask_value}:
        rate = l2 / max(frequencies[row], 1)
        penalty += rate * (table[row].astype("float64") ** 2).sum()
        gradient[row] = 2 * rate * table[row]
    return penalty, gradient


def with_gradient(layer, table, ids):
    """Return penalty and gradient of the table for ids, an array or a list of arrays."""

    def penalty_of(table):
        vectors = keras.tree.map_structure(lambda x: ops.take(table, x, axis=0), ids)
        # JAX's gradients are taken where a layer keeps nothing, its losses neither.
        with keras.StatelessScope(collect_losses=True) as scope:
            outputs = layer(vectors, ids)
        (penalty,) = scope.losses
        for output, vector in zip(
            keras.tree.flatten(outputs), keras.tree.flatten(vectors), strict=True
        ):
            assert output is vector
        return ops.reshape(penalty, (1, 1))

    penalty, (gradient,), _ = differentiate(penalty_of, [table], np.ones(1, bool), variables=[])
    return penalty.item(), gradient


@given(
    table=values((ROWS, DIM)),
    ids=st.lists(ids_of_any_shape, min_size=1, max_size=3),
    counts=frequencies,
    l2=st.sampled_from([0.0, 0.01, 2.0]),
    mask_value=st.sampled_from([None, 0, 2]),
)
@example(np.ones((ROWS, DIM), "float32"), [np.array(4, np.int32)], [1] * ROWS, 1.0, 0)
def test_each_distinct_row_counts_once_by_its_frequency(table, ids, counts, l2, mask_value):
    layer = MiniBatchAwareL2(counts, l2, mask_value)
    penalty, gradient = with_gradient(layer, table, ids)
    expected, expected_gradient = oracle(table, ids, counts, l2, mask_value)
    assert penalty == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, **CLOSE)


@needs_tensorflow
@given(table=values((ROWS, DIM)), counts=frequencies, data=st.data())
def test_ragged_ids_are_their_events(table, counts, data):
    rows = data.draw(st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), min_size=1))
    ragged = tf.ragged.constant(rows, dtype="int32")
    layer = MiniBatchAwareL2(counts, 0.5)
    output = layer(tf.gather(table, ragged), ragged)
    assert isinstance(output, tf.RaggedTensor)
    flat = np.array(list(itertools.chain(*rows)), np.int32)
    assert float(layer.losses[0]) == pytest.approx(
        oracle(table, [flat], counts, 0.5, 0)[0], rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 3e38])
def test_padding_is_inert(garbage):
    table = np.ones((ROWS, DIM), "float32")
    table[0] = garbage
    ids = np.array([[1, 0, 1], [0, 0, 3]])
    penalty, gradient = with_gradient(MiniBatchAwareL2([0, 2, 5, 4, 1, 1], 1.0), table, ids)
    assert penalty == pytest.approx(3 / 2 + 3 / 4)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "dtype",
    # JAX has no float64 by default.
    ["mixed_float16", "mixed_bfloat16"] + ["float64"] * (BACKEND != "jax"),
)
def test_squares_do_not_overflow_in_other_precisions(dtype):
    layer = MiniBatchAwareL2([1, 1], 1.0, dtype=dtype)
    layer(np.full((1, 1, 4), 512.0), np.array([[1]]))
    assert float(layer.losses[0]) == 4 * 512.0**2


def two_inputs():
    """A model whose history and candidate share a table."""
    history, candidate = keras.Input((None,), dtype="int32"), keras.Input((1,), dtype="int32")
    table = keras.layers.Embedding(ROWS, DIM, mask_zero=True, name="table")
    layer = MiniBatchAwareL2(np.arange(ROWS), 0.3)
    vectors = layer([table(history), table(candidate)], [history, candidate])
    pooled = [keras.layers.GlobalAveragePooling1D()(x) for x in vectors]  # reads the mask
    output = keras.layers.Dense(1)(keras.layers.Concatenate()(pooled))
    return keras.Model([history, candidate], output)


IDS = [np.array([[1, 2, 2, 0], [2, 5, 0, 0]]), np.array([[5], [3]])]


# torch.compile takes a minute; that of a whole DIN was compared once, see docs/backends.md.
@pytest.mark.parametrize("jit_compile", [False] if BACKEND == "torch" else [False, True])
def test_a_training_step_shrinks_the_rows_of_the_batch(jit_compile):
    model = two_inputs()
    # The gradient is that of nothing but the penalty.
    model.compile("sgd", lambda y_true, y_pred: 0.0 * y_pred, jit_compile=jit_compile)
    before = model.get_layer("table").get_weights()[0]
    with recording():
        model.fit(IDS, np.zeros(2), verbose=0)
    penalty, gradient = oracle(before, IDS, np.arange(ROWS), 0.3, 0)
    after = model.get_layer("table").get_weights()[0]
    np.testing.assert_allclose(after, before - 0.01 * gradient, **CLOSE)
    assert penalty > 0


@pytest.mark.parametrize("lists", [*itertools.product([False, True], repeat=2)], ids=str)
def test_one_tensor_may_come_in_a_list(lists, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    vectors = keras.layers.Embedding(3, DIM, embeddings_initializer="ones", mask_zero=True)(ids)
    given = ([x] if listed else x for x, listed in zip((vectors, ids), lists, strict=True))
    output = MiniBatchAwareL2([0, 1, 10], l2=0.5)(*given)
    assert isinstance(output, list) == lists[0]  # it is what the vectors are
    model = keras.Model(ids, SequencePoolingLayer("sum")(output[0] if lists[0] else output))
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        sums = each(np.array([[1, 2, 0]]))
        assert keras.ops.convert_to_numpy(sums).tolist() == [[[2.0] * DIM]]
        assert float(each.losses[0]) == pytest.approx(0.5 * DIM * (1 + 1 / 10))


def test_bad_inputs_leave_the_layer_usable():
    layer = MiniBatchAwareL2([1, 1])
    with pytest.raises(ValueError, match=r"`vectors` must be one tensor \(..., dim\) for each"):
        layer(np.ones((2, 3)), np.ones((2, 3), int))
    with pytest.raises(ValueError, match=r"vectors.shape=\[\(4, 5, 3\)\], ids.shape=\[\(4, 6\)\]"):
        layer(np.ones((4, 5, 3)), np.ones((4, 6), int))
    with pytest.raises(ValueError, match="`vectors` must be one tensor"):
        layer([np.ones((2, 3))], [np.ones(2, int), np.ones(2, int)])
    with pytest.raises(TypeError, match=r"`ids` must be integers. Received: ids.dtype='float32'"):
        layer(np.ones((2, 3)), np.ones(2))
    layer(np.ones((2, 3)), np.ones(2, int))
    assert float(layer.losses[0]) == pytest.approx(0.03)


@pytest.mark.parametrize("jit_compile", [False] if BACKEND == "torch" else [False, True])
@pytest.mark.parametrize("wrong", [-1, ROWS])
def test_an_id_without_a_frequency_gives_no_plausible_loss(wrong, jit_compile):
    vectors, ids = keras.Input((None, DIM)), keras.Input((None,), dtype="int32")
    model = keras.Model([vectors, ids], MiniBatchAwareL2([1] * ROWS)(vectors, ids))
    model.compile(loss=lambda y_true, y_pred: 0.0 * y_pred, jit_compile=jit_compile)
    for row, defined in (([1, ROWS - 1], True), ([1, wrong], False)):
        inputs = [np.ones((1, 2, DIM)), np.array([row])]
        assert np.isfinite(model.evaluate(inputs, np.ones((1, 2, DIM)), verbose=0)) == defined


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64"])
def test_ids_of_any_integer_type(dtype):
    layer = MiniBatchAwareL2([1, 1, 4], 1.0)
    layer(np.ones((3, DIM)), np.array([2, 1, 2], dtype))
    assert float(layer.losses[0]) == pytest.approx(DIM * (1 + 1 / 4))


@needs_tensorflow
def test_what_cannot_come_from_one_table():
    layer, ids = MiniBatchAwareL2([1, 1]), np.ones((1, 1), int)
    with pytest.raises(ValueError, match="`vectors` must be rows of one table, of one `dim`"):
        layer([np.ones((1, 1, 2)), np.ones((1, 1, 3))], [ids, ids])
    with pytest.raises(TypeError, match="`vectors` must be ragged if and only if `ids` are"):
        layer(np.ones((1, 1, 2)), tf.RaggedTensor.from_tensor(ids))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there ragged tensors are right")
def test_ragged_input_elsewhere():
    ids = tf.ragged.constant([[1], [1, 0]])
    layer = MiniBatchAwareL2([1, 1])
    for vectors in (np.ones((2, 2, DIM)), tf.RaggedTensor.from_tensor(np.ones((2, 2, DIM)))):
        with pytest.raises(ValueError, match=r"`inputs` must be dense numbers: ragged tensors and"):
            layer(vectors, ids)
    layer(vectors=np.ones((2, DIM)), ids=np.ones(2, int))
    assert float(layer.losses[0]) == pytest.approx(0.01 * DIM)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
import din_layers
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = din_layers.MiniBatchAwareL2([1, 1])
try:
    strategy.run(lambda: layer(tf.ones((2, 3, 4)), tf.zeros((2, 3), "int32")))
except ValueError as error:
    print(error)
"""


@needs_tensorflow
@pytest.mark.slow
def test_replicas_that_each_see_a_part_of_the_batch_are_refused():
    assert "`vectors` must come to one replica" in run_fresh(REPLICAS)
