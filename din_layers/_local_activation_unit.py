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
* by event: the terms as they stand. Flat events (ragged, or padding skipped) have rows of many
  lengths, which no batched product takes.

A quantized first layer has no kernel of floats, and rounds its inputs: it gets the concatenation.

Reference: Deep Interest Network for Click-Through Rate Prediction, section 4.3,
https://arxiv.org/abs/1706.06978
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._dice import Dice
from din_layers._tensors import select, wide_dtype

Activation = Callable[..., Tensor]  # a function or a Keras layer
OfRows = Mapping[str, Tensor]  # what `LocalActivationUnit.of_rows` gives

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
        # A trial adds no loss to the layer.
        with keras.StatelessScope(collect_losses=True) as trial:
            self._mask_ranks = [
                _mask_rank(activation, dense.units)
                for activation, dense in zip(self.activations, self.dense_layers, strict=False)
            ]
        self.adds_losses = bool(trial.losses) or any(
            isinstance(activation, keras.Layer) and activation.activity_regularizer is not None
            for activation in self.activations
        )

    def dices(self, training: bool | None) -> list[Dice]:
        """Return the activations that need the statistics of all events."""
        found = [x for x in self.activations if type(x) is Dice and x.trainable]
        return found if training else []

    def scores_alone(self, training: bool | None) -> bool:
        """Tell whether an event has the same score among others, those of `dices` given theirs.

        Not so where an activation has other batch statistics, draws random numbers or adds losses.
        """
        if self.adds_losses or self.dense_layers[0].quantization_mode:
            return False
        if any(dice.synchronized for dice in self.dices(training)):
            return False
        return not self._other_statistics(training)

    def _other_statistics(self, training: bool | None) -> bool:
        """Tell whether an activation other than Dice has a state that training changes."""
        others = [x for x in self.activations if isinstance(x, keras.Layer) and type(x) is not Dice]
        return bool(training and any(layer.non_trainable_variables for layer in others))

    # Not `call`, nor what follows: under `keras.RematScope` JAX takes only arrays there.
    def of_rows(self, query: Tensor, valid_queries: Tensor) -> OfRows:
        """Return what the unit needs of the queries of each row, (batch, queries, ...).

        Args:
            query: The queries (batch, queries, dim).
            valid_queries: Which of them enter batch statistics (batch, queries); None: all.
        """
        dense, result = self.dense_layers[0], {"query": query}
        if not dense.quantization_mode:
            wq, _, wd, _ = _kernels(dense, query)
            result["query_part"] = _backend.project(query, wq + wd) + ops.cast(
                dense.bias, query.dtype
            )
        if valid_queries is not None:
            result["counted"] = ops.expand_dims(ops.cast(valid_queries, query.dtype), -1)
        return result

    def run(
        self,
        keys: Tensor,
        valid: Tensor,
        of_rows: OfRows,
        training: bool | None,
        statistics: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the scores (..., queries) of events, and the inputs (pairs, units) of `dices`.

        Args:
            keys: The events, (batch, time, dim) or (events, dim), finite where invalid.
            valid: Which of them are valid, (batch, time) or (events,); None: all.
            of_rows: What their rows have, for each event: (..., queries, ...).
            training: Whether there are batch statistics.
            statistics: Means and variances by turns, which take the place of those of the batch.
                If there are not enough, the inputs of the first Dice without are the last result.
        """
        x = _first_layer(self.dense_layers[0], keys, of_rows)
        pairs = ops.shape(x)[:-1]
        # From here on a pair of event and query is a row of a matrix: one product for each layer.
        x = ops.reshape(x, (-1, x.shape[-1]))
        told = any(self._mask_ranks) or self.adds_losses
        counted = self.counted(valid, of_rows, pairs) if told else None
        # `BatchNormalization` makes NaN of no rows: it gets one, which its mask leaves out.
        spare = x.shape[0] in (0, None) and self._other_statistics(training)
        if spare:
            counted = ops.ones_like(x[:, 0], "bool") if counted is None else counted
            counted = ops.concatenate([counted, ops.zeros((1,), "bool")], 0)
            x = ops.pad(x, [[0, 1], [0, 0]])
        dices, seen = self.dices(training), []
        steps = zip(self.activations, self._mask_ranks, self.dense_layers[1:], strict=True)
        for activation, mask_rank, dense in steps:
            if statistics is not None and isinstance(activation, Dice) and activation in dices:
                seen.append(x)
                if 2 * len(seen) > len(statistics):
                    return None, seen
                mean, variance = statistics[2 * len(seen) - 2 : 2 * len(seen)]
                x = activation.normalized_by(mean, variance, x, counted)
            else:
                x = _activate(activation, x, counted, mask_rank, training)
            x = _apply(dense, x)
        return ops.reshape(x[:-1] if spare else x, pairs), seen

    def counted(self, valid: Tensor, of_rows: OfRows, pairs: Any) -> Tensor:
        """Return which pairs of event and query are valid, (pairs,); None: all."""
        masks = [] if valid is None else [ops.expand_dims(valid, -1)]
        if "counted" in of_rows:
            masks.append(of_rows["counted"][..., 0] > 0)
        if not masks:
            return None
        return ops.reshape(ops.broadcast_to(functools.reduce(ops.logical_and, masks), pairs), (-1,))


def _activate(
    activation: Activation, x: Tensor, counted: Tensor, mask_rank: int, training: bool | None
) -> Tensor:
    if not isinstance(activation, keras.Layer):
        return activation(x)
    options: dict[str, Any] = {"training": training}  # not from Keras's context: `stateless_call`
    if counted is not None and mask_rank:
        wide = mask_rank == 2
        options["mask"] = (
            ops.broadcast_to(ops.expand_dims(counted, -1), ops.shape(x)) if wide else counted
        )
    if activation.activity_regularizer is None:
        return activation(x, **options)
    # Keras would add the loss of all pairs, and older versions of it the sum, not the mean.
    known = inspect.signature(activation.call).parameters
    result = activation.call(x, **{name: value for name, value in options.items() if name in known})
    pairs = ops.shape(x)[0] if counted is None else ops.sum(ops.cast(counted, "int32"))
    loss = activation.activity_regularizer(select(counted, result))
    activation.add_loss(loss / ops.cast(ops.maximum(pairs, 1), loss.dtype))
    return result


def _kernels(dense: keras.layers.Dense, like: Tensor) -> list[Tensor]:
    """Return Wq, Wk, Wd and Wp."""
    kernel = ops.cast(ops.convert_to_tensor(dense.kernel), like.dtype)
    return list(ops.split(kernel, 4, axis=0))


def _first_layer(dense: keras.layers.Dense, keys: Tensor, of_rows: OfRows) -> Tensor:
    """Return the first layer's result (..., queries, units)."""
    if dense.quantization_mode:
        return _by_pair(dense, keys, of_rows["query"])
    padded = len(keys.shape) == 3
    time = keys.shape[1]  # None, or a symbol where JAX exports, if it is not known
    long = padded and (not isinstance(time, int) or time > _SHORT)
    way = _by_row if long else _by_event
    return way(dense, keys, of_rows["query"]) + of_rows["query_part"]


def _by_row(dense: keras.layers.Dense, keys: Tensor, query: Tensor) -> Tensor:
    _, wk, wd, wp = _kernels(dense, keys)
    query = ops.squeeze(query, 1)  # the axis of time, of all padded events the same
    batch, queries, dim = ops.shape(query)
    product_part = _backend.scaled_kernels(query, wp)
    row_kernel = ops.reshape(
        (wk - wd)[:, None, :] + product_part, (batch, dim, queries * dense.units)
    )
    shape = (batch, ops.shape(keys)[1], queries, dense.units)
    return ops.reshape(ops.matmul(keys, row_kernel), shape)


def _by_event(dense: keras.layers.Dense, keys: Tensor, query: Tensor) -> Tensor:
    _, wk, wd, wp = _kernels(dense, keys)
    # In half precision 300 * 300 is infinite, which by row is never multiplied out.
    dtype = keras.backend.standardize_dtype(keys.dtype)
    wide, column = wide_dtype(dtype), ops.expand_dims(keys, -2)
    products = ops.cast(column, wide) * ops.cast(query, wide)
    pair_part = ops.cast(_backend.project(products, ops.cast(wp, wide)), dtype)
    return pair_part + ops.expand_dims(_backend.project(keys, wk - wd), -2)


def _by_pair(dense: keras.layers.Dense, keys: Tensor, query: Tensor) -> Tensor:
    """As the definition has it: a quantized layer rounds its inputs and has no kernel of floats."""
    k, q = ops.expand_dims(keys, -2), query
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
