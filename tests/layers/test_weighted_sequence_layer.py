"""What only WeightedSequenceLayer has: weights that are NaN, huge, tiny or below zero; its mask."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from helpers.layers import NORMALIZATIONS
from helpers.strategies import batches
from hypothesis import given
from keras import ops

import din_layers
from din_layers.testing._gradients import differentiate


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_padding_beside_a_weight_of_nan_is_zero(normalization):
    inputs = np.ones((2, 3, 3), "float32"), np.float32([[np.nan, 1, 2], [3, 4, 5]])
    mask = ops.convert_to_tensor([[True, True, False]] * 2)
    output = din_layers.WeightedSequenceLayer(normalization)(list(inputs), mask=mask)
    np.testing.assert_array_equal(output[:, 2], 0)


@pytest.mark.parametrize(
    ("combiner", "normalization"), [("sum", None), ("mean", "sum"), ("sqrtn", "sqrtn")]
)
def test_pooled_it_is_embedding_lookup_sparse(combiner, normalization):
    """With weights below zero, which the batches of the contract do not have."""
    table, weights = np.float32([[1, 2], [3, 5], [4, -1]]), np.float32([2, -1, 0.5])
    places = [[0, 0], [0, 1], [0, 2]]
    sparse = [tf.SparseTensor(places, x, [1, 3]) for x in (np.arange(3), weights)]
    expected = tf.nn.embedding_lookup_sparse(table, *sparse, combiner=combiner)
    weighting = din_layers.WeightedSequenceLayer(normalization)
    pooled = din_layers.SequencePoolingLayer("sum")(weighting([table[None], weights[None]]))
    np.testing.assert_allclose(pooled[:, 0], expected, rtol=1e-6)


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


def test_the_mask_of_the_weights_counts_too():
    """Weights padded with -1 and read through Masking, as a padded batch has them."""
    inputs = [keras.Input((None, 2)), keras.Input((None, 1))]
    weights = keras.layers.Masking(-1.0)(inputs[1])
    model = keras.Model(inputs, din_layers.WeightedSequenceLayer("sum")([inputs[0], weights]))
    output = model([np.ones((1, 3, 2)), np.array([[[1.0], [3.0], [-1.0]]])])
    np.testing.assert_allclose(output[0, :, 0], [0.25, 0.75, 0])


@needs_tensorflow
def test_ragged_rows_that_differ_are_refused_in_a_graph():
    layer = din_layers.WeightedSequenceLayer()
    function = tf.function(lambda sequence, weights: layer([sequence, weights]))
    sequence = tf.RaggedTensor.from_row_lengths(ops.ones((3, 3)), [2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="same row lengths"):
        function(sequence, tf.ragged.constant([[1.0], [2.0, 3.0]]))
