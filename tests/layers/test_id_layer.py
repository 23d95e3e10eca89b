"""What VocabLayer and HashLayer have in common: containers, models, tf.data, backends."""

import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from hypothesis import given
from hypothesis import strategies as st

from din_layers import HashLayer, VocabLayer

WORDS = ["", "a", "b", "a\nb", "\0", "c,d", "😀", "unknown"]
NUMBERS = [0, 5, 3, -1, 4]
# How to make each layer, the dtype of its inputs, and some of them.
LAYERS = {
    "vocab of strings": (lambda: VocabLayer(WORDS[1:-1], mask_value=""), tf.string, WORDS),
    "vocab of integers": (lambda: VocabLayer([5, 3, -1], mask_value=0), tf.int64, NUMBERS),
    "hash of strings": (lambda: HashLayer(1000, mask_value=""), tf.string, WORDS),
    "hash of integers": (lambda: HashLayer(1000, True, mask_value=-1), tf.int32, NUMBERS),
    "hash of floats": (lambda: HashLayer(1000, True), tf.float32, [0.0, -0.0, 2.5, 70001.0]),
    "hash without padding": (lambda: HashLayer(1000), tf.string, WORDS),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


def made(kind):
    make, dtype, values = LAYERS[kind]
    return make(), dtype, values


def one_by_one(layer, dtype, values):
    """The oracle of every container: each value mapped alone."""
    return [int(layer(tf.constant(value, dtype))) for value in values]


def listed(ids):
    if isinstance(ids, tf.SparseTensor):
        return [x.numpy().tolist() for x in (ids.indices, ids.values, ids.dense_shape)]
    return ids.to_list() if isinstance(ids, tf.RaggedTensor) else np.asarray(ids).tolist()


@each_layer
@given(data=st.data())
def test_dense_ragged_and_sparse_agree(kind, data):
    layer, dtype, values = made(kind)
    rows = data.draw(st.lists(st.lists(st.sampled_from(values), max_size=4), max_size=4))
    flat = [value for row in rows for value in row]
    lengths = tf.constant([len(row) for row in rows], tf.int64)
    ragged = tf.RaggedTensor.from_row_lengths(tf.constant(flat, dtype), lengths)
    ids = ragged.with_flat_values(tf.constant(one_by_one(layer, dtype, flat), layer.output_dtype))
    padding = tf.constant(values[0], dtype)
    for inputs, expected in (
        (ragged, ids),
        (ragged.to_sparse(), ids.to_sparse()),
        (ragged.to_tensor(padding), ids.to_tensor(layer(padding))),
    ):
        output = layer(inputs)
        assert type(output) is type(expected)
        assert output.dtype == expected.dtype
        assert output.shape.as_list() == inputs.shape.as_list()
        assert listed(output) == listed(expected)


@each_layer
@pytest.mark.parametrize("inner", [(), (2,)])
def test_any_ragged_rank(kind, inner):
    layer, dtype, values = made(kind)
    flat = [values[i % len(values)] for i in range(6)]
    ragged = tf.reshape(tf.constant(flat, dtype), (-1, *inner))
    expected = tf.reshape(one_by_one(layer, dtype, flat), (-1, *inner))
    for lengths in ([2, 0, 1, len(ragged) - 3], [1, 3], [0, 2]):
        ragged = tf.RaggedTensor.from_row_lengths(ragged, lengths)
        ids = layer(ragged)
        assert ids.ragged_rank == ragged.ragged_rank
        assert ids.shape.as_list() == ragged.shape.as_list()
        assert ids.to_list() == ragged.with_flat_values(expected).to_list()


@each_layer
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 0, 3)])
def test_symbolic_equals_eager(kind, shape):
    layer, dtype, values = made(kind)
    data = tf.fill(shape, tf.constant(values[1], dtype))
    ids = layer(data)
    unknown = layer.compute_output_spec(keras.KerasTensor((None,) * len(shape), dtype.name))
    known = layer.compute_output_spec(keras.KerasTensor(shape, dtype.name))
    assert unknown.dtype == known.dtype == layer.output_dtype == ids.dtype.name
    assert unknown.shape == (None,) * len(shape)
    assert known.shape == layer.compute_output_shape(shape) == tuple(ids.shape) == shape
    traced = tf.function(made(kind)[0])  # which makes its tables in the graph
    for spec in (tf.TensorSpec(shape, dtype), tf.TensorSpec(None, dtype)):
        np.testing.assert_array_equal(traced.get_concrete_function(spec)(data), ids)


