"""GAUC against pairs counted one by one and scikit-learn, in every way that it can be fed."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import BACKEND, needs_tensorflow, recording
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


weighted_samples = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.sampled_from([-np.inf, 0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    ),
    max_size=CAPACITY,
)


def weighted_columns(drawn):
    label, user, score, weight = zip(*drawn, strict=True) if drawn else ((),) * 4
    return np.array(label, int), np.array(user, int), np.float32(score), np.float32(weight)


def oracle(label, user, score, weight=None):
    """The definition, pair by pair in float64."""
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, "float64")
    aucs, weights = [], []
    for one in np.unique(user):
        clicked, other = (
            np.flatnonzero((user == one) & (label == x) & (weight > 0)) for x in (1, 0)
        )
        pairs = [(i, j) for i in clicked for j in other]
        if pairs:
            wins = [1.0 if score[i] > score[j] else 0.5 * (score[i] == score[j]) for i, j in pairs]
            aucs.append(np.average(wins, weights=[weight[i] * weight[j] for i, j in pairs]))
            weights.append(weight[user == one].sum())
    return np.average(aucs, weights=weights) if aucs else np.nan


def fed(metric, label, user, score, ends=()):
    """Return the metric after the samples, in batches that end where `ends` says."""
    y_true = din_layers.GAUC.targets(label, user)
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


def in_a_graph(metric, jit_compile=True):
    """Return the result as the compiled step asks for it."""
    if BACKEND == "tensorflow":
        return float(tf.function(metric.result, jit_compile=jit_compile)())
    import jax

    return float(jax.jit(metric.stateless_result)([v.value for v in metric.variables]))


compiling = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles no step")


@compiling
@given(drawn=weighted_samples, jit_compile=st.booleans())
@example(drawn=[], jit_compile=True)
def test_a_graph_gives_the_same_of_few_samples(drawn, jit_compile):
    label, user, score, weight = weighted_columns(drawn)
    metric = din_layers.GAUC(CAPACITY)
    metric.update_state(din_layers.GAUC.targets(label, user), score, weight)
    expected = oracle(label, user, score, weight)
    assert in_a_graph(metric, jit_compile) == pytest.approx(expected, nan_ok=True, **CLOSE)


@compiling
def test_a_graph_waits_with_many_samples_for_the_end():
    label, user, score = drawn_log(600, 9)
    metric = din_layers.GAUC(1000)
    fed(metric, label[:512], user[:512], score[:512])
    expected = oracle(label[:512], user[:512], score[:512])
    assert in_a_graph(metric) == pytest.approx(expected, **CLOSE)
    fed(metric, label[512:], user[512:], score[512:])
    assert np.isnan(in_a_graph(metric))
    assert float(metric.result()) == pytest.approx(oracle(label, user, score), **CLOSE)


@compiling
@pytest.mark.parametrize("score", [[0.5, np.nan], [0.5, 0.2, 0.1]])
def test_a_graph_knows_what_has_no_result(score):
    metric = din_layers.GAUC(2)
    label, user = np.array([1, 0, 1])[: len(score)], np.full(len(score), 5)
    fed(metric, label, user, np.float32(score))
    assert np.isnan(in_a_graph(metric))


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


def model_and_data(jit_compile="auto"):
    features = keras.Input((3,))
    click = keras.layers.Dense(1, activation="sigmoid")(features)
    model = keras.Model(features, {"click": click, "by_user": click})
    model.compile(
        "sgd",
        loss={"click": "binary_crossentropy"},
        metrics={"by_user": [din_layers.GAUC(1024)]},
        jit_compile=jit_compile,
    )
    label, user, _ = drawn_log(1000, 30)  # more than a compiled step sorts
    x = np.random.default_rng(1).normal(size=(1000, 3))
    y = {"click": label[:, None], "by_user": din_layers.GAUC.targets(label, user)}
    return model, x, y


def expected_of(model, x, y):
    return oracle(*y["by_user"][:, :2].T, model.predict(x, verbose=0)["by_user"][:, 0])


@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
def test_under_fit_it_is_that_of_all_samples_of_the_epoch(jit_compile):
    model, x, y = model_and_data(jit_compile)
    with recording():
        history = model.fit(x, y, epochs=2, batch_size=160, validation_data=(x, y), verbose=0)
    # The second epoch starts from nothing.
    assert history.history["val_by_user_gauc"][-1] == pytest.approx(
        expected_of(model, x, y), **CLOSE
    )
    assert not np.isnan(history.history["by_user_gauc"]).any()
    evaluated = model.evaluate(x, y, batch_size=70, verbose=0, return_dict=True)
    assert evaluated["by_user_gauc"] == pytest.approx(expected_of(model, x, y), **CLOSE)


@compiling
def test_evaluate_sorts_all_samples_once(monkeypatch):
    model, x, y = model_and_data()
    sizes = []
    exact = din_layers._gauc._gauc
    monkeypatch.setattr(
        "din_layers._gauc._gauc", lambda samples, _: sizes.append(len(samples)) or exact(samples, _)
    )
    model.evaluate(x, y, batch_size=16, verbose=0)
    assert sizes == [1000]


# Pages and weights -------------------------------------------------------------------------------


@given(drawn=weighted_samples, ends=st.lists(st.integers(0, CAPACITY), max_size=4))
def test_weights_weigh_pairs_and_users(drawn, ends):
    label, user, score, weight = weighted_columns(drawn)
    targets, metric = din_layers.GAUC.targets(label, user), din_layers.GAUC(CAPACITY)
    for rows in np.split(np.arange(len(label)), sorted(ends)):
        metric.update_state(targets[rows], score[rows], weight[rows])
    expected = oracle(label, user, score, weight)
    assert float(metric.result()) == pytest.approx(expected, nan_ok=True, **CLOSE)


@given(drawn=weighted_samples)
def test_weight_2_is_the_sample_twice(drawn):
    label, user, score, weight = weighted_columns(drawn)
    times = np.int64(2 * weight)
    repeated = (np.repeat(x, times) for x in (label, user, score))
    expected = float(fed(din_layers.GAUC(6 * CAPACITY), *repeated).result())
    metric = din_layers.GAUC(CAPACITY)
    metric.update_state(din_layers.GAUC.targets(label, user), score, weight)
    assert float(metric.result()) == pytest.approx(expected, nan_ok=True, **CLOSE)


def test_light_negatives_do_not_drown_among_those_of_others():
    label, user, score = drawn_log(60, 3)
    weight = np.where((user == 2) & (label == 0), np.float32(1e-30), np.float32(1))
    metric = din_layers.GAUC(60)
    metric.update_state(din_layers.GAUC.targets(label, user), score, weight)
    expected = oracle(label, user, score, weight)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_what_is_no_weight_gives_no_plausible_result(wrong):
    metric = din_layers.GAUC(9)
    targets = din_layers.GAUC.targets([1, 0, 1], [5, 5, 5])
    metric.update_state(targets, np.array([0.5, 0.2, 0.1]), np.array([1.0, 1.0, wrong]))
    assert np.isnan(float(metric.result()))


def pages(rows=12, candidates=5):
    rng = np.random.default_rng(4)
    label, user = rng.integers(0, 2, (rows, candidates, 1)), rng.integers(0, 3, rows) + 2**40
    score = rng.random((rows, candidates, 1)).round(1).astype("float32")
    return label, user, score, rng.random((rows, candidates)) < 0.7


@pytest.mark.parametrize("user_axes", [(), (1,), (5, 1)])
@pytest.mark.parametrize("weight_axes", [(), (1,)])
def test_pages_are_their_samples(user_axes, weight_axes):
    label, user, score, shown = pages()
    users = np.repeat(user, 5).reshape(12, 5)
    expected = oracle(label[shown][:, 0], users[shown], score[shown][:, 0])
    given_user = users[..., None] if user_axes == (5, 1) else user.reshape(12, *user_axes)
    targets = din_layers.GAUC.targets(label, given_user)
    assert targets.shape == (12, 5, 3)
    # What is left out may be anything, and takes no place.
    score, label = np.where(shown[..., None], score, np.nan), np.where(shown[..., None], label, 7)
    metric = din_layers.GAUC(int(shown.sum()))
    for rows in (slice(0, 7), slice(7, 12)):
        targets[rows][..., :1] = label[rows]
        metric.update_state(targets[rows], score[rows], shown.reshape(12, 5, *weight_axes)[rows])
    assert float(metric.result()) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_a_page_may_have_one_weight(shape):
    label, user, score, _ = pages()
    weight = np.arange(12.0)
    expected = oracle(label.ravel(), np.repeat(user, 5), score.ravel(), np.repeat(weight, 5))
    metric = din_layers.GAUC(60)
    metric.update_state(din_layers.GAUC.targets(label, user), score, weight.reshape(shape))
    assert float(metric.result()) == pytest.approx(expected, **CLOSE)


def test_keras_gives_weights_to_weighted_metrics():
    label, user, score, shown = pages()
    x = keras.Input((None, 1))
    model = keras.Model(x, {"click": x, "by_user": x * 1.0})
    metrics = {"by_user": [din_layers.GAUC(60)]}
    model.compile(loss={"click": "mse"}, weighted_metrics=metrics)
    y = {"click": label, "by_user": din_layers.GAUC.targets(label, user)}
    evaluated = model.evaluate(
        score,
        y,
        sample_weight={"click": shown, "by_user": shown},
        batch_size=5,
        verbose=0,
        return_dict=True,
    )
    users = np.repeat(user, 5).reshape(12, 5)
    expected = oracle(label[shown][:, 0], users[shown], score[shown][:, 0])
    assert evaluated["by_user_gauc"] == pytest.approx(expected, **CLOSE)


# Files -------------------------------------------------------------------------------------------

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


TARGETS = "`y_true` must be what `GAUC.targets(label, user)` makes of labels and the users' ids"


@pytest.mark.parametrize(
    ("y_true", "y_pred", "weight", "text"),
    [
        ((3,), (3,), None, TARGETS + ". Received: y_true.shape=(3,), y_pred.shape=(3,)"),
        ((4, 2), (4, 1), None, TARGETS),  # label and user, the form of earlier versions
        ((4, 5, 2), (4, 5, 1), None, TARGETS),
        ((4, 3), (4, 2), None, "`y_pred` must have shape (batch,) or (batch, 1)"),
        ((4, 3), (4, 1, 1), None, "`y_pred` must have shape (batch,)"),
        ((4, 3), (3, 1), None, "`y_pred` must have shape (batch,)"),
        ((4, 5, 3), (4, 1), None, "`y_pred` must have shape (batch, candidates, 1)"),
        ((4, 5, 3), (4, 6, 1), None, "`y_pred` must have shape (batch, candidates, 1), as the"),
        ((4, 3), (4,), (3,), "`sample_weight` must have shape (batch,). Received: sample_weight"),
        ((4, 3), (4,), (), "`sample_weight` must have shape (batch,)"),
        ((4, 5, 3), (4, 5, 1), (4, 4), "must have shape (batch,) or (batch, candidates). Received"),
    ],
)
def test_bad_shapes_leave_the_metric_usable(y_true, y_pred, weight, text):
    metric = din_layers.GAUC(4)
    weight = None if weight is None else np.ones(weight)
    with pytest.raises(ValueError, match=re.escape(text)):
        metric.update_state(np.zeros(y_true, int), np.zeros(y_pred), weight)
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2)]))
    assert float(metric.result()) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_targets_that_became_something_else_are_refused(dtype):
    targets = din_layers.GAUC.targets([1, 0], [5, 5]).astype(dtype)
    with pytest.raises(TypeError, match=r"`y_true` must be what `GAUC.targets.* y_true.dtype="):
        din_layers.GAUC(4).update_state(targets, np.array([0.5, 0.2]))


@needs_tensorflow
def test_floats_under_a_strategy_give_no_plausible_result():
    """There Keras first calls metrics on floats, whatever it is given."""
    metric = din_layers.GAUC(4)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        metric.update_state(np.float32([[1, 5, 0], [0, 5, 0]]), np.array([0.5, 0.2]))
    assert np.isnan(float(metric.result()))


@needs_tensorflow
def test_a_batch_may_be_of_unknown_size_on_one_side():
    metric = din_layers.GAUC(4)
    unknown, known = tf.TensorSpec((None, 3), tf.int32), tf.TensorSpec((2,))

    @tf.function(input_signature=[unknown, known], autograph=False)
    def update(y_true, y_pred):
        metric.update_state(y_true, y_pred)

    update(din_layers.GAUC.targets([1, 0], [5, 5]), np.float32([0.5, 0.2]))
    assert float(metric.result()) == 1


@pytest.mark.parametrize("wrong", [2, -1, 5])
def test_what_is_no_label_gives_no_plausible_result(wrong):
    """Swapped columns, ratings."""
    metric = din_layers.GAUC(9)
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2)]))
    assert float(metric.result()) == 1
    metric.update_state(np.int32([[wrong, 5, 0]]), np.array([0.1]))
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    fed(metric, *columns([(1, 5, 0.5), (0, 5, 0.2)]))
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


def log_of_two(users):
    """A log whose GAUC differs from the AUC of all its samples."""
    label, one, score = drawn_log(60, 2, seed=3)
    user = np.array(users)[one]
    score = score + one.astype("float32") * 3
    assert oracle(label, user, score) != pytest.approx(oracle(label, 0 * user, score), abs=0.01)
    return label, user, score


@pytest.mark.parametrize("users", ALIKE, ids=str)
def test_targets_keep_any_two_users_apart(users):
    """In a plain call, and under `evaluate`, where Keras may change a dtype."""
    label, user, score = log_of_two(users)
    features = keras.Input((1,))
    model = keras.Model(features, {"click": features, "by_user": features * 1.0})
    model.compile(loss={"click": "mse"}, metrics={"by_user": [din_layers.GAUC(64)]})
    y = {"click": label, "by_user": din_layers.GAUC.targets(label, user)}
    evaluated = model.evaluate(score[:, None], y, batch_size=7, verbose=0, return_dict=True)
    expected = pytest.approx(oracle(label, user, score), **CLOSE)
    assert evaluated["by_user_gauc"] == expected
    assert float(fed(din_layers.GAUC(64), label, user, score).result()) == expected


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
        ([1, 0], [1], ValueError, "`user` must have shape (batch,) or (batch, 1), or that of the"),
        ([[1, 0]], [1], ValueError, "`label` must have shape (batch,) or (batch, 1), for pages"),
        ([[1, 0]], [1], ValueError, "(batch, candidates, 1). Received: label.shape=(1, 2), user"),
        ([[[1], [0]]], [[1, 2]], ValueError, "Received: label.shape=(1, 2, 1), user.shape=(1, 2)"),
        (1, 2, ValueError, "`label` must have shape (batch,) or (batch, 1)"),
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


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="processes of PyTorch know themselves alone")
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
