import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from hypothesis import example, given
from hypothesis import strategies as st

from din_layers import HashLayer

# It computes with TensorFlow on every backend; test_id_layer.py runs on all.
pytestmark = needs_tensorflow

TEXTS = st.sampled_from(["", "0", "\0", "a\0", "\n", "😀"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=200
)
LARGEST = 2**63 - 1
BUCKETS = st.sampled_from([2, 3, 10, 1000, LARGEST]) | st.integers(2, LARGEST)
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "bfloat16", "float32", "float64"]

# FarmHash's Fingerprint64, of every length that it treats in a way of its own: in every process, on
# every machine, in every version of the package. Changing one of these numbers takes the meaning
# away from every embedding trained behind the layer.
GOLDEN = {
    "": 11160318154034397263,
    "0": 15198969275252572735,
    "7": 9813730750082856088,
    "-1": 7333874265151076430,
    "7.500000": 931091041325143923,
    "news": 4561235617249876157,
    "a\0": 10964267548211513180,
    "movies and series": 8856786601427326714,
    "😀" * 10: 8049367139127821572,
    "long " * 40: 7555097053982351323,
}


def oracle(text, num_buckets, paddings=None):
    """The id of `text`, for which 0 is kept where `paddings` is not None."""
    if paddings is None:
        return int(tf.strings.to_hash_bucket_fast(text, num_buckets))
    return 0 if text in paddings else 1 + oracle(text, num_buckets - 1)


@given(BUCKETS)
@example(LARGEST)
def test_golden_fingerprints(num_buckets):
    texts, fingerprints = list(GOLDEN), list(GOLDEN.values())
    assert HashLayer(num_buckets)(texts).numpy().tolist() == [x % num_buckets for x in fingerprints]
    expected = [1 + x % (num_buckets - 1) for x in fingerprints]
    assert HashLayer(num_buckets, mask_value="x")(texts).numpy().tolist() == expected


