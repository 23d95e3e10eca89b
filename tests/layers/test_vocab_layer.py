import json
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from hypothesis import example, given
from hypothesis import strategies as st

from din_layers import VocabLayer

# It computes with TensorFlow on every backend; test_id_layer.py runs on all.
pytestmark = needs_tensorflow

NASTY = ["", "\0", "a\0", "\n", "a\r\nb", ",", "a,b", "[UNK]", " ", "0", "é", "e\u0301", "😀"]
TEXTS = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INT64 = st.sampled_from([0, -1, -(2**63), 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def oracle(keys, mask_value, value):
    if mask_value is not None and value == mask_value:
        return 0
    return list(keys).index(value) + 2 if value in keys else 1


@st.composite
def vocabularies(draw, elements):
    """Keys, a mask value or None, and inputs of which many are keys or the mask value."""
    keys = draw(st.lists(elements, min_size=1, max_size=12, unique=True))
    mask_value = draw(st.none() | elements | st.sampled_from(keys))
    known = st.sampled_from([*keys, *([] if mask_value is None else [mask_value])])
    return keys, mask_value, draw(st.lists(known | elements, max_size=12))


def check_against_a_dict(keys, mask_value, values):
    """Of the layer and of the one that its config makes."""
    layer = VocabLayer(keys, mask_value, name="topics")
    again = VocabLayer.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    for same in (layer, again):
        ids = same(tf.constant(values, layer.key_dtype))
        assert ids.dtype == tf.int32
        assert ids.numpy().tolist() == [oracle(keys, mask_value, value) for value in values]


@given(vocabularies(TEXTS))
@example((NASTY, None, [*NASTY, "a", "b"]))
@example((["a,b", "a", "b"], "", ["a,b", "a", "b", "b,a", ""]))
def test_strings_equal_a_dict(vocabulary):
    check_against_a_dict(*vocabulary)


@given(vocabularies(INT64))
@example(([2**53, 2**53 + 1], -1, [2**53 + 1, 2**53, -1, 2**53 + 2]))
def test_integers_equal_a_dict(vocabulary):
    check_against_a_dict(*vocabulary)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype_reaches_the_keys(dtype):
    limits = np.iinfo(dtype)
    values = np.array([limits.min, 0, 7, limits.max], dtype)
    keys = [7, -1, -128, 127, 255, -(2**63)]
    expected = [oracle(keys, 0, value) for value in values.tolist()]
    layer = VocabLayer(keys, mask_value=0)
    assert layer(values).numpy().tolist() == expected
    assert layer(tf.constant(values)).numpy().tolist() == expected


def test_uint64_above_int64_does_not_wrap_onto_a_key_or_the_mask_value():
    layer = VocabLayer([-1, 5], mask_value=-2)
    values = np.array([2**64 - 1, 2**64 - 2, 5, 2**63], "uint64")
    assert layer(values).numpy().tolist() == [1, 1, 3, 1]


@pytest.mark.parametrize(
    "keys",
    [
        ("a", "b"),
        np.array(["a", "b"]),
        np.array([b"a", b"b"]),
        [b"a", "b"],
        pd.Series(["a", "b"]),
        {"a": 1, "b": 2}.keys(),
        (key for key in "ab"),
    ],
)
def test_any_ordered_iterable_of_strings(keys):
    layer = VocabLayer(keys)
    assert layer(["b", "a", "c"]).numpy().tolist() == [3, 2, 1]
    assert json.loads(json.dumps(layer.get_config()))["keys"] == ["a", "b"]


@pytest.mark.parametrize("keys", [range(3, 5), np.arange(3, 5, dtype="uint8"), [np.int32(3), 4]])
def test_any_ordered_iterable_of_integers(keys):
    layer = VocabLayer(keys, mask_value=np.int8(0))
    assert layer([4, 3, 2, 0]).numpy().tolist() == [3, 2, 1, 0]
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["keys"], config["mask_value"]) == ([3, 4], 0)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ([], ValueError, "`keys` must not be empty. Received: keys=[]"),
        (["a", "b", "a"], ValueError, "`keys` must not repeat a key. Received: repeated=['a']"),
        ([1, np.int64(1)], ValueError, "Received: repeated=[1]"),
        (["a", "\ud800"], ValueError, r"`keys[1]` must be valid Unicode. Received: keys[1]='\ud"),
        ([2**63], ValueError, "`keys[0]` must fit into int64. Received: keys[0]=9223372036854775"),
        ("topics.txt", TypeError, "`keys` must be an ordered collection of strings or of integers"),
        ({"a"}, TypeError, "`keys` must be an ordered collection"),
        (np.array(7), TypeError, "`keys` must be an ordered collection"),
        (["a", 1], TypeError, "`keys` must be all strings or all integers. Received: keys[0]='a'"),
        ([True], TypeError, "`keys[0]` must be a string or an integer. Received: keys[0]=True"),
        ([1, np.True_], TypeError, "`keys[1]` must be a string or an integer"),
        ([b"\xff"], ValueError, "`keys[0]` must be valid UTF-8. Received: keys[0]=b'\\xff'"),
        ([b"a", "a"], ValueError, "`keys` must not repeat a key. Received: repeated=['a']"),
        ({"b": 7}, TypeError, "`keys` must be an ordered collection of strings or of integers"),
        (["a", None], TypeError, "`keys[1]` must be a string or an integer. Received: keys[1]=N"),
        (np.array([[1, 2]]), TypeError, "`keys` must be an ordered collection"),
    ],
)
def test_wrong_keys(keys, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VocabLayer(keys)


@pytest.mark.parametrize(
    ("keys", "mask_value", "error", "message"),
    [
        (["a"], 0, TypeError, "`mask_value` must be of type string, as the keys are. Received: "),
        ([1], "0", TypeError, "`mask_value` must be of an integer type, as the keys are"),
        ([1], False, TypeError, "`mask_value` must be a string or an integer"),
        ([1], 2**63, ValueError, "`mask_value` must fit into int64"),
        (["a"], b"\xff", ValueError, "`mask_value` must be valid UTF-8"),
    ],
)
def test_wrong_mask_value(keys, mask_value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VocabLayer(keys, mask_value)


# adapt -------------------------------------------------------------------------------------------

COMMON = st.lists(TEXTS | st.sampled_from("abc"), min_size=1, max_size=30)


def adapted(data, mask_value, max_tokens=None):
    layer = VocabLayer(mask_value=mask_value)
    layer.adapt(data, max_tokens)
    return layer


def check_against_keras(lookup, values, mask_value, max_tokens):
    keras_lookup = lookup(mask_token=mask_value, max_tokens=max_tokens)
    keras_lookup.adapt(values)
    layer = adapted(values, mask_value, max_tokens)
    theirs = keras_lookup.get_vocabulary(include_special_tokens=False)
    assert list(layer.keys) == theirs
    assert layer.vocabulary_size == keras_lookup.vocabulary_size()
    for same in (layer, VocabLayer(theirs, mask_value)):
        np.testing.assert_array_equal(same(values), keras_lookup(values))


@given(values=COMMON, max_tokens=st.none() | st.integers(3, 9))
@example([*"bbaac", "", "", ""], 4)
@example(["é", "e", "z", "😀"], None)
def test_adapt_finds_the_keys_of_string_lookup(values, max_tokens):
    # Keras keeps a token for itself, and drops NULs from the end of others.
    values = [value for value in values if value != "[UNK]" and not value.endswith("\0")] + ["a"]
    check_against_keras(keras.layers.StringLookup, tf.constant(values), "", max_tokens)


@given(
    values=st.lists(st.integers(0, 5) | INT64, min_size=1, max_size=30),
    max_tokens=st.none() | st.integers(3, 9),
)
@example([3, -7, 2**40, 3], None)
def test_adapt_finds_the_keys_of_integer_lookup(values, max_tokens):
    values = [value for value in values if value != -1] + [1]  # -1 is unknown to Keras
    check_against_keras(keras.layers.IntegerLookup, np.array(values), 0, max_tokens)


ROWS = [["a", "b"], ["b"], [], ["c", "b", "a"]]
RAGGED = tf.ragged.constant(ROWS)
FORMS = {
    "ragged": lambda: RAGGED,
    "sparse": RAGGED.to_sparse,
    "padded": lambda: RAGGED.to_tensor(""),
    "lists": lambda: [["a", "b", "c"], ["b", "a", "b"]],
    "one list": lambda: list("abbcba"),
    "array of bytes": lambda: np.array(list("abbcba"), "S"),
    "array of objects": lambda: np.array(list("abbcba"), object),
    "pandas": lambda: pd.Series(list("abbcba")),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(list("abbcba")),
    "batches": lambda: tf.data.Dataset.from_tensor_slices(RAGGED).batch(3),
    "generator": lambda: (row for row in ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_adapt_takes_data_in_any_form(form):
    assert adapted(FORMS[form](), mask_value="").keys == ("b", "a", "c")
    assert adapted(FORMS[form](), mask_value="", max_tokens=4).keys == ("b", "a")


def test_what_adapt_has_found_is_in_the_config():
    layer = adapted(["b", "b", "a"], mask_value="")
    again = VocabLayer.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.keys == ("b", "a")
    before = VocabLayer(mask_value="")
    again = VocabLayer.from_config(json.loads(json.dumps(before.get_config())))
    again.adapt(["b"])
    assert again(["b", "", "c"]).numpy().tolist() == [2, 0, 1]


def test_without_keys_the_layer_says_what_it_needs():
    layer = VocabLayer(mask_value="")
    for use in (
        lambda: layer(["a"]),
        lambda: layer([]),
        lambda: layer.vocabulary_size,
        lambda: layer.compute_output_spec(keras.KerasTensor((2,), "string")),
    ):
        with pytest.raises(ValueError, match="`keys` must be given, or found by `adapt`, before"):
            use()
    layer.adapt(["a"])
    assert layer(["a"]).numpy().tolist() == [2]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([], ValueError, "`data` must hold a key"),
        ([""], ValueError, "`data` must hold a key"),
        ("topics.txt", TypeError, "`data` must be a collection of strings. Received: data='topics"),
        (None, TypeError, "`data` must be one tensor. Received: data=None"),
        ([1.5], TypeError, "`data` must be strings or integers. Received: data.dtype='float32'"),
        ([True], TypeError, "`data` must be strings or integers. Received: data.dtype='bool'"),
        ([["a"], "bc"], ValueError, "`data` must be a tensor, an array or nested lists of one"),
        ([b"\xff"], ValueError, "`data[0]` must be valid UTF-8"),
        ([1, 2], TypeError, "`mask_value` must be of an integer type, as the keys are"),
        (pd.Series([1, None], dtype="Int64"), ValueError, "`data` must have no missing value"),
        (tf.data.Dataset.from_tensors((["a"], [1])), TypeError, "`data` must be one tensor"),
        (iter([["a"], [1]]), TypeError, "must be all strings or all integers. Received: data"),
    ],
)
def test_data_without_keys(data, error, text):
    layer = VocabLayer(mask_value="")
    with pytest.raises(error, match=re.escape(text)):
        layer.adapt(data)
    layer.adapt(["a"])
    assert layer.keys == ("a",)


def test_adapt_cannot_change_the_ids_of_a_layer_that_has_keys():
    layer = VocabLayer(["a"])
    with pytest.raises(ValueError, match="`adapt` must be called on a layer without keys"):
        layer.adapt(["b"])
    with pytest.raises(ValueError, match="`max_tokens` must be at least 3"):
        VocabLayer().adapt(["b"], max_tokens=2)
    with pytest.raises(TypeError, match="`max_tokens` must be an integer"):
        VocabLayer().adapt(["b"], max_tokens=3.0)
