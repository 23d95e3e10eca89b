"""The local activation unit: how strongly one event of a history answers one query.

The unit is an MLP on `[q, k, q - k, q * k]`. Its first kernel W, (4 dim, units), has one block of
rows for each part: Wq, Wk, Wd, Wp. Multiplied out,

    [q, k, q - k, q * k] W  =  q (Wq + Wd)  +  k (Wk - Wd)  +  (q * k) Wp

so the concatenation, four times as wide as the history, is never built, and the stored kernel
stays the one of the definition. The first term is needed once for each query and the second once
for each event; only the third belongs to the pair. Two ways to compute the sum of the last two:

* by row: `k (Wk - Wd + diag(q) Wp)`, one matrix (dim, units) for each row and query, and one
  batched matrix product. The products `q * k` are never built either. This is half the work, and
  pays where many events share a row's matrix: in padded histories that are not short.
* by event: the terms as they stand. Flat histories (ragged, or padding skipped) have rows of many
  lengths, which no batched product takes.

A quantized first layer has no kernel of floats, and rounds its inputs: it gets the concatenation.

Reference: Deep Interest Network for Click-Through Rate Prediction, section 4.3,
https://arxiv.org/abs/1706.06978
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._history import History

Activation = Callable[..., Tensor]  # a function or a Keras layer

_SHORT = 16  # positions up to which the rows' matrices cost more than they save


class LocalActivationUnit(keras.Layer):
    """Scores every event of a row against every query of the row.

    Args:
        hidden_layers: The hidden dense layers, each with the activation that follows it. The
            layers are linear and the activations not shared.
        output_layer: The linear unit.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self,
        hidden_layers: Sequence[tuple[keras.layers.Dense, Activation]],
        output_layer: keras.layers.Dense,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # The names of what holds weights are paths in files.
        self.dense_layers = [*(dense for dense, _ in hidden_layers), output_layer]
        self.activations = [activation for _, activation in hidden_layers]

    def build(self, events_shape: Any) -> None:
        """Build all weights from the shape (..., dim) of the events."""
        width = 4 * events_shape[-1]
        for dense in self.dense_layers:
            dense.build((None, width))
            width = dense.units
        for dense, activation in zip(self.dense_layers, self.activations, strict=False):
            if isinstance(activation, keras.Layer):
                activation.build((None, dense.units))
                activation.supports_masking = True  # else Keras warns of `Sequential`
        self._mask_ranks = [
            _mask_rank(activation, dense.units)
            for activation, dense in zip(self.activations, self.dense_layers, strict=False)
        ]

    # Not `call`: under `keras.RematScope` JAX takes only arrays there, which a history is not.
    def scores(
        self,
        events: Tensor,
        query: Tensor,
        history: History,
        valid_queries: Tensor,
        training: bool | None,
    ) -> Tensor:
        """Return the scores (..., queries) of aligned events (..., dim).

        Args:
            events: The aligned events (..., dim), finite where invalid.
            query: The queries of each row (batch, queries, dim).
            history: Tells which events belong to which row, and which are valid.
            valid_queries: Which queries enter batch statistics (batch, queries); None: all.
            training: Whether there are batch statistics.
        """
        dense = self.dense_layers[0]
        if dense.quantization_mode:
            first = _first_layer_by_pair
        elif history.stores_rows_longer_than(_SHORT):
            first = _first_layer_by_row
        else:
            first = _first_layer_by_event
        x = first(dense, events, query, history)
        pairs = ops.shape(x)[:-1]
        # From here on a pair of event and query is a row of a matrix: one product for each layer.
        x = ops.reshape(x, (-1, x.shape[-1]))

        def activate(activation: Activation, mask_rank: int, x: Tensor) -> Tensor:
            if isinstance(activation, keras.Layer):  # not from Keras's context: `stateless_call`
                activation = functools.partial(activation, training=training)
            if not mask_rank:
                return activation(x)
            masks = [] if history.valid is None else [ops.expand_dims(history.valid, -1)]
            # At inference there are no statistics, and every query is to get its result.
            if training and valid_queries is not None:
                masks.append(history.spread(ops.cast(valid_queries, x.dtype)) > 0)
            if not masks:
                return activation(x)
            counted = ops.broadcast_to(functools.reduce(ops.logical_and, masks), pairs)
            if mask_rank == 1:
                return activation(x, mask=ops.reshape(counted, (-1,)))
            return activation(x, mask=ops.broadcast_to(ops.reshape(counted, (-1, 1)), ops.shape(x)))

        steps = zip(self.activations, self._mask_ranks, self.dense_layers[1:], strict=True)
        for activation, mask_rank, dense in steps:
            x = _apply(dense, activate(activation, mask_rank, x))
        return ops.reshape(x, pairs)


def _first_layer_by_row(
    dense: keras.layers.Dense, events: Tensor, query: Tensor, history: History
) -> Tensor:
    wq, wk, wd, wp = ops.split(ops.convert_to_tensor(dense.kernel), 4, axis=0)
    batch, queries, dim = ops.shape(query)
    time, units = ops.shape(events)[1], dense.units
    product_part = _backend.scaled_kernels(query, wp)
    row_kernel = ops.reshape((wk - wd)[:, None, :] + product_part, (batch, dim, queries * units))
    event_part = ops.reshape(ops.matmul(events, row_kernel), (batch, time, queries, units))
    return event_part + history.spread(ops.matmul(query, wq + wd) + dense.bias)


def _first_layer_by_event(
    dense: keras.layers.Dense, events: Tensor, query: Tensor, history: History
) -> Tensor:
    wq, wk, wd, wp = ops.split(ops.convert_to_tensor(dense.kernel), 4, axis=0)
    products = ops.expand_dims(events, -2) * history.spread(query)
    return (
        ops.matmul(products, wp)
        + ops.expand_dims(ops.matmul(events, wk - wd), -2)
        + history.spread(ops.matmul(query, wq + wd) + dense.bias)
    )


def _first_layer_by_pair(
    dense: keras.layers.Dense, events: Tensor, query: Tensor, history: History
) -> Tensor:
    """As the definition has it: a quantized layer rounds its inputs and has no kernel of floats."""
    k, q = ops.expand_dims(events, -2), history.spread(query)
    products = q * k
    pairs = ops.shape(products)
    q, k = ops.broadcast_to(q, pairs), ops.broadcast_to(k, pairs)
    features = ops.concatenate([q, k, q - k, products], axis=-1)
    x = _apply(dense, ops.reshape(features, (-1, features.shape[-1])))
    return ops.reshape(x, (*pairs[:-1], dense.units))


def _apply(dense: keras.layers.Dense, x: Tensor) -> Tensor:
    """Call a layer on rows, of which there may be none."""
    if not dense.quantization_mode:
        return dense(x)
    return dense(ops.pad(x, [[0, 1], [0, 0]]))[:-1]  # int8 looks for the largest of each row


def _mask_rank(activation: Activation, units: int) -> int:
    """Return the rank of the mask that an activation takes beside (pairs, units); 0: it takes none.

    A layer with batch statistics takes one for the pairs, `keras.layers.Softmax` one of the shape
    of its input. No layer says which, so it is tried.
    """
    if not isinstance(activation, keras.Layer):
        return 0
    if "mask" not in inspect.signature(activation.call).parameters:
        return 0
    x = ops.zeros((units + 1, units), activation.compute_dtype)
    for rank in (1, 2):
        try:
            result = activation(x, mask=ops.ones(x.shape[:rank], "bool"), training=False)
        except Exception:  # each backend has its own
            continue
        if tuple(result.shape) == tuple(x.shape):
            return rank
    return 1
