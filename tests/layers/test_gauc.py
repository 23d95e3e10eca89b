"""GAUC against pairs counted one by one and scikit-learn, in every way that it can be fed."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import BACKEND, needs_tensorflow, recording
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import din_layers
from din_layers.testing._fresh_process import run_fresh

# The metric sums float32 products of small counts; the rest is exact.
CLOSE = {"rel": 1e-5, "abs": 1e-6}
CAPACITY = 40

# Few users and scores, so that users with one label and ties are common; ids are any int32.
samples = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([-(2**31), -1, 0, 1, 2**24, 2**24 + 1, 2**31 - 1]),
        st.sampled_from([-np.inf, -1.5, 0.0, 0.5, 1.0, np.inf]),
    ),
    max_size=CAPACITY,
)


def columns(drawn):
    label, user, score = zip(*drawn, strict=True) if drawn else ((), (), ())
    return np.array(label, np.int64), np.array(user, np.int64), np.array(score, np.float32)


def oracle(label, user, score):
    """The definition, pair by pair in float64."""
    aucs, counts = [], []
    for one in np.unique(user):
        clicked = score[(user == one) & (label == 1)].astype("float64")
        other = score[(user == one) & (label == 0)].astype("float64")
        if len(clicked) and len(other):
            wins = [1.0 if c > o else 0.5 if c == o else 0.0 for c in clicked for o in other]
            aucs.append(np.mean(wins))
            counts.append(len(clicked) + len(other))
    return np.average(aucs, weights=counts) if aucs else np.nan


def fed(metric, label, user, score, ends=()):
    """Return the metric after the samples, in batches that end where `ends` says."""
    y_true = stacked(label, user)
    for rows in np.split(np.arange(len(label)), sorted(ends)):
        metric.update_state(y_true[rows], score[rows, None])
    return metric


@given(drawn=samples, ends=st.lists(st.integers(0, CAPACITY), max_size=4))
@example(drawn=[], ends=[])
# The places that are not filled hold user 0 with score 0: they must not play for user 0.
@example(drawn=[(1, 0, -1.5), (0, 0, 1.0)], ends=[])
def test_it_is_the_mean_of_the_users_own_aucs(drawn, ends):
    label, user, score = columns(drawn)
    result = float(fed(din_layers.GAUC(CAPACITY), label, user, score, ends).result())
    assert result == pytest.approx(oracle(label, user, score), nan_ok=True, **CLOSE)


def drawn_log(size, users, seed=0):
    rng = np.random.default_rng(seed)
    label, user = rng.integers(0, 2, size), rng.integers(0, users, size)
    # Hundredths, so that there are ties.
    return label, user, (rng.random(size) + 0.2 * label).round(2).astype(np.float32)


@pytest.mark.parametrize("users", [1, 7, 300])
def test_it_equals_scikit_learn_user_by_user(users):
    label, user, score = drawn_log(10_000, users)
    both = [u for u in np.unique(user) if len(set(label[user == u])) == 2]
    expected = np.average(
        [roc_auc_score(label[user == u], score[user == u]) for u in both],
        weights=[(user == u).sum() for u in both],
    )
    assert float(fed(din_layers.GAUC(10_000), label, user, score).result()) == pytest.approx(
        expected, **CLOSE
    )


@needs_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_give_the_same(jit_compile):
    label, user, score = drawn_log(30, 4)
    metric = din_layers.GAUC(CAPACITY)

    @tf.function(jit_compile=jit_compile)
    def step(y_true, y_pred):
        metric.update_state(y_true, y_pred)
        return metric.result()

    for end in (10, 20, 30):
        rows = slice(end - 10, end)
        result = step(np.stack([label, user], 1)[rows], score[rows])
        expected = oracle(label[:end], user[:end], score[:end])
        assert float(result) == pytest.approx(expected, **CLOSE)


def test_what_has_no_result_is_nan():
    assert np.isnan(float(din_layers.GAUC(3).result()))
    metric = din_layers.GAUC(3)
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2), (1, 6, 0.1)]))
    assert float(metric.result()) == 1
    fed(metric, *columns([(0, 6, 0.7)]))  # one more than there is room for
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2)]))
    assert float(metric.result()) == 1
    fed(metric, *columns([(1, 6, np.nan)]))
    assert np.isnan(float(metric.result()))


def model_and_data():
    features = keras.Input((3,))
    click = keras.layers.Dense(1, activation="sigmoid")(features)
    model = keras.Model(features, {"click": click, "by_user": click})
    model.compile(
        "sgd",
        loss={"click": "binary_crossentropy"},
        metrics={"by_user": [din_layers.GAUC(64)]},
    )
    label, user, _ = drawn_log(60, 5)
    x = np.random.default_rng(1).normal(size=(60, 3))
    y = {"click": label[:, None], "by_user": din_layers.GAUC.targets(label, user)}
    return model, x, y


def expected_of(model, x, y):
    return oracle(*y["by_user"][:, :2].T, model.predict(x, verbose=0)["by_user"][:, 0])


def test_under_fit_it_is_that_of_all_samples_of_the_epoch():
    model, x, y = model_and_data()
    with recording():
        history = model.fit(x, y, epochs=2, batch_size=16, validation_data=(x, y), verbose=0)
    # The second epoch starts from nothing.
    assert history.history["val_by_user_gauc"][-1] == pytest.approx(
        expected_of(model, x, y), **CLOSE
    )
    model.evaluate(x, y, batch_size=7, verbose=0)


LOADED = """
import sys
import numpy as np
import din_layers
import keras
if keras.backend.backend() == "torch":
    import torch
    torch.use_deterministic_algorithms(True)  # fills memory that no one has written yet
