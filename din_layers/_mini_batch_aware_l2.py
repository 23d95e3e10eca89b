"""The DIN paper's regularisation of embeddings, which tames rare ids."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from din_layers._backend import Tensor, gather_processes, is_ragged, replica
from din_layers._checks import check_integer, check_number, message
from din_layers._numeric_layer import NumericLayer
from din_layers._tensors import select, wide_dtype

_LARGEST = float(np.finfo(np.float32).max)


@keras.saving.register_keras_serializable(package="din_layers")
class MiniBatchAwareL2(NumericLayer):
    """Add the L2 penalty of the embedding rows that a batch uses, and pass their vectors on.

    The layer penalises each distinct row w_j of the batch once, however often its id occurs there.
    The penalty is the smaller, the more often the id occurs in the training data, n_j times in all:

        loss += l2 * sum over the distinct ids j of the batch of |w_j|^2 / n_j

    Plain L2 costs time for every row of the table in every batch, and also shrinks rows that the
    batch does not use. As in Keras's L2 there is no factor 1/2: the paper's lambda, which appears
    in its gradient, is `2 * l2`.

    Args:
        frequencies: How often each id, from 0 on, occurs in the training data, with one number for
            each row of the embedding: `np.bincount(all_ids.ravel(), minlength=rows)`. Less than 1
            counts as 1. The saved config contains them.
        l2: The weight of the penalty.
        mask_value: The id of padding, whose row is not penalised; `None` if no id is padding.
        **kwargs: As in every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        vectors: Float (..., dim), the rows that an embedding gave for `ids`, without dropout or
            normalisation in between. Dense or `tf.RaggedTensor`. If one table embeds several
            inputs, pass a list of all of them, so that a row in two of them counts once. Another
            table needs its own layer.
        ids: Integers (...), any shape, each from 0 to `len(frequencies) - 1`; a list if `vectors`
            is one. A list of one tensor and the tensor itself mean the same.

    Use the output: a Keras model leaves out a layer whose output it does not use, and the penalty
    with it. The penalty is part of the loss in `evaluate`, too. It covers the whole batch under
    `keras.distribution`, on JAX, and if processes of `torch.distributed` train on parts of the
    batch and average their gradients. Replicas of `tf.distribute` are an error.

    Output shape:
        That of `vectors`, with the same masks. The penalty is NaN if an id has no frequency.

    Raises:
        ValueError: An argument out of range, shapes that do not belong together, or ragged input
            on a backend other than TensorFlow.
        TypeError: An argument of a wrong type, ids that are not integers.

    Example:
        >>> ids = np.array([[1, 2, 2], [2, 0, 0]])
        >>> films = keras.layers.Embedding(3, 4, embeddings_initializer="ones", mask_zero=True)
        >>> layer = din_layers.MiniBatchAwareL2(frequencies=[0, 1, 10], l2=0.5)
        >>> vectors = layer(films(ids), ids)
        >>> round(float(layer.losses[0]), 4)  # 0.5 * (4 / 1 + 4 / 10)
        2.2

    Reference:
        Deep Interest Network for Click-Through Rate Prediction, section 5.1, eq. 6 to 9,
        https://arxiv.org/abs/1706.06978
    """

    def __init__(
        self,
        frequencies: Sequence[float] | npt.NDArray[Any],
        l2: float = 0.01,
        mask_value: int | None = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.frequencies = _check_frequencies(frequencies)
        self.l2 = check_number("l2", l2, 0.0, _LARGEST)
        self.mask_value = None
        if mask_value is not None:
            self.mask_value = check_integer("mask_value", mask_value, minimum=0)
            if self.mask_value >= len(self.frequencies):
                received = {"mask_value": mask_value, "ids": len(self.frequencies)}
                raise ValueError(message("mask_value", "must be one of the ids", **received))
        self.supports_masking = True
        # Not a weight: it follows from the data, not from training, and the config has it.
        self._rates = self.l2 / np.maximum(self.frequencies, 1)

    def __call__(self, vectors: Any, ids: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Call the layer, see the class."""
        # Its first argument has another name than that of other layers.
        return super().__call__(vectors, ids, **kwargs)

    def build(self, *_: Any) -> None:
        """Nothing to build, whatever the structure of the inputs."""

    def call(self, vectors: Any, ids: Any, training: bool | None = None) -> Any:
        self._check(vectors, ids)
        if (several := replica()) is not None:
            # The penalty is that of the whole batch; each replica sees a part.
            expected = "must come to one replica: `tf.distribute` splits the batch"
            raise ValueError(message("vectors", expected, replicas=several.num_replicas_in_sync))
        flat_ids = [_flat(x) for x in keras.tree.flatten(ids)]
        squares = [
            self._squares(_values(x), x_ids)
            for x, x_ids in zip(keras.tree.flatten(vectors), flat_ids, strict=True)
        ]
        parts = [ops.concatenate(flat_ids), ops.concatenate(squares)]
        if training:  # else one process may evaluate alone: none waits for the others
            parts = [gather_processes(x) for x in parts]
        self.add_loss(self._penalty(*parts))
        return vectors

    def _squares(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Squared length of each vector (n,), 0 at padding, in float32 at least."""
        dtype = wide_dtype(keras.backend.standardize_dtype(vectors.dtype))
        vectors = ops.reshape(ops.cast(vectors, dtype), (-1, vectors.shape[-1]))
        valid = None if self.mask_value is None else ops.not_equal(ids, self.mask_value)
        return ops.sum(ops.square(select(valid, vectors)), axis=-1)

    def _penalty(self, ids: Tensor, squares: Tensor) -> Tensor:
        """Add up the squares (n,) of the distinct ids (n,), each by its rate."""
        # Sorted, so that the first of each id can be told; no step costs time by the size of the
        # table, and no shape depends on how many ids are distinct.
        order = ops.argsort(ids)
        ids, squares = ops.take(ids, order), ops.take(squares, order)
        first = ops.concatenate([ops.ones_like(ids[:1], "bool"), ids[1:] != ids[:-1]])
        known = ops.logical_and(ids >= 0, ids < len(self._rates))
        # Some gathers clip what is out of range, some fail: it is told from a penalty of NaN.
        rates = ops.take(ops.convert_to_tensor(self._rates, squares.dtype), select(known, ids))
        penalties = ops.where(known, rates * squares, ops.cast(float("nan"), squares.dtype))
        return ops.sum(select(first, penalties))

    def compute_output_spec(self, vectors: Any, ids: Any, training: bool | None = None) -> Any:
        self._check(vectors, ids)
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, x.dtype, ragged=is_ragged(x)), vectors
        )

    def _check(self, vectors: Any, ids: Any) -> None:
        all_vectors, all_ids = keras.tree.flatten(vectors), keras.tree.flatten(ids)
        shapes = [[tuple(x.shape) for x in tensors] for tensors in (all_vectors, all_ids)]
        received = {"vectors_shape": shapes[0], "ids_shape": shapes[1]}
        if not all_ids or len(all_vectors) != len(all_ids) or not all(map(_are_alike, *shapes)):
            expected = "must be one tensor (..., dim) for each tensor (...) of `ids`"
            raise ValueError(message("vectors", expected, **received))
        if [is_ragged(x) for x in all_vectors] != [is_ragged(x) for x in all_ids]:
            expected = "must be ragged if and only if `ids` are"
            raise TypeError(message("vectors", expected, **received))
        if len({shape[-1] for shape in shapes[0]}) > 1:
            expected = "must be rows of one table, of one `dim`"
            raise ValueError(message("vectors", expected, **received))
        for x in all_ids:
            dtype = keras.backend.standardize_dtype(x.dtype)
            if "int" not in dtype:
                raise TypeError(message("ids", "must be integers", ids_dtype=dtype))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "frequencies": self.frequencies.tolist(),
            "l2": self.l2,
            "mask_value": self.mask_value,
        }


def _check_frequencies(value: Any) -> npt.NDArray[Any]:
    try:
        frequencies = np.asarray(value)
    except ValueError:  # rows of several lengths
        frequencies = np.asarray(None)
    if frequencies.dtype.kind not in "iuf":
        expected = "must be a list or an array of numbers"
        raise TypeError(message("frequencies", expected, frequencies=value))
    if (
        frequencies.ndim != 1
        or not frequencies.size
        or not (np.isfinite(frequencies) & (frequencies >= 0)).all()
    ):
        expected = "must be one number, 0 or more, for each id"
        raise ValueError(message("frequencies", expected, frequencies=value))
    return frequencies


def _are_alike(vectors: tuple[int | None, ...], ids: tuple[int | None, ...]) -> bool:
    """Is the first shape the second one with one more axis, as far as sizes are known?"""
    sizes = zip(vectors, ids, strict=False)
    return len(vectors) == len(ids) + 1 and all(a == b or None in (a, b) for a, b in sizes)


def _flat(ids: Any) -> Tensor:
    """All ids (n,), as a type that every gather takes."""
    wide = "64" in keras.backend.standardize_dtype(ids.dtype)
    return ops.reshape(ops.cast(_values(ids), "int64" if wide else "int32"), (-1,))


def _values(x: Any) -> Any:
    """The events of a ragged tensor, without its rows, or a dense tensor as it is."""
    return x.flat_values if is_ragged(x) else x