@each_layer
def test_a_sparse_tensor_keeps_its_static_shape(kind):
    layer, dtype, _ = made(kind)
    spec = tf.SparseTensorSpec([None, 3], dtype)
    ids = tf.function(layer).get_concrete_function(spec).structured_outputs
    assert ids.shape.as_list() == [None, 3]


@needs_tensorflow
@each_layer
@pytest.mark.parametrize("container", ["dense", "ragged", "sparse"])
def test_a_functional_model_predicts_what_the_layer_gives(kind, container):
    layer, dtype, values = made(kind)
    inputs = keras.Input(
        (None,), dtype=dtype.name, ragged=container == "ragged", sparse=container == "sparse"
    )
    outputs = layer(inputs)
    assert (outputs.dtype, outputs.shape) == (layer.output_dtype, (None, None))
    assert (outputs.ragged, outputs.sparse) == (inputs.ragged, inputs.sparse)
    model = keras.Model(inputs, outputs)
    data = tf.constant([values[:2], values[-2:]], dtype)
    if container == "ragged":
        data = tf.RaggedTensor.from_tensor(data, lengths=[1, 2])
    if container == "sparse":
        data = tf.RaggedTensor.from_tensor(data, lengths=[1, 2]).to_sparse()
    for result in (model(data), model.predict(data, verbose=0)):
        assert listed(result) == listed(layer(data))
        assert result.dtype == layer.output_dtype


@pytest.mark.parametrize("kind", [*LAYERS][:4])
def test_data_in_any_form(kind):
    layer, dtype, _ = made(kind)
    forms = [list, tuple, np.array, lambda x: np.array(x, object)]
    if dtype == tf.string:
        data, forms = ["a", "😀", ""], [*forms, tf.constant, np.char.encode]
    else:
        data, dtype = [5, 0, 2**40], tf.int64
    expected = one_by_one(layer, dtype, data)
    for form in forms:
        assert layer(form(data)).numpy().tolist() == expected


@each_layer
@pytest.mark.parametrize("empty", [[], [[], []], np.array([], object), np.zeros((0, 2), object)])
def test_empty_lists_have_no_dtype_to_be_wrong(kind, empty):
    layer, *_ = made(kind)
    ids = layer(empty)
    assert ids.dtype == layer.output_dtype
    assert tuple(ids.shape) == np.shape(empty)


@needs_tensorflow
@each_layer
def test_the_mask_goes_on(kind):
    layer, dtype, values = made(kind)
    mask = tf.constant([[True, False]])
    output = layer(tf.constant([values[:2]], dtype), mask=mask)
    np.testing.assert_array_equal(output._keras_mask, mask)


@needs_tensorflow
@each_layer
def test_fit_works_and_leaves_xla_alone(kind):
    layer, dtype, values = made(kind)
    inputs = keras.Input((2,), dtype=dtype.name)
    embedded = keras.layers.Embedding(1000, 2)(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(embedded)))
    # Asked for here, because without a GPU Keras never chooses XLA by itself.
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    data = tf.constant([values[:2], values[-2:]], dtype)
    loss = model.fit(data, np.ones(2), verbose=0).history["loss"]
    assert np.isfinite(loss).all()


@each_layer
def test_tf_data_under_any_backend(kind):
    layer, dtype, values = made(kind)
    rows = tf.ragged.constant([values[:1], [], values[:3]], dtype)
    data = tf.data.Dataset.from_tensor_slices(rows)
    one = data.map(lambda row: layer(tf.ensure_shape(row, [None])))
    batch = data.ragged_batch(3).map(layer)
    expected = [one_by_one(layer, dtype, row) for row in (values[:1], [], values[:3])]
    assert [ids.numpy().tolist() for ids in one] == expected
    assert [ids.to_list() for ids in batch] == [expected]
    assert one.element_spec.dtype == layer.output_dtype


