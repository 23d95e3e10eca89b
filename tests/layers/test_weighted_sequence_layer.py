"""What only WeightedSequenceLayer has: the combiners of TensorFlow, its mask, its errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import needs_tensorflow
from hypothesis import example, given
from keras import ops
from strategies import Batch, batches

import din_layers
from din_layers.testing._gradients import differentiate

COMBINERS = {"sum": (None, "sum"), "mean": ("sum", "sum"), "sqrtn": ("sqrtn", "sum")}


def batch_of(weights, valid=None):
    weights = np.array(weights, "float32")
    sequence = np.arange(1, 3 * weights.size + 1, dtype="float32").reshape(*weights.shape, 3)
    valid = np.ones(weights.shape, bool) if valid is None else np.array(valid)
    return Batch(sequence, valid, weights, np.ones((len(weights), 1, 3), "float32"))


@pytest.mark.parametrize("normalization", ["softmax", "sum", "sqrtn", None])
def test_padding_beside_a_weight_of_nan_is_zero(normalization):
    batch = batch_of([[np.nan, 1, 2], [3, 4, 5]], [[True, True, False]] * 2)
    layer = din_layers.WeightedSequenceLayer(normalization)
    output = layer([batch.sequence, batch.weights], mask=ops.convert_to_tensor(batch.valid))
    np.testing.assert_array_equal(output[:, 2], 0)


@pytest.mark.parametrize("combiner", COMBINERS)
@given(batch=batches())
@example(batch=batch_of([[1, 3], [0, 0]]))  # a sum of 0
@example(batch=batch_of([[1e-30, 2e-30], [1e30, 2e30]]))  # whose squares leave float32
@example(batch=batch_of([[0.5, -0.5], [2, -1]]))
def test_it_is_embedding_lookup_sparse(combiner, batch):
    """Every combiner of `tf.nn.embedding_lookup_sparse`, with weights and without."""
    norm, mode = COMBINERS[combiner]
    pooled = din_layers.SequencePoolingLayer(mode)(
        din_layers.WeightedSequenceLayer(norm)(
            [batch.sequence, batch.weights], mask=[ops.convert_to_tensor(batch.valid), None]
        )
    )
    np.testing.assert_allclose(pooled[:, 0], looked_up(batch, combiner, True), rtol=1e-4, atol=1e-5)
    unweighted = din_layers.SequencePoolingLayer(combiner)(
        batch.sequence, mask=ops.convert_to_tensor(batch.valid)
    )
    expected = looked_up(batch, combiner, False)
    np.testing.assert_allclose(unweighted[:, 0], expected, rtol=1e-4, atol=1e-5)


def looked_up(batch, combiner, weighted):
    """TensorFlow's own result, in float64, for rows that have events; zeros for the others."""
    table = np.float64(batch.sequence.reshape(-1, batch.sequence.shape[-1]))
    result = np.zeros((len(batch.valid), table.shape[1]))
    for row, valid in enumerate(batch.valid):
        weights = np.float64(batch.weights[row, valid])
        divisor = {"sum": 1, "mean": weights.sum(), "sqrtn": (weights**2).sum()}[combiner]
        if not valid.any() or (weighted and divisor == 0):
            continue  # an empty row is an error there, a divisor of 0 gives NaN
        ids = np.flatnonzero(valid) + row * len(valid)
        where = np.stack([np.zeros_like(ids), np.arange(len(ids))], 1)
        sparse = [tf.SparseTensor(where, x, [1, len(ids)]) for x in (ids, weights)]
        result[row] = tf.nn.embedding_lookup_sparse(
            table, sparse[0], sparse[1] if weighted else None, combiner=combiner
        )[0]
    return result


@pytest.mark.parametrize("weight", [3.4e38, 9e37, 1.0, 2e-38])
def test_weights_whose_sum_overflows_or_whose_squares_vanish(weight):
    weights = np.full((1, 50), weight, "float32")
    for norm, share in (("sum", 1 / 50), ("sqrtn", 50**-0.5)):
        output = din_layers.WeightedSequenceLayer(norm)([np.ones((1, 50, 1)), weights])
        np.testing.assert_allclose(output, np.full((1, 50, 1), share), rtol=1e-6)


def test_a_sum_of_zero_gives_zeros_and_finite_gradients():
    weights = np.array([[1.0, -1.0], [0.0, 0.0]], "float32")
    sequence, valid = np.ones((2, 2, 3), "float32"), np.ones((2, 2), bool)
    for norm in ("sum", "sqrtn"):
        layer = din_layers.WeightedSequenceLayer(norm)
        output, gradients, _ = differentiate(
            lambda *inputs, layer=layer: layer(inputs), [sequence, weights], valid
        )
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        np.testing.assert_array_equal(output[1], 0)
        if norm == "sum":
            np.testing.assert_array_equal(output[0], 0)


