"""GAUC against pairs counted one by one and scikit-learn, in every way that it can be fed."""

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
    y_true = np.stack([label, user], axis=1)
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
    y = {"click": label[:, None], "by_user": np.stack([label, user], axis=1)}
    return model, x, y


def expected_of(model, x, y):
    return oracle(*y["by_user"].T, model.predict(x, verbose=0)["by_user"][:, 0])


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
    ("capacity", "error", "text"),
    [
        (0, ValueError, "`capacity` must be at least 1. Received: capacity=0"),
        (1.5, TypeError, "`capacity` must be an integer"),
    ],
)
def test_bad_arguments(capacity, error, text):
    with pytest.raises(error) as caught:
        din_layers.GAUC(capacity)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "weight", "text"),
    [
        ((4,), (4,), None, "`y_true` must have shape (batch, 2): label and user id. Received: "),
        ((4, 1), (4, 1), None, "y_true.shape=(4, 1), y_pred.shape=(4, 1)"),
        ((4, 3), (4, 1), None, "`y_true` must have shape (batch, 2)"),
        ((4, 2), (4, 2), None, "`y_pred` must have shape (batch,) or (batch, 1)"),
        ((4, 2), (4, 1, 1), None, "`y_pred` must have shape"),
        ((4, 2), (3, 1), None, "`y_pred` must have the `batch` of `y_true`"),
        ((4, 2), (4,), np.ones(4), "`sample_weight` must be None"),
    ],
)
def test_bad_shapes_leave_the_metric_usable(y_true, y_pred, weight, text):
    metric = din_layers.GAUC(4)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the text is compared below
        metric.update_state(np.zeros(y_true), np.zeros(y_pred), weight)
    assert text in str(caught.value)
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


@pytest.mark.parametrize(
    "wrong",
    [[5, 1], [2, 5], [-1, 5], [0.5, 5], [np.nan, 5], [1, 5.5], [1, 2.0**40], [1, np.nan]],
    ids=str,
)
def test_what_is_no_label_or_no_user_gives_no_plausible_result(wrong):
    """Swapped columns, ratings, ids that int32 would cut off."""
    metric = din_layers.GAUC(9)
    right = [[1, 5], [0, 5]]
    metric.update_state(np.float64(right), np.array([0.5, 0.2]))
    assert float(metric.result()) == 1
    metric.update_state(np.float64([wrong]), np.array([0.1]))
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(np.array(right), np.array([0.5, 0.2]))
    assert float(metric.result()) == 1


@pytest.mark.skipif(BACKEND == "jax", reason="JAX itself cuts off what int32 cannot hold")
def test_users_that_do_not_fit_give_no_plausible_result():
    metric = din_layers.GAUC(9)
    metric.update_state(np.array([[1, 5], [0, 5 + 2**32]]), np.array([0.5, 0.2]))
    assert np.isnan(float(metric.result()))
