"""What only SequencePoolingLayer has: ragged companions, nested events, numbers near limits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import BACKEND, needs_tensorflow, recording
from helpers.layers import POOLING_MODES
from keras import ops

import din_layers

SEQUENCE = np.arange(24, dtype="float32").reshape(2, 4, 3)


def test_without_any_source_every_position_counts():
    layer = din_layers.SequencePoolingLayer("max")
    lengths = np.array([4, 4])
    np.testing.assert_array_equal(layer(SEQUENCE), layer([SEQUENCE, lengths]))


@needs_tensorflow
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_graph_need_not_know_dim(mode):
    layer = din_layers.SequencePoolingLayer(mode)
    graph = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec([None] * 3)])
    np.testing.assert_allclose(graph(SEQUENCE), layer(SEQUENCE), rtol=1e-6)


def test_integers_are_pooled_in_the_compute_dtype():
    output = din_layers.SequencePoolingLayer("mean")(np.array([[[1], [2]]]))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_array_equal(output, [[[1.5]]])


def test_a_long_float16_history_does_not_overflow():
    layer = din_layers.SequencePoolingLayer("mean", dtype="mixed_float16")
    np.testing.assert_array_equal(layer(np.full((1, 1000, 1), 1000.0)), [[[1000]]])


@needs_tensorflow
def test_a_ragged_mask_or_ids_can_cut_a_ragged_sequence_further():
    ragged = tf.RaggedTensor.from_row_lengths(
        ops.convert_to_tensor([[1.0], [2], [4], [8]]), [3, 0, 1]
    )
    layer = din_layers.SequencePoolingLayer("sum")
    mask = ragged.with_values(ops.convert_to_tensor([True, False, True, False]))
    np.testing.assert_array_equal(layer(ragged, mask=mask)[:, 0, 0], [5, 0, 0])
    ids = ragged.with_values(ops.convert_to_tensor([0, 7, 7, 7]))
    np.testing.assert_array_equal(layer([ragged, ids])[:, 0, 0], [6, 0, 8])
    np.testing.assert_array_equal(layer([ragged, ids], mask=[mask, None])[:, 0, 0], [4, 0, 0])
    dense = ops.convert_to_tensor([[True, True, False], [True] * 3, [True] * 3])
    np.testing.assert_array_equal(layer(ragged, mask=dense)[:, 0, 0], [3, 0, 8])
    np.testing.assert_array_equal(layer([ragged, np.array([1, 1, 1])])[:, 0, 0], [1, 0, 8])


@needs_tensorflow
@pytest.mark.parametrize("dim", [1, 5])
def test_ragged_ids_or_a_ragged_mask_beside_a_dense_sequence(dim):
    """What the rows of the ids leave out is not valid; `dim` is another number than the time."""
    ids = tf.ragged.constant([[5, 0], [], [5, 5, 5]])
    sequence = np.ones((3, 4, dim), "float32")
    layer = din_layers.SequencePoolingLayer("sum")
    expected = np.float32([1, 0, 3])[:, None, None] * np.ones((1, 1, dim))
    np.testing.assert_array_equal(layer([sequence, ids]), expected)
    np.testing.assert_array_equal(layer(sequence, mask=ids > 0), expected)


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "companion"),
    [
        ("lengths", [[2], [1], [1]]),
        ("ids", [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ("ids", [[1, 0, 1, 1, 0], [0] * 5, [0, 1, 0, 0, 9]]),  # wider than the longest row
    ],
)
def test_dense_companions_of_unknown_size_beside_a_ragged_sequence(name, companion):
    sequence = tf.RaggedTensor.from_row_lengths(ops.ones((5, 2)), [3, 0, 2])
    layer = din_layers.SequencePoolingLayer("sum")
    spec = tf.RaggedTensorSpec([None, None, 2], ragged_rank=1)
    graph = tf.function(lambda sequence, companion: layer(sequence, **{name: companion}))
    graph = graph.get_concrete_function(spec, tf.TensorSpec([None, None], "int32"))
    companion = tf.constant(companion, "int32")
    for pooled in (layer([sequence, companion]), graph(sequence, companion)):
        np.testing.assert_array_equal(pooled[:, 0, 0], [2, 0, 1])


@pytest.mark.parametrize("value", [7, 255, -1, 300])
def test_a_mask_value_that_the_ids_cannot_hold_would_mask_nothing(value):
    ids = np.array([[7, 0, 7, 255], [1, 2, 3, 4]], "uint8")
    layer = din_layers.SequencePoolingLayer("sum", hist_mask_value=value)
    if value in (7, 255):
        expected = (SEQUENCE * (ids != value)[..., None]).sum(1, keepdims=True)
        np.testing.assert_array_equal(layer(SEQUENCE, ids=ids), expected)
    else:
        with pytest.raises(ValueError, match=f"Received: hist_mask_value={value}, ids.dtype='uint"):
            layer(SEQUENCE, ids=ids)


@pytest.mark.parametrize("ragged", [False, pytest.param(True, marks=needs_tensorflow)])
def test_a_mean_near_the_largest_number(ragged):
    largest = np.finfo("float32").max
    sequence = np.full((1, 3, 1), largest)
    sequence = tf.RaggedTensor.from_tensor(sequence) if ragged else sequence
    pooled = din_layers.SequencePoolingLayer("mean")(sequence)
    np.testing.assert_allclose(pooled, [[[largest]]], rtol=1e-6)


TAGS = np.array([[[1, 2], [0, 0], [0, 3]], [[0, 0]] * 3, [[4, 4], [5, 0], [6, 7]]], "int32")
NESTED = np.arange(36, dtype="float32").reshape(3, 3, 2, 2)
QUERY = np.linspace(-1, 1, 9, dtype="float32").reshape(3, 1, 3)


@pytest.mark.parametrize("ragged", [False, pytest.param(True, marks=needs_tensorflow)])
def test_tags_of_events_tell_the_next_layer_which_events_have_any(ragged, tmp_path):
    query, tags = keras.Input((1, 3)), keras.Input((None, None), dtype="int32", ragged=ragged)
    embedding = keras.layers.Embedding(8, 3, mask_zero=True)
    attend = din_layers.AttentionPoolingLayer((4,))
    outputs = attend([query, din_layers.SequencePoolingLayer("mean")(embedding(tags))])
    keras.Model([query, tags], outputs).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.set_weights([*embedding.get_weights(), *attend.get_weights()])
    # By hand, from the events that have tags alone.
    table = ops.convert_to_numpy(embedding.embeddings)
    valid = TAGS.any(2)
    events = np.zeros((*valid.shape, 3), "float32")
    events[valid] = [table[event[event != 0]].mean(0) for event in TAGS[valid]]
    given = ops.convert_to_tensor(TAGS)
    if ragged:
        given = tf.ragged.constant([[list(e[e != 0]) for e in row] for row in TAGS], ragged_rank=2)
    expected = attend([QUERY, events], mask=ops.convert_to_tensor(valid))
    output = model([ops.convert_to_tensor(QUERY), given])
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@needs_tensorflow
def test_events_may_be_ragged_in_time_alone_and_told_by_what_is_dense():
    layer = din_layers.SequencePoolingLayer("sum")
    pooled, events = layer(NESTED, ids=TAGS), tf.sequence_mask([2, 0, 3])
    in_time = tf.RaggedTensor.from_tensor(NESTED, lengths=[2, 0, 3])
    in_both = in_time.with_values(tf.RaggedTensor.from_tensor(in_time.values))
    for ragged in (in_time, in_both):
        for told in ({"ids": TAGS}, {"mask": tf.constant(TAGS != 0)}):
            output = layer(ragged, **told)
            np.testing.assert_array_equal(output.values, tf.boolean_mask(pooled, events))
            np.testing.assert_array_equal(output._keras_mask.values, TAGS.any(2)[events])
    output = layer(in_time)  # every tag is there
    np.testing.assert_array_equal(output.values, tf.boolean_mask(NESTED.sum(2), events))
    assert output._keras_mask.to_list() == [[True, True], [], [True] * 3]


@pytest.mark.skipif(BACKEND != "torch", reason="transforms of PyTorch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["sum", "max"])
def test_it_may_be_transformed_by_pytorch(mode):
    """On a processor padding is selected by an operation of our own, which PyTorch must know."""
    import torch
    from torch.func import hessian, jvp, vmap

    layer, plain = (
        din_layers.SequencePoolingLayer(mode),
        {"sum": torch.sum, "max": torch.amax}[mode],
    )
    x, mask = torch.as_tensor(SEQUENCE), torch.tensor([[True, False, True, True]] * 2)

    def ours(x, mask):
        return layer(x[None], mask=mask[None])[0, 0] ** 3

    def theirs(x, mask):
        return plain(x[mask], 0) ** 3

    rows = torch.stack([theirs(row, valid) for row, valid in zip(x, mask, strict=True)])
    torch.testing.assert_close(vmap(ours)(x, mask), rows)
    for transformed in (
        lambda f: jvp(lambda x: f(x, mask[0]), (x[0],), (torch.ones_like(x[0]),))[1],
        lambda f: hessian(lambda x: f(x, mask[0]).sum())(x[0]),
    ):
        with recording():
            torch.testing.assert_close(transformed(ours), transformed(theirs))