@given(batch=batches())
def test_weights_with_and_without_a_last_axis(batch):
    """Also when there are as many rows as positions."""
    layer = din_layers.WeightedSequenceLayer()
    mask = [ops.convert_to_tensor(batch.valid), None]
    flat = layer([batch.sequence, batch.weights], mask=mask)
    column = layer([batch.sequence, batch.weights[..., None]], mask=mask)
    np.testing.assert_array_equal(flat, column)


def test_the_mask_that_goes_on_has_every_source_in_it():
    ids, lengths = np.array([[1, 2, 0, 3], [4, 5, 6, 7]]), np.array([4, 2])
    embedding = keras.layers.Embedding(9, 2, mask_zero=True)
    inputs = [keras.Input((None,), dtype="int32"), keras.Input((), dtype="int32")]
    sequence = embedding(inputs[0])
    weighted = din_layers.WeightedSequenceLayer(None)(
        [sequence, inputs[1], keras.ops.ones_like(sequence[:, :, 0])]
    )
    count = din_layers.SequencePoolingLayer("mean", supports_masking=True)(weighted)
    model = keras.Model(inputs, count)
    table = np.asarray(embedding.embeddings)
    expected = [table[[1, 2, 3]].mean(0), table[[4, 5]].mean(0)]
    np.testing.assert_allclose(model([ids, lengths])[:, 0], expected, rtol=1e-6)


def test_the_mask_of_the_weights_counts_too():
    """Weights padded with -1 and read through Masking, as a padded batch has them."""
    inputs = [keras.Input((None, 2)), keras.Input((None, 1))]
    weights = keras.layers.Masking(-1.0)(inputs[1])
    model = keras.Model(inputs, din_layers.WeightedSequenceLayer("sum")([inputs[0], weights]))
    output = model([np.ones((1, 3, 2)), np.array([[[1.0], [3.0], [-1.0]]])])
    np.testing.assert_allclose(output[0, :, 0], [0.25, 0.75, 0])


SEQUENCE, RAGGED = np.ones((2, 4, 3), "float32"), tf.ragged.constant([[1.0], [2.0, 3.0]])


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (SEQUENCE, ValueError, "`inputs` must be a list [sequence, weights]"),
        ([SEQUENCE], ValueError, "`inputs` must be a list [sequence, weights]"),
        (
            [SEQUENCE, SEQUENCE[:, :3, 0]],
            ValueError,
            "`weights` must have shape (batch, time) or (batch, time, 1). "
            "Received: sequence.shape=(2, 4, 3), weights.shape=(2, 3)",
        ),
        ([SEQUENCE, SEQUENCE], ValueError, "weights.shape=(2, 4, 3)"),
        ([SEQUENCE, SEQUENCE[:, 0, 0]], ValueError, "weights.shape=(2,)"),
        ([SEQUENCE, SEQUENCE[:, :, 0] > 0], TypeError, "`weights` must hold floats. Received: wei"),
        ([SEQUENCE, np.ones((2, 4), int)], TypeError, "`weights` must hold floats"),
        pytest.param(
            [SEQUENCE, tf.fill((2, 4), "a")],
            TypeError,
            "`weights` must hold floats",
            marks=needs_tensorflow,
        ),
        pytest.param(
            [SEQUENCE, RAGGED],
            TypeError,
            "`weights` must be ragged if and only if `sequence` is",
            marks=needs_tensorflow,
        ),
        ([SEQUENCE, SEQUENCE[:, 0, 0], SEQUENCE[:, :, 0]], TypeError, "`lengths` must be integers"),
        pytest.param(
            [tf.RaggedTensor.from_row_lengths(ops.ones((3, 3)), [2, 1]), RAGGED],
            ValueError,
            "`weights` must have rows of lengths [2, 1], like the sequence. "
            "Received: row_lengths=[1, 2]",
            marks=needs_tensorflow,
        ),
    ],
)
def test_bad_inputs(inputs, error, text):
    layer = din_layers.WeightedSequenceLayer()
    if any(hasattr(x, "row_splits") for x in inputs):
        inputs = [x if hasattr(x, "row_splits") else ops.convert_to_tensor(x) for x in inputs]
    with pytest.raises(error) as caught:
        layer(inputs)
    assert text in str(caught.value)
    assert layer([SEQUENCE, SEQUENCE[:, :, 0]]).shape == (2, 4, 3)


@needs_tensorflow
def test_ragged_rows_that_differ_are_refused_in_a_graph():
    layer = din_layers.WeightedSequenceLayer()
    function = tf.function(lambda sequence, weights: layer([sequence, weights]))
    sequence = tf.RaggedTensor.from_row_lengths(ops.ones((3, 3)), [2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="same row lengths"):
        function(sequence, RAGGED)


@pytest.mark.parametrize("value", ["mean", 1, 0, "max"])
def test_bad_normalization(value):
    with pytest.raises(ValueError, match="`weight_normalization` must be one of True, False, 'so"):
        din_layers.WeightedSequenceLayer(value)


def test_the_defaults():
    config = din_layers.WeightedSequenceLayer().get_config()
    expected = {"weight_normalization": "softmax", "mask_required": False, "hist_mask_value": 0}
    assert {name: config[name] for name in expected} == expected
