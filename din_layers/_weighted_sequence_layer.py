"""Weighting of the events of a history."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor, is_ragged
from din_layers._checks import check_floats, check_normalization, message
from din_layers._events import Events
from din_layers._sequence_layer import SequenceLayer
from din_layers._tensors import scalar, wide_dtype


def _divide_by_sum(weights: Events) -> Events:
    weights = _relative(weights)
    return weights.over(weights.sum())


def _divide_by_norm(weights: Events) -> Events:
    weights = _relative(weights)
    squares = weights.times(weights).sum()
    # Where `squares` is 0, all weights are; the root of 1 has a finite gradient there.
    return weights.over(ops.sqrt(ops.where(squares > 0, squares, ops.ones_like(squares))))


def _relative(weights: Events) -> Events:
    """Divide by about the largest weight, so that no sum overflows and no square vanishes.

    The normalised weights, and so their gradients, do not depend on this divisor.
    """
    weights = weights.filled(0.0)
    top = ops.stop_gradient(weights.map(ops.abs).max())
    # XLA multiplies by the reciprocal, and takes that for 0 where it is no normal number.
    largest = float(np.finfo(keras.backend.standardize_dtype(top.dtype)).max) / 2**8
    # The smaller of the two, in float64 on PyTorch too.
    return weights.over(-_backend.maximum(-top, scalar(-largest, top)))


_NORMALISE: dict[str | None, Callable[[Events], Events]] = {
    "softmax": Events.softmax,
    "sum": _divide_by_sum,
    "sqrtn": _divide_by_norm,
    None: lambda weights: weights,
}


@keras.saving.register_keras_serializable(package="din_layers")
class WeightedSequenceLayer(SequenceLayer):
    """Multiply each event of a history by its weight.

    Args:
        weight_normalization: How to normalise the weights of a history first: `"softmax"` or
            `True`, the softmax over its valid events; `"sum"`, division by their sum;
            `"sqrtn"`, division by the root of the sum of their squares; `None` or `False`,
            nothing. A history whose sum, or sum of squares, is 0 gives zeros.
        mask_required: Whether a dense sequence without `lengths`, `ids` or a mask is a ValueError.
            Its name before 0.4, `supports_masking`, works with a warning.
        hist_mask_value: The id of an invalid position, if you pass `ids`.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Followed by a `SequencePoolingLayer`, this is `tf.nn.embedding_lookup_sparse` with weights:

    | combiner | with weights | without weights |
    |---|---|---|
    | `"sum"` | normalization `None`, mode "sum" | `SequencePoolingLayer("sum")` alone |
    | `"mean"` | normalization `"sum"`, mode "sum" | `SequencePoolingLayer("mean")` alone |
    | `"sqrtn"` | normalization `"sqrtn"`, mode "sum" | `SequencePoolingLayer("sqrtn")` alone |

    Mode "mean" after a normalisation divides by the number of events a second time.

    Call arguments:
        inputs: A list `[sequence, weights]`. The sequence is float (batch, time, dim), dense or
            `tf.RaggedTensor`; the weights are float (batch, time) or (batch, time, 1), ragged if
            the sequence is. The list `[sequence, lengths, weights]` of earlier versions works too.
        {validity}

    Cost:
        That of all positions of a dense sequence, or of the events of a ragged one.

    Output shape:
        (batch, time, dim) in the compute dtype, ragged if the sequence is, zero at invalid
        positions. The mask goes on to the next layer.

    Raises:
        ValueError: An unknown normalization, a wrong shape, or no mask with
            `mask_required=True`.
        TypeError: Lengths or ids of a wrong dtype, or weights that are no floats.

    Example:
        >>> sequence = np.array([[[1.0], [2.0], [9.0]]], "float32")
        >>> weights = np.array([[1.0, 3.0, 7.0]], "float32")
        >>> layer = din_layers.WeightedSequenceLayer("sum")
        >>> weighted = layer([sequence, weights], lengths=np.array([2]))
        >>> weighted.numpy()
        array([[[0.25],
                [1.5 ],
                [0.  ]]], dtype=float32)
        >>> din_layers.SequencePoolingLayer("sum")(weighted).numpy()
        array([[[1.75]]], dtype=float32)
    """

    axes: ClassVar = {"sequence": "batch time dim", "weights": "batch time or batch time 1"}
    output_axes = "batch time dim"

    def __init__(
        self,
        weight_normalization: bool | str | None = "softmax",
        mask_required: bool = False,
        hist_mask_value: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(hist_mask_value, mask_required, **kwargs)
        self.weight_normalization = check_normalization(weight_normalization, _NORMALISE)

    def call(self, inputs: Any, mask: Any = None) -> Tensor:
        given = self._read(inputs, mask)
        history, dtype = given.history, wide_dtype(self.compute_dtype)
        events = history.events("sequence", given.sequence, dtype).filled(0.0)
        weights = history.events("weights", given.tensors["weights"], dtype)
        if len(weights.values.shape) < len(events.values.shape):
            weights = weights.map(lambda values: ops.expand_dims(values, -1))
        # Filled here, where it is one number for each event and not all of its vector.
        weights = _NORMALISE[self.weight_normalization](weights).filled(0.0)
        return ops.cast(events.times(weights).restored(), self.compute_dtype)

    def _check_tensor(self, name: str, x: Tensor, sequence: Tensor) -> None:
        if name == "weights":
            check_floats(name, x)
        super()._check_tensor(name, x, sequence)
        if is_ragged(sequence) and not is_ragged(x):
            received = {"sequence_shape": tuple(sequence.shape), "weights_shape": tuple(x.shape)}
            raise TypeError(message(name, "must be ragged where `sequence` is", **received))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight_normalization": self.weight_normalization}
