"""Dice against its formula, with statistics that padding must not enter."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracles
from helpers.backend import BACKEND, needs_tensorflow, recording
from helpers.strategies import batches
from hypothesis import given
from keras import ops

import din_layers
from din_layers import _backend
from din_layers.testing import garbage
from din_layers.testing._gradients import differentiate

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a variance of float32 squares, then its root


def built(**config):
    layer = din_layers.Dice(**config)
    layer.build((None, None, 3))
    layer.set_weights([np.linspace(*ends, 3) for ends in ((-0.5, 0.8), (0.2, 0.4), (0.5, 2.0))])
    return layer


def statistics(layer):
    return np.float64(layer.moving_mean), np.float64(layer.moving_variance)


@given(batch=batches())
def test_inference_is_the_formula_with_the_moving_statistics(batch):
    layer = built()
    mean, variance = statistics(layer)
    expected = oracles.dice(
        np.float64(batch.sequence), mean, variance, np.float64(layer.alpha), layer.epsilon
    )
    expected[~batch.valid] = 0
    output = layer(batch.sequence, mask=ops.convert_to_tensor(batch.valid))
    np.testing.assert_allclose(output, expected, **CLOSE)
    np.testing.assert_array_equal(statistics(layer), (mean, variance))


@given(batch=batches(), garbage=garbage())
def test_training_uses_the_statistics_of_the_valid_positions(batch, garbage):
    layer = built(epsilon=1e-3, momentum=0.9)
    old = statistics(layer)
    spoilt = batch.garbage_where_invalid(garbage).sequence
    mask = ops.convert_to_tensor(batch.valid)
    # JAX's gradients are taken where a layer keeps nothing, its statistics neither.
    _, (of_x,), (of_alpha,) = differentiate(
        lambda x: layer(x, training=True, mask=mask), [spoilt], batch.valid, [layer.alpha]
    )
    np.testing.assert_array_equal(of_x[~batch.valid], 0)
    assert all(np.isfinite(gradient).all() for gradient in (of_x, of_alpha))

    layer = built(epsilon=1e-3, momentum=0.9)
    output = np.asarray(layer(spoilt, training=True, mask=mask))
    events = np.float64(batch.sequence[batch.valid])
    np.testing.assert_array_equal(output[~batch.valid], 0)
    if len(events) == 0:
        np.testing.assert_array_equal(statistics(layer), old)
        return
    new = events.mean(0), events.var(0)
    expected = oracles.dice(events, *new, np.float64(layer.alpha), layer.epsilon)
    np.testing.assert_allclose(output[batch.valid], expected, **CLOSE)
    for moved, before, now in zip(statistics(layer), old, new, strict=True):
        np.testing.assert_allclose(moved, 0.9 * before + 0.1 * now, **CLOSE)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_every_axis_can_hold_the_channels(axis):
    x = np.random.default_rng(0).normal(size=(4, 5, 2, 3)).astype("float32")
    layer = din_layers.Dice(axis=axis, epsilon=1e-3)
    channels = x.shape[axis]
    last = din_layers.Dice(epsilon=1e-3)
    last.build((None, channels))
    layer.build(x.shape)
    for weights in (layer, last):
        weights.alpha.assign(np.linspace(0, 1, channels))
    moved = np.moveaxis(x, axis, -1)
    expected = np.moveaxis(np.asarray(last(moved, training=True)), -1, axis)
    np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)
    mask = np.random.default_rng(1).random((4, 5)) < 0.5
    if axis != 1:  # a mask has the leading axes; moved channels would stand among them
        layer(x, training=True, mask=ops.convert_to_tensor(mask))
        valid = np.moveaxis(x, axis, 2)[mask].reshape(mask.sum(), channels, -1)
        mean = np.float64(valid).mean((0, 2))
        before = 0.01 * np.float64(moved).mean((0, 1, 2))
        np.testing.assert_allclose(layer.moving_mean, 0.99 * before + 0.01 * mean, **CLOSE)


def test_the_last_axis_has_two_names():
    x = np.random.default_rng(0).normal(size=(1, 1, 3)).astype("float32") + 1e3
    results = []
    for axis in (-1, 2):
        layer = din_layers.Dice(axis=axis)
        results.append(ops.convert_to_numpy(layer(x, training=True)))
        results[-1] = np.append(results[-1], layer.moving_mean)
    np.testing.assert_array_equal(*results)


def test_a_batch_without_events_leaves_the_statistics():
    empty = [((2, 4, 3), ops.zeros((2, 4), "bool"))]
    for shape in ((0, 4, 3), (2, 0, 3)):
        empty += [(shape, None), (shape, ops.ones(shape[:2], "bool"))]
    for shape, mask in empty:
        layer = built()
        old = statistics(layer)
        output = layer(np.ones(shape, "float32"), training=True, mask=mask)
        np.testing.assert_array_equal(output, np.zeros(shape))
        np.testing.assert_array_equal(statistics(layer), old)


def test_there_may_be_many_channels():
    layer = din_layers.Dice()
    for _ in range(2):  # the second time the channels are compared with those of the first
        assert layer(np.ones((1, 300), "float32")).shape == (1, 300)


def test_a_frozen_layer_runs_in_inference_mode():
    layer = built()
    layer.trainable = False
    old = statistics(layer)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    np.testing.assert_array_equal(layer(x, training=True), layer(x))
    np.testing.assert_array_equal(statistics(layer), old)


@pytest.mark.parametrize(
    "dtype",
    # JAX has no float64 by default.
    ["float32", "mixed_float16", "mixed_bfloat16"] + ["float64"] * (BACKEND != "jax"),
)
def test_statistics_are_float32_whatever_the_policy(dtype):
    layer = built(dtype=dtype)
    assert layer.moving_mean.dtype == layer.moving_variance.dtype == "float32"
    # The squares of these overflow float16, their mean is lost in bfloat16.
    x = np.array([[[300.0, 1.0, 1000.0]], [[302.0, 3.0, 1008.0]]])
    layer(x, training=True)
    expected = 0.99 * np.linspace(0.5, 2.0, 3) + 0.01 * x.var((0, 1))
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-6)
    assert keras.backend.standardize_dtype(layer(x).dtype) == layer.compute_dtype


def test_the_mask_goes_on():
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    pooled = din_layers.SequencePoolingLayer("sum", supports_masking=True)(
        din_layers.Dice()(embedded)
    )
    assert keras.Model(inputs, pooled).output_shape == (None, 1, 4)


def test_bad_shapes_leave_the_layer_usable():
    layer = din_layers.Dice()
    with pytest.raises(ValueError, match=r"`inputs` must have .* Received: inputs.shape=\(3,\)"):
        layer(np.zeros(3, "float32"))
    with pytest.raises(ValueError, match="`inputs` must have"):
        layer.build((None, None))
    assert layer(np.ones((2, 5), "float32")).shape == (2, 5)
    with pytest.raises(ValueError, match=r"`inputs` must have 5 channels.*inputs.shape=\(2, 4\)"):
        layer(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="`mask` must have shape"):
        layer(np.ones((2, 5), "float32"), mask=ops.ones((2, 5), "bool"))
    with pytest.raises(ValueError, match="`mask` must have shape"):
        layer(np.ones((2, 5), "float32"), mask=ops.ones((3,), "bool"))


@needs_tensorflow
def test_strings_are_refused():
    with pytest.raises(TypeError, match="`inputs` must hold numbers"):
        din_layers.Dice()(tf.fill((2, 5), "a"))


@pytest.mark.parametrize("axis", [-4, 3, 4])
def test_an_axis_that_the_inputs_lack(axis):
    with pytest.raises(ValueError, match=f"`inputs` must have .* a known size at axis={axis}"):
        din_layers.Dice(axis=axis)(np.zeros((2, 4, 3), "float32"))


def test_a_mask_of_floats_is_an_error():
    """It may be meant to be added; taken for a mask it was inverted where it is."""
    with pytest.raises(TypeError, match="`mask` must be boolean"):
        din_layers.Dice()(np.ones((2, 3), "float32"), mask=ops.ones((2,)))


@pytest.mark.skipif(BACKEND != "torch", reason="transforms of PyTorch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_its_backward_pass_by_hand_is_the_recorded_one():
    """First and second derivatives, and under the transforms, far from 0 too."""
    import torch
    from torch.func import hessian, jacrev, jvp, vmap

    rng = np.random.default_rng(0)
    x, more = (torch.as_tensor(3 * rng.normal(size=(12, 3)) + 100) for _ in range(2))
    alpha = torch.as_tensor(rng.normal(size=3))

    def ours(x):  # not the layer: its moving statistics cannot move under a transform
        return _backend.dice(x, alpha, 1e-3)[0]

    def theirs(x):
        mean, variance = x.mean(0), x.var(0, correction=0)
        gate = torch.sigmoid((x - mean) / (variance + 1e-3).sqrt())
        return x * (alpha + gate * (1 - alpha))

    with recording():
        assert torch.autograd.gradcheck(ours, x.requires_grad_())
        assert torch.autograd.gradgradcheck(ours, x)
        for transformed in (
            lambda f: jvp(f, (x,), (more,))[1],
            lambda f: jacrev(lambda x: f(x).sum(1))(x),
            lambda f: hessian(lambda x: f(x).square().sum())(x[:4]),
        ):
            torch.testing.assert_close(transformed(ours), transformed(theirs))
    parts = x.detach().reshape(2, 6, 3)
    torch.testing.assert_close(vmap(ours)(parts), torch.stack([theirs(part) for part in parts]))
