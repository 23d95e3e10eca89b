"""The user-weighted area under the ROC curve."""

from typing import Any

import keras
from keras import ops

from din_layers._backend import Tensor
from din_layers._checks import LARGEST_SIZE, check_integer, message


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
        y_true: Numbers (batch, 2): the label, 0 or 1, and the id of the user, which must fit into
            int32 and, in a float array, be exact there.
        y_pred: Float (batch,) or (batch, 1), larger for the label 1. Compared in float32.
        sample_weight: Must be None.

    Output shape:
        A scalar. NaN if no user has both labels, a prediction is NaN, a label is not 0 or 1, an id
        is no integer or does not fit into int32, or more samples came than `capacity`.

    Raises:
        ValueError: A `capacity` below 1, a wrong shape, or sample weights.
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
        >>> label, user = np.array([[0], [1], [1]]), np.array([[3], [3], [4]])
        >>> y = {"click": label, "by_user": np.concatenate([label, user], axis=1)}
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
        places = (self.capacity + 1,)
        self.labels = self.add_variable(places, "zeros", dtype="int32", name="labels")
        self.users = self.add_variable(places, "zeros", dtype="int32", name="users")
        self.scores = self.add_variable(places, "zeros", dtype="float32", name="scores")
        self.count = self.add_variable((), "zeros", dtype="int32", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Keep the samples of a batch."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        _check(y_true, y_pred, sample_weight)
        labels, users = ops.cast(y_true[:, 0] > 0, "int32"), ops.cast(y_true[:, 1], "int32")
        # What is no label or no user id would give a plausible number, swapped columns for one.
        kept = ops.stack([labels, users], axis=1)
        faithful = ops.all(ops.cast(kept, y_true.dtype) == y_true, axis=1)
        scores = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        scores = ops.where(faithful, scores, float("nan"))
        number = ops.shape(scores)[0]
        # Below 0 because Keras traces metrics on PyTorch with memory that no one has written.
        places = ops.clip(self.count + ops.arange(number, dtype="int32"), 0, self.capacity)
        for state, values in (
            (self.labels, labels),
            (self.users, users),
            (self.scores, scores),
        ):
            state.assign(ops.scatter_update(state, places[:, None], values))
        self.count.assign(self.count + ops.cast(number, "int32"))

    def result(self) -> Tensor:
        """Return the GAUC of the samples since the last reset."""
        valid = ops.arange(self.capacity + 1, dtype="int32") < self.count
        whole = (self.count <= self.capacity) & ~ops.any(valid & ops.isnan(self.scores))

        # By user, then score: the second sort keeps the order of the first among equals.
        order = ops.argsort(self.scores)
        order = ops.take(order, ops.argsort(ops.take(self.users, order)))
        valid, label, user, score = (
            ops.take(x, order) for x in (valid, self.labels, self.users, self.scores)
        )
        # Places that are not filled are somewhere among the others, and count as nothing.
        positive = ops.cast(valid, "int32") * label
        negative = ops.cast(valid, "int32") * (1 - label)
        new_user = _starts(user)
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
    if len(y_true.shape) != 2 or y_true.shape[1] != 2:
        expected = "must have shape (batch, 2): label and user id"
        raise ValueError(message("y_true", expected, **shapes))
    if len(y_pred.shape) not in (1, 2) or y_pred.shape[1:] not in ((), (1,)):
        raise ValueError(message("y_pred", "must have shape (batch,) or (batch, 1)", **shapes))
    if None not in (y_true.shape[0], y_pred.shape[0]) and y_true.shape[0] != y_pred.shape[0]:
        raise ValueError(message("y_pred", "must have the `batch` of `y_true`", **shapes))
    if sample_weight is not None:
        raise ValueError(message("sample_weight", "must be None", sample_weight=sample_weight))


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
