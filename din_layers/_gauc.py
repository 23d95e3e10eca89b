"""The user-weighted area under the ROC curve."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from din_layers._backend import Tensor, gather_replicas
from din_layers._checks import LARGEST_SIZE, check_integer, message

# From here on a float is not every integer: an id may be that of a neighbour, rounded.
_FIRST_GAPS = {"float64": 2**53, "float32": 2**24, "float16": 2**11, "bfloat16": 2**8}
_NO_LABEL = -1  # whatever is neither 0 nor 1


@keras.saving.register_keras_serializable(package="din_layers")
class GAUC(keras.metrics.Metric):
    """Mean of the users' own AUCs, each weighted by how many samples the user has.

    AUC over all samples also rewards a model for knowing which users click a lot. GAUC only asks
    whether it ranks the items right that one and the same user saw. Users whose samples all have
    one label have no AUC and are left out. A tie counts as one half.

    The result is exact, not binned: the metric keeps all samples since the last reset. Keras asks
    for it after every batch, and each time all `capacity` places are sorted: give it validation
    data, not training data.

    Args:
        capacity: The most samples between two resets: of one epoch, or of the validation data.
        name: The name of the metric.
        dtype: The dtype of the result.

    Call arguments:
        y_true: What `GAUC.targets(label, user)` makes of labels, 0 or 1, and ids, any integers:
            (batch, 3). Or integers or floats (batch, 2), label and id, where no id is lost on the
            way: Keras makes float32 of float64, and JAX 32 bits of 64. A float id from where its
            neighbours are rounded to it, 2**24 in float32, gives NaN; a JAX array of 32 bits is an
            error. In `tf.data`, `tf.concat([label, tf.bitcast(user, tf.int32)], axis=1)` is the
            same as `targets`, for an int32 label (batch, 1) and an int64 user (batch,).
        y_pred: Float (batch,) or (batch, 1), larger for the label 1. Compared in float32.
        sample_weight: Must be None.

    Output shape:
        A scalar. NaN if no user has both labels, a prediction is NaN, a label is not 0 or 1, an id
        is no integer or too large for its floats, or more samples came than `capacity`. Under
        `tf.distribute` it is that of the samples of all replicas, each of which keeps them all.

    Raises:
        ValueError: A `capacity` below 1, a wrong shape, sample weights, or on JAX integers (batch,
            2) that may have been cut off.
        TypeError: A `capacity` that is no integer.

    A loss takes the label alone: give the model its prediction as a second output, for the metric.
    Callbacks that monitor it need `mode="max"`, as for every metric of one output among several.

    Example:
        >>> metric = din_layers.GAUC(capacity=1000)
        >>> labels, users = [1, 0, 1, 0, 1], [7, 7, 7, 8, 8]
        >>> metric.update_state(np.stack([labels, users], 1), np.array([0.9, 0.4, 0.1, 0.2, 0.3]))
        >>> round(float(metric.result()), 4)  # user 7: 1/2, user 8: 1
        0.7
        >>> features = keras.Input((2,))
        >>> click = keras.layers.Dense(1, activation="sigmoid")(features)
        >>> model = keras.Model(features, {"click": click, "by_user": click})
        >>> loss, metrics = {"click": "binary_crossentropy"}, {"by_user": [metric]}
        >>> model.compile("sgd", loss=loss, metrics=metrics)
        >>> label, user = np.array([0, 1, 1]), np.array([3, 3, 2**40])
        >>> y = {"click": label, "by_user": din_layers.GAUC.targets(label, user)}
        >>> history = model.fit(np.eye(3, 2), y, verbose=0)
        >>> sorted(history.history)
        ['by_user_gauc', 'loss']

    Reference:
        Deep Interest Network for Click-Through Rate Prediction, section 6.2,
        https://arxiv.org/abs/1706.06978
    """

    def __init__(self, capacity: int, name: str = "gauc", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.capacity = check_integer("capacity", capacity, 1, LARGEST_SIZE)
        # One place more, for what is too much: where it goes, it harms nothing.
        self.labels = self._add_state("labels", "int32", self.capacity + 1)
        self.users = self._add_state("users", "int32", self.capacity + 1)
        self.users_high = self._add_state("users_high", "int32", self.capacity + 1)
        self.scores = self._add_state("scores", "float32", self.capacity + 1)
        self.count = self._add_state("count", "int32")

    def _add_state(self, name: str, dtype: str, *shape: int) -> Any:
        # Every replica has all samples: by default Keras would add the replicas up.
        once = "only_first_replica"
        return self.add_variable(shape, "zeros", dtype=dtype, aggregation=once, name=name)

    @staticmethod
    def targets(label: npt.ArrayLike, user: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Return `y_true` of int32, which nothing on the way to the metric rounds or cuts off.

        Args:
            label: 0 or 1, (batch,) or (batch, 1).
            user: Integers of any dtype, (batch,) or (batch, 1).
        """
        labels, users = np.asarray(label), np.asarray(user)
        if not {labels.shape, users.shape} <= {(labels.size,), (labels.size, 1)}:
            expected = "must be one id for each label, both of shape (batch,) or (batch, 1)"
            received = {"label_shape": labels.shape, "user_shape": users.shape}
            raise ValueError(message("user", expected, **received))
        if users.dtype.kind not in "iu":
            raise TypeError(message("user", "must be integers", user_dtype=str(users.dtype)))
        if labels.dtype.kind not in "iufb" or not np.isin(labels, (0, 1)).all():
            raise ValueError(message("label", "must be 0 or 1", label=label))
        return _split(labels.reshape(-1), users.reshape(-1))

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Keep the samples of a batch."""
        y_true, y_pred = _exact(y_true), ops.convert_to_tensor(y_pred)
        _check(y_true, y_pred, sample_weight)
        columns = gather_replicas(_columns(y_true))
        labels, users, users_high = (columns[:, i] for i in range(3))
        scores = gather_replicas(ops.reshape(ops.cast(y_pred, "float32"), (-1,)))
        # What is no label would give a plausible number.
        scores = ops.where((labels == 0) | (labels == 1), scores, float("nan"))
        number = ops.shape(scores)[0]
        # Below 0 because Keras traces metrics on PyTorch with memory that no one has written.
        places = ops.clip(self.count + ops.arange(number, dtype="int32"), 0, self.capacity)
        for state, values in (
            (self.labels, labels),
            (self.users, users),
            (self.users_high, users_high),
            (self.scores, scores),
        ):
            state.assign(ops.scatter_update(state, places[:, None], values))
        self.count.assign(self.count + ops.cast(number, "int32"))

    def result(self) -> Tensor:
        """Return the GAUC of the samples since the last reset."""
        valid = ops.arange(self.capacity + 1, dtype="int32") < self.count
        whole = (self.count <= self.capacity) & ~ops.any(valid & ops.isnan(self.scores))

        # By user, then score: each sort keeps the order of those before among equals.
        order = ops.argsort(self.scores)
        for key in (self.users, self.users_high):
            order = ops.take(order, ops.argsort(ops.take(key, order)))
        valid, label, user, user_high, score = (
            ops.take(x, order)
            for x in (valid, self.labels, self.users, self.users_high, self.scores)
        )
        # Places that are not filled are somewhere among the others, and count as nothing.
        positive = ops.cast(valid, "int32") * label
        negative = ops.cast(valid, "int32") * (1 - label)
        new_user = ops.logical_or(_starts(user), _starts(user_high))
        users, ties = _numbers(new_user), _numbers(ops.logical_or(new_user, _starts(score)))

        # What a positive wins: its user's negatives below it, and half of those that tie with it.
        tied = self._sums(negative, ties)
        negatives = self._sums(negative, users)
        below = ops.take(_before(tied), ties) - ops.take(_before(negatives), users)
        won = _float(below) + _float(ops.take(tied, ties)) / 2

        # Its share of its user's pairs, times the user's samples. What is added up group by group
        # are integers: floats, added one by one, would lose digits.
        negatives = ops.take(negatives, users)
        positives = ops.take(self._sums(positive, users), users)
        pairs = _float(positives) * _float(negatives)
        shares = ops.divide_no_nan(won * _float(positive * (positives + negatives)), pairs)
        samples = ops.sum(ops.where(pairs > 0, positive + negative, 0))
        defined = ops.logical_and(whole, samples > 0)
        mean = ops.sum(shares) / _float(ops.maximum(samples, 1))
        return ops.cast(ops.where(defined, mean, float("nan")), self.dtype)

    def _sums(self, x: Tensor, groups: Tensor) -> Tensor:
        """Sum x over each of the groups."""
        return ops.segment_sum(x, groups, num_segments=self.capacity + 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "capacity": self.capacity}


def _check(y_true: Tensor, y_pred: Tensor, sample_weight: Tensor) -> None:
    shapes = {"y_true_shape": tuple(y_true.shape), "y_pred_shape": tuple(y_pred.shape)}
    if len(y_true.shape) != 2 or y_true.shape[1] not in (2, 3):
        expected = "must be `GAUC.targets(label, user)`, or have shape (batch, 2): label and user"
        raise ValueError(message("y_true", expected, **shapes))
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    cut = keras.backend.backend() == "jax" and dtype in ("int32", "uint32")
    if y_true.shape[1] == 2 and cut:
        expected = "must be `GAUC.targets(label, user)`: JAX may have cut off ids of 64 bits here"
        raise ValueError(message("y_true", expected, y_true_dtype=dtype, **shapes))
    if len(y_pred.shape) not in (1, 2) or y_pred.shape[1:] not in ((), (1,)):
        raise ValueError(message("y_pred", "must have shape (batch,) or (batch, 1)", **shapes))
    if None not in (y_true.shape[0], y_pred.shape[0]) and y_true.shape[0] != y_pred.shape[0]:
        raise ValueError(message("y_pred", "must have the `batch` of `y_true`", **shapes))
    if sample_weight is not None:
        raise ValueError(message("sample_weight", "must be None", sample_weight=sample_weight))


def _exact(y_true: Any) -> Tensor:
    """Return a tensor; of arrays and lists, which backends round and cut off, the parts."""
    if not isinstance(y_true, np.ndarray | list | tuple):
        return ops.convert_to_tensor(y_true)
    array = np.asarray(y_true)
    if array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "biu":
        labels = np.where(np.isin(array[:, 0], (0, 1)), array[:, 0], _NO_LABEL)
        array = _split(labels, array[:, 1])
    return ops.convert_to_tensor(array)


def _split(labels: npt.NDArray[Any], users: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return labels and the lower and upper halves of the ids: int32 (batch, 3)."""
    halves = users.astype("<i8").view("<i4").reshape(-1, 2)
    return np.concatenate([labels.astype("int32")[:, None], halves.astype("int32")], axis=1)