def test_a_dataset_keeps_its_layer_alive():
    data = tf.data.Dataset.from_tensors(["b", "x"]).map(VocabLayer(["a", "b"]))
    assert [ids.numpy().tolist() for ids in data] == [[3, 1]]


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        {"ids": ["a"]},
        [keras.KerasTensor((1,), "string")],
        [tf.constant(["a"]), tf.constant(["b"])],
    ],
)
def test_inputs_that_are_not_one_tensor(inputs):
    layer = VocabLayer(["a"])
    with pytest.raises(TypeError, match=r"`inputs` must be one tensor. Received: inputs="):
        layer(inputs)
    assert layer(["a"]).numpy().tolist() == [2]


STRINGS, INTEGERS = "be of type string, as the keys are", "be of an integer type, as the keys are"


@needs_tensorflow
@pytest.mark.parametrize(
    ("layer", "dtype", "expected"),
    [
        *((VocabLayer(["a"]), dtype, STRINGS) for dtype in ("int32", "float32", "bool")),
        *((VocabLayer([1]), dtype, INTEGERS) for dtype in ("string", "float32", "bool")),
        (HashLayer(10), "bool", "hold strings, integers or floats"),
        (HashLayer(10), "complex64", "hold strings, integers or floats"),
    ],
)
def test_inputs_of_a_wrong_type(layer, dtype, expected):
    message = f"`inputs` must {expected}. Received: inputs.dtype='{dtype}'"
    for inputs in (
        tf.zeros((2, 3), dtype),
        tf.RaggedTensor.from_row_lengths(tf.zeros(2, dtype), [2, 0]),
        keras.Input((3,), dtype=dtype),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            layer(inputs)
    with pytest.raises(TypeError, match=re.escape(message)):
        layer.compute_output_spec(keras.KerasTensor((2, 3), dtype))
    assert layer([]).shape == (0,)


@pytest.mark.parametrize(
    "inputs",
    [
        [["a"], ["a", "b"]],
        ["a", 1],
        ["\ud800"],
        # TensorFlow takes these: a string for its characters, a bool for 1.
        [["a", "b"], "bc"],
        [2, True],
        [[2, 3], [True, False]],
        [1, None],
    ],
    ids=str,
)
def test_lists_that_make_no_tensor(inputs):
    layer = HashLayer(10)
    with pytest.raises(ValueError, match=re.escape(f"Received: inputs={inputs!r}")):
        layer(inputs)
    assert layer(["a"]).shape == (1,)


@pytest.mark.parametrize(
    "make", [lambda: HashLayer(10), lambda: VocabLayer(["a"]), lambda: VocabLayer([1])]
)
@pytest.mark.parametrize(
    "inputs",
    [
        pd.Series([1, None], dtype="Int64"),
        pd.Series([0.5, None], dtype="Float64"),
        pd.Series(["a", None], dtype="string"),
        pd.Series(["a", None], dtype="object"),
        pd.DataFrame({"a": ["a", None], "b": ["b", "a"]}, dtype="object"),
        np.array([["a", "b"], ["a", np.nan]], object),
        ["a", None],
        [["a", "b"], ["a", pd.NA]],
        [1, pd.NaT],
    ],
    ids=lambda x: str(getattr(x, "dtype", "frame or list")),
)
def test_missing_values_are_refused_with_what_to_write(make, inputs):
    layer = make()
    with pytest.raises(
        ValueError, match=r"`inputs` must have no missing value: .*`fillna\(\"\"\)`"
    ):
        layer(inputs)
    if isinstance(inputs, pd.Series) and inputs.dtype == "object":  # and that works
        for of_strings in (HashLayer(10, mask_value=""), VocabLayer(["a"], mask_value="")):
            assert (of_strings(inputs.fillna("")).numpy() > 0).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "UInt8", "object"])
def test_integers_of_pandas(dtype):
    values = pd.Series([5, 0, 7], dtype=dtype)
    for layer in (VocabLayer([5, 7]), HashLayer(1000)):
        assert layer(values).numpy().tolist() == layer([5, 0, 7]).numpy().tolist()
