"""The user-weighted area under the ROC curve."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from din_layers._backend import (
    Tensor,
    backend,
    gather_replicas,
    shapes_may_depend_on_data,
    tensorflow,
)
from din_layers._checks import LARGEST_SIZE, check_integer, message

# Up to so many samples, a compiled step compares all pairs.
_FEW = 512


@keras.saving.register_keras_serializable(package="din_layers")
class GAUC(keras.metrics.Metric):
    """Group AUC: the mean of the users' own AUCs, each weighted by the user's number of samples.

    AUC over all samples also rewards a model for knowing which users click a lot. GAUC only asks
    whether the model ranks the items correctly that the same user saw. Users whose samples all have
    the same label have no AUC and are left out. A tie counts as one half.

    The result is exact over the data: neither binned nor a mean over batches, in which a user's
    samples would meet by chance. The metric keeps all samples since the last reset.

    Keras also asks for the result after every batch, inside the compiled step. Sorting all samples
    each time would take far longer than the model. So there, and in the progress bar, the result is
    NaN as soon as there are more than 512 samples. `fit` and `evaluate` end with the exact result,
    and `result()` called by hand, outside of any graph, always gives it. PyTorch compiles no step:
    there the metric sorts all samples after every batch.

    Args:
        capacity: The largest number of samples between two resets, that is of one epoch or of the
            validation data.
        name: The name of the metric.
        dtype: The dtype of the result.

    Call arguments:
        y_true: What `GAUC.targets(label, user)` makes of labels, 0 or 1, and ids, any integers:
            int32 (batch, 3), or (batch, candidates, 3) for pages. In `tf.data`,
            `tf.concat([label, tf.bitcast(user, tf.int32)], axis=1)` is the same, for an int32 label
            (batch, 1) and an int64 user (batch,).
        y_pred: Float (batch,) or (batch, 1), for pages (batch, candidates, 1), larger for the label
            1. Compared in float32.
        sample_weight: Optional, numbers (batch,), for pages also (batch, candidates); Keras gives
            it to `weighted_metrics`. A sample of weight 2 counts as two samples: a pair in a user's
            AUC has the product of its weights, and a user the sum of theirs. Weight 0 leaves a
            sample out, whatever its label and prediction; it takes no place of `capacity`.

    Output shape:
        A scalar. NaN if no user has both labels, a prediction is NaN, a label is not 0 or 1, a
        weight is negative, NaN or infinite, or there are more samples than `capacity`. Under
        `tf.distribute` it covers the samples of all replicas, each of which keeps them all; there
        targets that became floats give NaN. Processes of `torch.distributed` do not communicate:
        give one of them all samples, or gather targets and predictions with `all_gather_object`.

    Raises:
        ValueError: A `capacity` below 1, or a wrong shape.
        TypeError: A `capacity` that is no integer, or targets that are no integers.

    A loss takes the label without the user: give the model its prediction as a second output for
    the metric. Callbacks that monitor it need `mode="max"`, as for every metric of one output among
    several.

    Example:
        >>> metric = din_layers.GAUC(capacity=1000)
        >>> targets = din_layers.GAUC.targets(label=[1, 0, 1, 0, 1], user=[7, 7, 7, 8, 8])
        >>> metric.update_state(targets, np.array([0.9, 0.4, 0.1, 0.2, 0.3]))
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
        # One place more, for what is left out or too much: what goes there harms nothing.
        self.samples = self._add_state("samples", "int32", self.capacity + 1, 3)  # `targets`
        self.scores = self._add_state("scores", "float32", self.capacity + 1, 2)  # and weights
        self.count = self._add_state("count", "int32")

    def _add_state(self, name: str, dtype: str, *shape: int) -> Any:
        # Every replica has all samples: by default Keras would add the replicas up.
        once = "only_first_replica"
        return self.add_variable(shape, "zeros", dtype=dtype, aggregation=once, name=name)

    @staticmethod
    def targets(label: npt.ArrayLike, user: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Return `y_true`: label and id as int32, which survive the way to the metric unrounded.

        Args:
            label: 0 or 1, (batch,) or (batch, 1); for pages (batch, candidates, 1).
            user: Integers of any dtype, (batch,), (batch, 1), or of the shape of the labels.
        """
        labels, users = np.asarray(label), np.asarray(user)
        received = {"label_shape": labels.shape, "user_shape": users.shape}
        if labels.ndim not in (1, 2, 3) or labels.shape[1:][-1:] not in ((), (1,)):
            expected = "must have shape (batch,) or (batch, 1), for pages (batch, candidates, 1)"
            raise ValueError(message("label", expected, **received))
        batch = labels.shape[0]
        if users.shape not in ((batch,), (batch, 1), labels.shape):
            expected = "must have shape (batch,) or (batch, 1), or that of the labels"
            raise ValueError(message("user", expected, **received))
        if users.dtype.kind not in "iu":
            raise TypeError(message("user", "must be integers", user_dtype=str(users.dtype)))
        if labels.dtype.kind not in "iufb" or not np.isin(labels, (0, 1)).all():
            raise ValueError(message("label", "must be 0 or 1", label=label))
        labels = labels if labels.ndim == 3 else labels.reshape(-1, 1)
        users = users if users.ndim == 3 else users.reshape(-1, *[1] * (labels.ndim - 1))
        halves = np.broadcast_to(users, labels.shape).astype("<i8").view("<i4")
        return np.concatenate([labels.astype("int32"), halves.astype("int32")], axis=-1)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Keep the samples of a batch."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        _check(y_true, y_pred)
        samples = ops.reshape(ops.cast(y_true, "int32"), (-1, 3))
        label, score = samples[:, 0], ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        weight = ops.reshape(_weights(sample_weight, y_true), (-1,))
        # What is no label, or no weight, would give a plausible number.
        sound = ((label == 0) | (label == 1)) & (weight >= 0) & (weight < float("inf"))
        score = ops.where(sound & _is_integer(y_true), score, float("nan"))
        samples = gather_replicas(samples)
        scores = gather_replicas(ops.stack([score, weight], axis=1))

        kept = ops.cast(scores[:, 1] != 0, "int32")
        places = ops.where(kept == 1, self.count + ops.cumsum(kept) - 1, self.capacity)
        # Below 0 because Keras traces metrics on PyTorch with memory that no one has written.
        places = ops.clip(places, 0, self.capacity)[:, None]
        self.samples.assign(ops.scatter_update(self.samples, places, samples))
        self.scores.assign(ops.scatter_update(self.scores, places, scores))
        self.count.assign(self.count + ops.sum(kept))

    def result(self) -> Tensor:
        """Return the GAUC of the samples since the last reset; in a compiled step see above."""
        if _is_traced(self.count.value):
            result = ops.cond(
                self.count <= _FEW, self._of_few, lambda: ops.array(np.nan, "float32")
            )
            return ops.cast(result, self.dtype)
        count = int(ops.convert_to_numpy(self.count))
        samples, scores = (ops.convert_to_numpy(x)[:count] for x in (self.samples, self.scores))
        known = 0 < count <= self.capacity and not np.isnan(scores).any()
        return ops.convert_to_tensor(_gauc(samples, scores) if known else np.nan, self.dtype)

    def _of_few(self) -> Tensor:
        """Return the GAUC of the first samples, pair by pair."""
        size = min(_FEW, self.capacity)
        label, score = ops.cast(self.samples[:size, 0], "float32"), self.scores[:size, 0]
        filled = ops.arange(size, dtype="int32") < self.count
        weight = ops.where(filled, self.scores[:size, 1], 0.0)
        positive, negative = weight * label, weight * (1 - label)
        low, high = self.samples[:size, 1], self.samples[:size, 2]
        same_user = ops.cast((low[:, None] == low) & (high[:, None] == high), "float32")
        positives, negatives = (ops.sum(same_user * x, axis=1) for x in (positive, negative))
        # A positive wins a share of its user's negatives: those below it, half of those that tie.
        above = ops.cast(score[:, None] > score, "float32")
        wins = (above + ops.cast(score[:, None] >= score, "float32")) / 2
        won = ops.sum(same_user * wins * ops.divide_no_nan(negative, negatives), axis=1)
        aucs = ops.divide_no_nan(positive * won, positives)
        both = ops.cast((positives > 0) & (negatives > 0), "float32")
        mean = ops.sum(both * (positives + negatives) * aucs) / ops.sum(both * weight)
        unknown = ops.any(filled & ops.isnan(score)) | (self.count > self.capacity)
        return ops.where(unknown, float("nan"), mean)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "capacity": self.capacity}


def _check(y_true: Tensor, y_pred: Tensor) -> None:
    targets, predictions = tuple(y_true.shape), tuple(y_pred.shape)
    received = {"y_true_shape": targets, "y_pred_shape": predictions}
    if len(targets) not in (2, 3) or targets[-1] != 3:
        expected = "must be what `GAUC.targets(label, user)` makes of labels and the users' ids"
        raise ValueError(message("y_true", expected, **received))
    if not (_is_integer(y_true) or _in_strategy()):
        expected = "must be what `GAUC.targets(label, user)` makes, integers"
        raise TypeError(message("y_true", expected, y_true_dtype=str(y_true.dtype)))
    axes = targets[:-1]
    if not any(_fits(predictions, (*axes, *last)) for last in ((), (1,))):
        wanted = "(batch, candidates, 1)" if len(axes) == 2 else "(batch,) or (batch, 1)"
        expected = f"must have shape {wanted}, as the labels that `GAUC.targets` was given"
        raise ValueError(message("y_pred", expected, **received))


def _fits(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    """Compare shapes where both are known."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def _is_integer(x: Tensor) -> bool:
    return "int" in keras.backend.standardize_dtype(x.dtype)


def _in_strategy() -> bool:
    """Tell of `tf.distribute`, where Keras first calls metrics on floats, whatever it is given."""
    return backend() == "tensorflow" and bool(tensorflow().distribute.has_strategy())


def _is_traced(x: Tensor) -> bool:
    """Tell whether the value of a tensor is not known yet: in a graph, or while JAX compiles."""
    if backend() == "tensorflow":
        return not tensorflow().executing_eagerly()
    if backend() == "jax":
        import jax

        return isinstance(x, jax.core.Tracer)
    return not shapes_may_depend_on_data(x)


def _weights(weight: Tensor, y_true: Tensor) -> Tensor:
    """Return the weight of each sample: (batch,) or (batch, candidates)."""
    if weight is None:
        return ops.ones_like(y_true[..., 0], dtype="float32")
    weight, axes = ops.convert_to_tensor(weight, "float32"), tuple(y_true.shape[:-1])
    shape = tuple(weight.shape)
    if not any(_fits(shape, wanted) for wanted in (axes[:1], (axes[0], 1), axes, (*axes, 1))):
        wanted = "(batch,) or (batch, candidates)" if len(axes) == 2 else "(batch,)"
        received = {"sample_weight_shape": shape, "y_true_shape": tuple(y_true.shape)}
        raise ValueError(message("sample_weight", f"must have shape {wanted}", **received))
    if len(shape) > len(axes):
        weight = weight[..., 0]
    elif len(shape) < len(axes):
        weight = weight[:, None]
    return ops.broadcast_to(weight, ops.shape(y_true)[:-1])


def _gauc(samples: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> float:
    """Return the GAUC in float64."""
    user = samples[:, 1:].copy().view("<i8")[:, 0]
    order = np.argsort(scores[:, 0])
    order = order[np.argsort(user[order], kind="stable")]  # keeps the scores in order
    label, user, (score, weight) = samples[order, 0], user[order], scores[order].T.astype("f8")
    new_user = _starts(user)
    users, first = np.cumsum(new_user) - 1, np.flatnonzero(new_user)
    ties = np.cumsum(new_user | _starts(score)) - 1

    positive, negative = weight * label, weight * (1 - label)
    # Only their ratios matter: so light ones do not drown among those of other users.
    largest = np.maximum.reduceat(negative, first)
    negative /= np.where(largest > 0, largest, 1)[users]
    positives, negatives = np.bincount(users, positive), np.bincount(users, negative)
    # A positive wins its user's negatives below it, and half of those that tie with it.
    tied = np.bincount(ties, negative)
    below = (np.cumsum(tied) - tied)[ties]
    won = positive * (below - below[first][users] + tied[ties] / 2)
    both = positives * negatives > 0
    if not both.any():
        return np.nan
    aucs = np.bincount(users, won)[both] / (positives * negatives)[both]
    return float(np.average(aucs, weights=np.bincount(users, weight)[both]))


def _starts(ordered: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell for each value whether it differs from the one before."""
    return np.append(True, ordered[1:] != ordered[:-1])