def _columns(y_true: Tensor) -> Tensor:
    """Return labels and the lower and upper halves of the ids: int32 (batch, 3)."""
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    if dtype == "bool":
        y_true = ops.cast(y_true, "int32")
    label, parts = y_true[:, :1], y_true[:, 1:]
    known = ops.logical_or(label == 0, label == 1)
    # Not an error: under `tf.distribute` Keras first calls metrics on floats, whatever it is given.
    if dtype in _FIRST_GAPS:
        whole = ops.logical_and(ops.abs(parts) < _FIRST_GAPS[dtype], ops.floor(parts) == parts)
        known = ops.logical_and(known, ops.all(whole, axis=1, keepdims=True))
        parts = ops.where(whole, parts, ops.zeros_like(parts))
    label = ops.where(known, ops.cast(label, "int32"), _NO_LABEL)
    if parts.shape[1] == 1:
        # JAX without 64 bits has no upper half.
        wide = keras.backend.backend() != "jax" or "64" in dtype
        parts = ops.cast(parts, "int64" if wide else "int32")
        upper = parts // 2**32 if wide else ops.zeros_like(parts)
        parts = ops.concatenate([parts, upper], axis=1)
    return ops.concatenate([label, ops.cast(parts, "int32")], axis=1)


def _float(x: Tensor) -> Tensor:
    return ops.cast(x, "float32")


def _starts(sorted_values: Tensor) -> Tensor:
    """Tell for each value whether it differs from the one before."""
    return ops.concatenate(
        [ops.ones((1,), dtype="bool"), ops.not_equal(sorted_values[1:], sorted_values[:-1])]
    )


def _numbers(starts: Tensor) -> Tensor:
    """Number the groups that begin at `starts`, from 0."""
    return ops.cumsum(ops.cast(starts, "int32")) - 1


def _before(counts: Tensor) -> Tensor:
    """Add up, for each group, what the groups before it have."""
    return ops.cumsum(counts) - counts