@given(st.lists(TEXTS, max_size=8), BUCKETS, st.booleans(), st.none() | TEXTS)
@example(["", "0", "a", "0.0", "00", "-0"], 2, True, "")
@example(["", "0", "a"], 10, False, "")
def test_padding_strings_become_0_and_nothing_else_does(texts, num_buckets, mask_zero, mask_value):
    paddings = {*(["0"] if mask_zero else []), *([] if mask_value is None else [mask_value])}
    ids = HashLayer(num_buckets, mask_zero, mask_value)(tf.constant(texts, tf.string))
    assert ids.dtype == tf.int64
    named = mask_zero or mask_value is not None
    expected = [oracle(text, num_buckets, paddings if named else None) for text in texts]
    assert ids.numpy().tolist() == expected
    assert all(0 <= x < num_buckets for x in expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_hashed_as_their_decimal_strings(dtype):
    limits = np.iinfo(dtype)
    values = np.array([limits.min, 0, 1, 7, limits.max], dtype)
    for mask_zero in (False, True):
        paddings = {"0"} if mask_zero else None
        expected = [oracle(str(value), 1000, paddings) for value in values.tolist()]
        assert HashLayer(1000, mask_zero)(values).numpy().tolist() == expected
    edge = HashLayer(1000, mask_value=int(limits.max))
    assert edge(values).numpy()[-1] == 0
    assert 0 not in edge(values).numpy()[:-1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_hashed_with_six_decimals(dtype):
    values = tf.constant([0.0, -0.0, 7.5, -2.25, 96.0], dtype)
    texts = ["0.000000", "-0.000000", "7.500000", "-2.250000", "96.000000"]
    assert HashLayer(1000)(values).numpy().tolist() == [oracle(text, 1000) for text in texts]
    zero = {"0.000000", "-0.000000"}
    expected = [oracle(text, 1000, zero) for text in texts]
    assert HashLayer(1000, mask_zero=True)(values).numpy().tolist() == expected
    expected = [oracle(text, 1000, zero | {"7.500000"}) for text in texts]
    assert HashLayer(1000, True, mask_value=7.5)(values).numpy().tolist() == expected


# TensorFlow compares subnormal numbers as zeros, NumPy does not.
@given(st.lists(st.floats(width=64, allow_nan=False), max_size=8), st.booleans())
@example([np.inf, -np.inf, 1e-9, 1e300, -1e-9], True)
@example([0.0, -0.0, 5e-324, -1e-310], True)
def test_floats_equal_the_definition(values, mask_zero):
    values = tf.constant(values, tf.float64)
    buckets = 9 if mask_zero else 10
    ids = tf.strings.to_hash_bucket_fast(tf.strings.as_string(values), buckets).numpy()
    if mask_zero:
        ids = np.where(values.numpy() == 0, 0, 1 + ids)
    np.testing.assert_array_equal(HashLayer(10, mask_zero)(values), ids)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("padding", [{"mask_zero": True}, {"mask_value": -1}, {"mask_value": 0.5}])
def test_nan_is_padding_where_padding_is_named(dtype, padding):
    layer = HashLayer(1000, **padding)
    values = tf.constant([np.nan, 7.5, -np.nan], dtype)
    expected = [0, layer(values[1:2]).numpy().item(), 0]
    assert layer(values).numpy().tolist() == expected
    assert tf.function(layer)(values).numpy().tolist() == expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_an_error_where_no_padding_is_named(dtype):
    layer, values = HashLayer(1000), tf.constant([7.5, np.nan], dtype)
    with pytest.raises(ValueError, match=r"`inputs` must have no NaN: fill it, or name padding"):
        layer(values)
    in_a_graph = tf.function(layer, reduce_retracing=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`inputs` must have no NaN"):
        in_a_graph(values)
    assert in_a_graph(values[:1]).numpy().tolist() == layer(values[:1]).numpy().tolist()
    with pytest.raises(ValueError, match="`inputs` must have no NaN"):
        layer(tf.RaggedTensor.from_row_lengths(values, [0, 2]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_subnormal_is_not_zero_nor_zero_a_subnormal(dtype):
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    subnormal = np.array([np.nextafter(dtype(0), dtype(1))], dtype)
    zeros = np.array([0.0, -0.0], dtype)
    assert HashLayer(100, mask_zero=True)(subnormal).numpy() > 0
    assert not HashLayer(100, mask_zero=True)(zeros).numpy().any()
    layer = HashLayer(100, mask_value=float(subnormal[0]))
    assert layer(subnormal).numpy() == 0
    assert layer(zeros).numpy().all()


def test_float64_arrays_arrive_in_predict_as_float32_and_tensors_unchanged():
    """As the docstring says."""
    layer = HashLayer(1000)
    ids = np.array([16777217.0, 0.1, 123456.789])
    inputs = keras.Input((), dtype="float64")
    model = keras.Model(inputs, layer(inputs))
    of_array, of_tensor = (
        model.predict(x, verbose=0).tolist() for x in (ids, tf.data.Dataset.from_tensors(ids))
    )
    assert of_tensor == layer(ids).numpy().tolist()
    assert of_array == layer(ids.astype("float32")).numpy().tolist() != of_tensor
    integers = keras.Input((), dtype="int64")
    model = keras.Model(integers, layer(integers))
    whole = np.array([2**24 + 1, 2**53 + 1])
    assert model.predict(whole, verbose=0).tolist() == layer(whole).numpy().tolist()


def test_a_float_mask_value_is_compared_in_the_inputs_precision():
    for dtype in FLOATS:
        ids = HashLayer(100, mask_value=0.1)(tf.constant([0.1, 0.5], dtype)).numpy()
        assert ids[0] == 0
        assert ids[1] > 0


def test_no_dtype_policy_rounds_an_id():
    keras.config.set_dtype_policy("mixed_float16")
    values = tf.constant([70001.0, 70002.0, 16777215.0], tf.float32)
    expected = [oracle(text, 1000) for text in ("70001.000000", "70002.000000", "16777215.000000")]
    inputs = keras.Input((), dtype="float32")
    ids = HashLayer(1000)(inputs)
    assert ids.dtype == "int64"
    assert keras.Model(inputs, ids)(values).numpy().tolist() == expected
    assert HashLayer(1000)(values).numpy().tolist() == expected


@pytest.mark.parametrize(
    ("kwargs", "inputs"),
    [
        ({"num_buckets": 1}, ["a", "b"]),
        ({"num_buckets": np.int64(7), "mask_zero": True}, [0, 5]),
        ({"num_buckets": 7, "mask_value": np.str_("")}, ["", "a"]),
        ({"num_buckets": 7, "mask_value": np.int32(-1)}, [-1, 5]),
        ({"num_buckets": 7, "mask_value": np.float32(0.5)}, [0.5, 5.0]),
    ],
)
def test_the_config_is_plain_json(kwargs, inputs):
    layer = HashLayer(**kwargs, name="tags")
    again = HashLayer.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(inputs), layer(inputs))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"num_buckets": 0}, ValueError, "must be at least 1. Received: num_buckets=0"),
        ({"num_buckets": 1, "mask_zero": True}, ValueError, "`num_buckets` must be at least 2"),
        ({"num_buckets": 1, "mask_value": ""}, ValueError, "`num_buckets` must be at least 2"),
        ({"num_buckets": 2**63}, ValueError, "`num_buckets` must fit into int64"),
        ({"num_buckets": 10.0}, TypeError, "`num_buckets` must be an integer"),
        ({"num_buckets": True}, TypeError, "`num_buckets` must be an integer"),
        ({"mask_zero": 1}, TypeError, "`mask_zero` must be a bool. Received: mask_zero=1"),
        ({"mask_value": True}, TypeError, "`mask_value` must be a string or a number"),
        ({"mask_value": [0]}, TypeError, "Received: mask_value=[0]"),
        ({"mask_value": float("nan")}, ValueError, "`mask_value` must be finite. Received: mask_v"),
        ({"mask_value": 2**64}, ValueError, "`mask_value` must fit into 64 bits"),
        ({"mask_value": "\ud800"}, ValueError, "`mask_value` must be valid Unicode"),
    ],
)
def test_wrong_arguments(kwargs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        HashLayer(**{"num_buckets": 10, **kwargs})


@pytest.mark.parametrize(
    ("mask_value", "dtype"),
    [
        ("", "int64"),
        ("0", "float32"),
        (0, "string"),
        (-1, "uint8"),
        (300, "int8"),
        (2**63, "int64"),
        (1e39, "float32"),
        (1e-60, "bfloat16"),
        (2**24 + 1, "float32"),
        (257, "bfloat16"),
    ],
)
def test_a_mask_value_that_can_never_be_met(mask_value, dtype):
    layer = HashLayer(10, mask_value=mask_value)
    message = (
        "`mask_value` must be a value that the inputs can have. "
        f"Received: mask_value={mask_value!r}, inputs.dtype={dtype!r}"
    )
    for inputs in (tf.zeros((2, 3), dtype), keras.Input((3,), dtype=dtype)):
        with pytest.raises(TypeError, match=re.escape(message)):
            layer(inputs)
    assert layer(np.array([mask_value])).numpy().tolist() == [0]