model = keras.models.load_model(sys.argv[1])
with np.load(sys.argv[2]) as data:
    y = {"click": data["by_user"][:, :1], "by_user": data["by_user"]}
    print(model.evaluate(data["x"], y, verbose=0, return_dict=True)["by_user_gauc"])
"""


def test_a_compiled_model_is_saved_with_it(tmp_path):
    model, x, y = model_and_data()
    with recording():
        model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, by_user=y["by_user"])
    printed = run_fresh(LOADED, tmp_path / "model.keras", tmp_path / "data.npz")
    assert float(printed) == pytest.approx(expected_of(model, x, y), **CLOSE)


def test_the_config_makes_the_same_metric():
    metric = din_layers.GAUC(9, name="ranking")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert (again.capacity, again.name, again.dtype) == (9, "ranking", metric.dtype)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "weight", "text"),
    [
        ((4,), (4,), None, "or have shape (batch, 2): label and user. Received: y_true.shape=(4,)"),
        ((4, 1), (4, 1), None, "y_true.shape=(4, 1), y_pred.shape=(4, 1)"),
        ((4, 4), (4, 1), None, "`y_true` must be `GAUC.targets(label, user)`, or have shape"),
        ((4, 2), (4, 2), None, "`y_pred` must have shape (batch,) or (batch, 1)"),
        ((4, 2), (4, 1, 1), None, "`y_pred` must have shape"),
        ((4, 2), (3, 1), None, "`y_pred` must have the `batch` of `y_true`"),
        ((4, 2), (4,), np.ones(4), "`sample_weight` must be None"),
    ],
)
def test_bad_shapes_leave_the_metric_usable(y_true, y_pred, weight, text):
    metric = din_layers.GAUC(4)
    with pytest.raises(ValueError, match=re.escape(text)):
        metric.update_state(np.zeros(y_true), np.zeros(y_pred), weight)
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2)]))
    assert float(metric.result()) == 1


@needs_tensorflow
def test_a_batch_may_be_of_unknown_size_on_one_side():
    metric = din_layers.GAUC(4)
    unknown, known = tf.TensorSpec((None, 2)), tf.TensorSpec((2,))

    @tf.function(input_signature=[unknown, known], autograph=False)
    def update(y_true, y_pred):
        metric.update_state(y_true, y_pred)

    update(np.float32([[1, 5], [0, 5]]), np.float32([0.5, 0.2]))
    assert float(metric.result()) == 1


WRONG = [[5, 1], [2, 5], [-1, 5], [0.5, 5], [np.nan, 5], [1, 5.5], [1, 2.0**53], [1, np.nan]]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_no_label_or_no_user_gives_no_plausible_result(wrong):
    """Swapped columns, ratings, ids that floats round."""
    metric = din_layers.GAUC(9)
    right = [[1, 5], [0, 5]]
    metric.update_state(np.float64(right), np.array([0.5, 0.2]))
    assert float(metric.result()) == 1
    metric.update_state(np.float64([wrong]), np.array([0.1]))
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(np.array(right), np.array([0.5, 0.2]))
    assert float(metric.result()) == 1


# Users -------------------------------------------------------------------------------------------

# In pairs that something on the way makes one: float16, float32, float64, int32, and a float that
# is cut off at the largest int32.
ALIKE = [
    (2**11, 2**11 + 1),
    (2**24, 2**24 + 1),
    (2**53, 2**53 + 1),
    (5, 5 + 2**32),
    (2**31 - 1, 2**31),
    (-1, 2**32 - 1),
    (-(2**63), 0),
]
each_pair = pytest.mark.parametrize("users", ALIKE, ids=str)


def log_of_two(users):
    """A log whose GAUC differs from the AUC of all its samples."""
    label, one, score = drawn_log(60, 2, seed=3)
    user = np.array(users)[one]
    score = score + one.astype("float32") * 3
    assert oracle(label, user, score) != pytest.approx(oracle(label, 0 * user, score), abs=0.01)
    return label, user, score


def evaluated(users, targets):
    """Return the GAUC under `evaluate` of what `targets` makes of a log, and the right one."""
    label, user, score = log_of_two(users)
    features = keras.Input((1,))
    model = keras.Model(features, {"click": features, "by_user": features * 1.0})
    model.compile(loss={"click": "mse"}, metrics={"by_user": [din_layers.GAUC(64)]})
    y = {"click": label, "by_user": targets(label, user)}
    result = model.evaluate(score[:, None], y, batch_size=7, verbose=0, return_dict=True)
    return result["by_user_gauc"], pytest.approx(oracle(label, user, score), **CLOSE)


@each_pair
def test_targets_keep_any_two_users_apart_under_fit(users):
    result, expected = evaluated(users, din_layers.GAUC.targets)
    assert result == expected


def stacked(*columns):
    return np.stack(columns, axis=1)


@each_pair
def test_integers_keep_users_apart_or_are_refused(users):
    if BACKEND == "jax":  # it has cut the integers off before the metric sees them
        with pytest.raises(ValueError, match=r"must be `GAUC.targets\(label, user\)`: JAX"):
            evaluated(users, stacked)
    else:
        result, expected = evaluated(users, stacked)
        assert result == expected


@each_pair
def test_floats_keep_users_apart_or_give_nan(users):
    """Labels that are floats make floats of the ids beside them."""
    result, expected = evaluated(users, lambda *columns: stacked(*columns).astype("float64"))
    assert np.isnan(result) or result == expected
    assert np.isnan(result) == (max(map(abs, users)) >= 2**24)  # else it is no use


@each_pair
def test_arrays_keep_users_apart_in_a_plain_call(users):
    label, user, score = log_of_two(users)
    result = fed(din_layers.GAUC(64), label, user, score).result()
    assert float(result) == pytest.approx(oracle(label, user, score), **CLOSE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8", "uint8", "bool"])
def test_tensors_of_any_dtype(dtype):
    rows = keras.ops.cast(keras.ops.array([[1, 1], [0, 1], [1, 0]]), dtype)
    metric = din_layers.GAUC(9)
    metric.update_state(rows, np.array([0.5, 0.2, 0.1]))
    assert float(metric.result()) == 1


@needs_tensorflow
def test_targets_in_tf_data_are_those_of_numpy():
    label, user, _ = log_of_two((-(2**63), 2**40 + 7))
    data = tf.data.Dataset.from_tensor_slices((np.int32(label)[:, None], user)).batch(7)
    data = data.map(lambda label, user: tf.concat([label, tf.bitcast(user, tf.int32)], axis=1))
    made = np.concatenate([batch.numpy() for batch in data])
    np.testing.assert_array_equal(made, din_layers.GAUC.targets(label, user))


@pytest.mark.parametrize(
    ("label", "user", "error", "text"),
    [
        ([1, 0], [1], ValueError, "`user` must be one id for each label"),
        ([[1, 0]], [[1, 2]], ValueError, "Received: label.shape=(1, 2), user.shape=(1, 2)"),
        (1, 2, ValueError, "both of shape (batch,) or (batch, 1)"),
        ([1], [2.0], TypeError, "`user` must be integers. Received: user.dtype='float64'"),
        ([1], [True], TypeError, "`user` must be integers"),
        ([1], ["a"], TypeError, "`user` must be integers"),
        ([2], [1], ValueError, "`label` must be 0 or 1. Received: label=[2]"),
        (["1"], [1], ValueError, "`label` must be 0 or 1"),
    ],
)
def test_bad_targets(label, user, error, text):
    with pytest.raises(error, match=re.escape(text)):
        din_layers.GAUC.targets(label, user)


@pytest.mark.parametrize(
    ("dtype", "kept"), [("float32", False), ("float64", BACKEND == "tensorflow")]
)
def test_targets_that_became_floats_keep_users_apart_or_give_nan(dtype, kept):
    label, user, score = log_of_two((2**24, 2**24 + 1))
    metric = din_layers.GAUC(64)
    metric.update_state(din_layers.GAUC.targets(label, user).astype(dtype), score)
    expected = oracle(label, user, score) if kept else np.nan
    assert float(metric.result()) == pytest.approx(expected, nan_ok=True, **CLOSE)


# Several devices ---------------------------------------------------------------------------------

TWO_DEVICES = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import keras
import numpy as np
import din_layers

def run():
    features = keras.Input((3,))
    click = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")(features)
    model = keras.Model(features, {"click": click, "by_user": click * 1.0})
    metrics = {"by_user": [din_layers.GAUC(64)]}
    model.compile(keras.optimizers.SGD(0.0), loss={"click": "mse"}, metrics=metrics)
    y = {"click": data["label"], "by_user": din_layers.GAUC.targets(data["label"], data["user"])}
    fitted = model.fit(data["x"], y, batch_size=6, epochs=2, verbose=0)
    evaluated = model.evaluate(data["x"], y, batch_size=6, verbose=0, return_dict=True)
    return [*fitted.history["by_user_gauc"], evaluated["by_user_gauc"]]

with np.load(sys.argv[1]) as data:
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        assert keras.distribution.distribution().device_mesh.devices.size == 2
        print(*run())
    else:
        import tensorflow as tf
        parts = [tf.config.LogicalDeviceConfiguration()] * 2
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, parts)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        with strategy.scope():
            print(*run())
"""


@pytest.mark.skipif(BACKEND == "torch", reason="Keras trains PyTorch on one device")
def test_two_devices_have_the_gauc_of_all_samples(tmp_path):
    # The last batch has one sample on TensorFlow, and one device then has none. JAX needs two.
    size = 31 if BACKEND == "tensorflow" else 30
    label, user, _ = drawn_log(size, 5)
    x = np.random.default_rng(1).normal(size=(size, 3)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, label=label, user=user)
    # Spread over all of float32, so that no sigmoid makes ties.
    expected = oracle(label, user, x.astype("float64").sum(1))
    printed = run_fresh(TWO_DEVICES, tmp_path / "data.npz").split()
    np.testing.assert_allclose([float(x) for x in printed[-3:]], expected, rtol=1e-5)
