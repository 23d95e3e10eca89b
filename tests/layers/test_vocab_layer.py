import json
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import needs_tensorflow
from hypothesis import example, given
from hypothesis import strategies as st

from din_layers import VocabLayer

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


@given(vocabularies(TEXTS))
@example((NASTY, None, [*NASTY, "a", "b"]))
@example((["a,b", "a", "b"], "", ["a,b", "a", "b", "b,a", ""]))
def test_strings_equal_a_dict(vocabulary):
    keys, mask_value, values = vocabulary
    ids = VocabLayer(keys, mask_value)(tf.constant(values, tf.string))
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [oracle(keys, mask_value, value) for value in values]


@given(vocabularies(INT64))
@example(([2**53, 2**53 + 1], -1, [2**53 + 1, 2**53, -1, 2**53 + 2]))
def test_integers_equal_a_dict(vocabulary):
    keys, mask_value, values = vocabulary
    ids = VocabLayer(keys, mask_value)(tf.constant(values, tf.int64))
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [oracle(keys, mask_value, value) for value in values]


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


def test_a_mask_value_among_the_keys_is_padding_and_keeps_its_place():
    layer = VocabLayer([str(i) for i in range(700)], mask_value="0")
    assert layer(["0", "1", "699", "700"]).numpy().tolist() == [0, 3, 701, 1]
    assert layer.vocabulary_size == 702


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
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


def test_vocabulary_size_is_what_embedding_needs():
    layer = VocabLayer(["abc", "d", "e"])
    embedding = keras.layers.Embedding(layer.vocabulary_size, 2)
    assert layer.vocabulary_size == 5
    assert embedding(layer(["abc", "d", "e", "f"])).shape == (4, 2)


@given(vocabularies(TEXTS) | vocabularies(INT64))
def test_the_config_is_plain_json(vocabulary):
    keys, mask_value, values = vocabulary
    layer = VocabLayer(keys, mask_value, name="topics")
    config = json.loads(json.dumps(layer.get_config()))
    again = VocabLayer.from_config(config)
    assert again.get_config() == layer.get_config()
    inputs = tf.constant(values, layer.key_dtype)
    np.testing.assert_array_equal(again(inputs), layer(inputs))


@needs_tensorflow
def test_the_archive_holds_the_keys_and_nothing_outside_it_matters(tmp_path):
    path = tmp_path / "model.keras"
    inputs = keras.Input((None,), dtype="string")
    keras.Model(inputs, VocabLayer(NASTY, mask_value=",")(inputs)).save(path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]
        assert str(tmp_path) not in archive.read("config.json").decode()
    model = keras.models.load_model(path)
    path.unlink()
    again = keras.models.clone_model(model)
    for reloaded in (model, again):
        ids = reloaded(tf.constant([[*NASTY, "unknown"]])).numpy()[0].tolist()
        assert ids == [oracle(NASTY, ",", value) for value in [*NASTY, "unknown"]]


@needs_tensorflow
def test_100_000_keys_survive_saving(tmp_path):
    path = tmp_path / "model.keras"
    keys = [f"key {i}\n" for i in range(100_000)]
    inputs = keras.Input((None,), dtype="string")
    keras.Model(inputs, VocabLayer(keys)(inputs)).save(path)
    model = keras.models.load_model(path)
    ids = model(tf.constant([[keys[-1], keys[0], "x"]]))
    assert ids.numpy().tolist() == [[100_001, 2, 1]]


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ([], ValueError, "`keys` must not be empty. Received: keys=[]"),
        (["a", "b", "a"], ValueError, "`keys` must not repeat a key. Received: repeated=['a']"),
        (list("aabbccddeeff"), ValueError, "Received: repeated=['a', 'b', 'c', 'd', 'e']"),
        ([1, np.int64(1)], ValueError, "Received: repeated=[1]"),
        (["a", "\ud800"], ValueError, r"`keys[1]` must be valid Unicode. Received: keys[1]='\ud"),
        ([2**63], ValueError, "`keys[0]` must fit into int64. Received: keys[0]=9223372036854775"),
        ([-(2**63) - 1], ValueError, "`keys[0]` must fit into int64"),
        ("topics.txt", TypeError, "`keys` must be an ordered collection of strings or of integers"),
        (b"ab", TypeError, "`keys` must be an ordered collection"),
        ({"a"}, TypeError, "`keys` must be an ordered collection"),
        (7, TypeError, "Received: keys=7"),
        (np.array(7), TypeError, "`keys` must be an ordered collection"),
        (None, TypeError, "Received: keys=None"),
        (["a", 1], TypeError, "`keys` must be all strings or all integers. Received: keys[0]='a'"),
        ([1, "a"], TypeError, "Received: keys[0]=1, keys[1]='a'"),
        ([True], TypeError, "`keys[0]` must be a string or an integer. Received: keys[0]=True"),
        ([1, np.True_], TypeError, "`keys[1]` must be a string or an integer"),
        ([1.0], TypeError, "`keys[0]` must be a string or an integer. Received: keys[0]=1.0"),
        ([b"a"], TypeError, "`keys[0]` must be a string or an integer. Received: keys[0]=b'a'"),
        (["a", None], TypeError, "`keys[1]` must be a string or an integer. Received: keys[1]=N"),
        (np.array([[1, 2]]), TypeError, "`keys[0]` must be a string or an integer"),
    ],
)
def test_wrong_keys(keys, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VocabLayer(keys)


@pytest.mark.parametrize(
    ("keys", "mask_value", "error", "message"),
    [
        (
            ["a"],
            0,
            TypeError,
            "`mask_value` must be of type string, as the keys are. Received: mas",
        ),
        ([1], "0", TypeError, "`mask_value` must be of an integer type, as the keys are"),
        (
            [1],
            0.0,
            TypeError,
            "`mask_value` must be a string or an integer. Received: mask_value=0",
        ),
        ([1], False, TypeError, "`mask_value` must be a string or an integer"),
        ([1], 2**63, ValueError, "`mask_value` must fit into int64"),
        (["a"], "\udfff", ValueError, "`mask_value` must be valid Unicode"),
    ],
)
def test_wrong_mask_value(keys, mask_value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VocabLayer(keys, mask_value)


@needs_tensorflow
@pytest.mark.parametrize(
    ("keys", "dtype", "expected"),
    [
        (["a"], "int32", "of type string"),
        (["a"], "float32", "of type string"),
        (["a"], "bool", "of type string"),
        ([1], "string", "of an integer type"),
        ([1], "float32", "of an integer type"),
        ([1], "bool", "of an integer type"),
    ],
)
def test_inputs_of_another_type_than_the_keys(keys, dtype, expected):
    layer = VocabLayer(keys)
    message = f"`inputs` must be {expected}, as the keys are. Received: inputs.dtype='{dtype}'"
    for inputs in (
        tf.zeros((2, 3), dtype),
        tf.RaggedTensor.from_row_lengths(tf.zeros(2, dtype), [2, 0]),
        keras.Input((3,), dtype=dtype),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            layer(inputs)
    with pytest.raises(TypeError, match=re.escape(message)):
        layer.compute_output_spec(keras.KerasTensor((2, 3), dtype))
    assert layer([*keys, *keys]).numpy().tolist() == [2, 2]
