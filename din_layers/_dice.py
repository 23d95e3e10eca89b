"""The data adaptive activation function of DIN."""

from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor, mean_of_replicas
from din_layers._checks import (
    Shape,
    check_bool,
    check_integer,
    check_number,
    check_numeric,
    message,
)
from din_layers._numeric_layer import NumericLayer
from din_layers._sources import check_mask
from din_layers._tensors import select, wide_dtype

_LARGEST = float(np.finfo("float32").max)  # of the dtype that the statistics have


@keras.saving.register_keras_serializable(package="din_layers")
class Dice(NumericLayer):
    """Data adaptive activation: PReLU whose turning point follows the data.

    `f(s) = p s + (1 - p) alpha s` with `p = sigmoid((s - E[s]) / sqrt(Var[s] + epsilon))` and a
    learned `alpha` for each channel. As in `keras.layers.BatchNormalization`, E and Var are those
    of the batch in training and moving ones at inference, or where `trainable` is `False`.

    Args:
        axis: The axis of the channels.
        momentum: The share of the moving statistics that a training step keeps, 0 to 1.
        epsilon: Added to the variance.
        alpha_initializer: Initializer of `alpha`.
        alpha_regularizer: Regularizer of `alpha`.
        alpha_constraint: Constraint of `alpha`.
        synchronized: Whether the batch statistics cover all replicas of `tf.distribute`, or all
            processes of `torch.distributed`, each of which must then train in every step. Under
            `keras.distribution`, on JAX, they always cover the whole batch.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Write `Dense(80)` and then `Dice()`. In `Dense(80, activation=Dice())` Keras hands the
    activation no mask, and padding counts.

    Statistics are computed and kept in float32 (computed in float64 under a float64 policy).

    Call arguments:
        inputs: Float tensor of any rank from 2.
        training: Whether batch statistics are used and the moving ones updated.
        mask: The Keras mask: boolean, with the leading axes of `inputs`. Invalid positions enter
            no statistics, give 0 and get zero gradients, whatever they hold. A batch without any
            valid position leaves the moving statistics as they are.

    Cost:
        About that of BatchNormalization and PReLU. Invalid positions cost as much as valid ones.

    Output shape:
        That of `inputs`, in the compute dtype. The mask goes on to the next layer.

    Raises:
        ValueError: An argument out of range, or a channel axis of unknown size.
        TypeError: An argument of a wrong type.

    Example:
        >>> layer = din_layers.Dice()
        >>> layer(np.array([[2.0, -8.0]], "float32")).numpy().round(3)
        array([[ 1.762, -0.003]], dtype=float32)
        >>> [weight.name for weight in layer.weights]
        ['alpha', 'moving_mean', 'moving_variance']

    Reference:
        Deep Interest Network for Click-Through Rate Prediction, section 5.2,
        https://arxiv.org/abs/1706.06978
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-8,
        alpha_initializer: Any = "zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = check_integer("axis", axis, minimum=-8)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0)
        self.epsilon = check_number("epsilon", epsilon, 0.0, _LARGEST)
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.alpha_constraint = keras.constraints.get(alpha_constraint)
        self.synchronized = check_bool("synchronized", synchronized)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        self.alpha = self.add_weight(
            name="alpha",
            shape=(channels,),
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
            autocast=False,
        )
        kept = {"shape": (channels,), "dtype": "float32", "trainable": False, "autocast": False}
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **kept)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **kept)

    def _channels(self, shape: Any) -> int:
        rank = len(shape)
        if rank < 2 or not -rank <= self.axis < rank or shape[self.axis] is None:
            expected = f"must have at least two axes and a known size at axis={self.axis}"
            raise ValueError(message("inputs", expected, inputs_shape=tuple(shape)))
        return int(shape[self.axis])

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        self._check(inputs, mask)
        x = ops.cast(inputs, wide_dtype(self.compute_dtype))
        batch_statistics = training and self.trainable
        is_last = self.axis in (-1, len(x.shape) - 1)
        fuses = is_last and not self.synchronized and _backend.has_dice(x)
        if batch_statistics and fuses:
            result = _backend.map_valid(self._fused, x, mask)
        else:
            x = select(mask, x)
            if batch_statistics:
                mean, variance = self._batch_statistics(x, mask)
            else:
                mean, variance = self._as_channels(x, self.moving_mean, self.moving_variance)
            result = self._activated(x, (x - mean) * ops.rsqrt(variance + self.epsilon))
        return ops.cast(result, self.compute_dtype)

    def normalized_by(self, mean: Tensor, variance: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Return the result of `x`, (rows, channels), with these statistics."""
        wide = select(mask, ops.cast(x, wide_dtype(self.compute_dtype)))
        result = self._activated(wide, (wide - mean) * ops.rsqrt(variance + self.epsilon))
        return ops.cast(result, self.compute_dtype)

    def _activated(self, x: Tensor, normalized: Tensor) -> Tensor:
        (alpha,) = self._as_channels(x, self.alpha)
        return x * (alpha + ops.sigmoid(normalized) * (1 - alpha))

    def _fused(self, x: Tensor) -> Tensor:
        """Return the result of `x`, all valid, as the backend computes it by hand."""
        if 0 in x.shape:  # which has no statistics
            return self._activated(x, x)
        rows = ops.reshape(x, (-1, x.shape[-1]))
        result, mean, variance = _backend.dice(rows, ops.cast(self.alpha, x.dtype), self.epsilon)
        self.move(mean, variance)
        return ops.reshape(result, x.shape)

    def compute_output_spec(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor = None
    ) -> keras.KerasTensor:
        self._check(inputs, mask)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the shape of the inputs."""
        return tuple(input_shape)

    def _check(self, inputs: Tensor, mask: Tensor) -> None:
        shape = tuple(inputs.shape)
        check_numeric("inputs", inputs)
        if self._channels(shape) != self.alpha.shape[0]:
            expected = f"must have {self.alpha.shape[0]} channels at axis={self.axis}"
            raise ValueError(message("inputs", expected, inputs_shape=shape))
        if mask is not None:
            axes = [f"axis_{i}" for i in range(len(shape))]
            masked = axes[: min(len(mask.shape), len(shape) - 1)]
            check_mask(mask, " ".join(masked), {"inputs": (shape, " ".join(axes))})

    def _batch_statistics(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of `x`, zero where invalid, and move the moving ones."""
        # No mask reaches the last axis, so one of its entries tells the share of valid positions.
        share = self._mean(select(mask, ops.ones_like(x[..., :1])))
        any_valid = share > 0  # also False for the NaN that a batch of no positions gives
        safe_share = ops.where(any_valid, share, ops.ones_like(share))

        def valid_mean(values: Tensor) -> Tensor:
            mean = self._mean(values)
            return ops.where(any_valid, mean / safe_share, ops.zeros_like(mean))

        mean = valid_mean(x)
        # Exact all the same: moved by a little, the mean does not change the sum of the squares.
        squares = ops.square(x - ops.stop_gradient(mean))
        variance = valid_mean(select(mask, squares))
        self.move(mean, variance, any_valid)
        return mean, variance

    def move(self, mean: Tensor, variance: Tensor, any_valid: Tensor = True) -> None:
        """Move the moving statistics towards those of a batch, if it has valid positions."""
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.reshape(ops.cast(moving, batch.dtype), batch.shape)
            new = ops.where(any_valid, old * self.momentum + batch * (1 - self.momentum), old)
            moving.assign(ops.cast(ops.reshape(new, (-1,)), moving.dtype))

    def _mean(self, x: Tensor) -> Tensor:
        """Average over all axes but that of the channels, which are kept, over all replicas."""
        axes = [i for i in range(len(x.shape)) if i != self.axis % len(x.shape)]
        return mean_of_replicas(x, axes, self.synchronized)

    def _as_channels(self, x: Tensor, *weights: Any) -> list[Tensor]:
        shape = [1] * len(x.shape)
        shape[min(self.axis, len(shape) - 1)] = -1  # rows taken out of a mask have fewer axes
        return [ops.reshape(ops.cast(weight, x.dtype), shape) for weight in weights]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "alpha_initializer": keras.initializers.serialize(self.alpha_initializer),
            "alpha_regularizer": keras.regularizers.serialize(self.alpha_regularizer),
            "alpha_constraint": keras.constraints.serialize(self.alpha_constraint),
            "synchronized": self.synchronized,
        }
