"""The DIEN example: its auxiliary loss, the model to serve, and the whole job on a small slice."""

import dien
import dien_movielens
import din
import din_movielens
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from strategies import batches


@given(batch=batches())
def test_the_auxiliary_loss_is_the_log_loss_of_the_next_event_and_of_a_sampled_one(batch):
    rng = np.random.default_rng(batch.valid.size)
    events, sampled = (rng.normal(size=batch.sequence.shape).astype("float32") for _ in "12")
    layer = dien.NextEventLoss(0.5)
    inputs = [batch.sequence, events, sampled]
    mask = [tf.constant(batch.valid)] * 3
    output = layer(inputs, mask=mask, training=True)
    np.testing.assert_array_equal(output, batch.sequence)
    losses = []
    for row, valid in enumerate(batch.valid):
        for step in range(len(valid) - 1):
            if valid[step] and valid[step + 1]:
                real = batch.sequence[row, step] @ np.float64(events[row, step + 1])
                false = batch.sequence[row, step] @ np.float64(sampled[row, step + 1])
                losses.append(np.logaddexp(0, -real) + np.logaddexp(0, false))
    expected = 0.5 * np.mean(losses) if losses else 0.0
    # float32 sums of a few dozen terms.
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5, atol=1e-6)
    layer(inputs, mask=mask, training=False)
    assert layer.losses == []


def test_films_are_sampled_from_all_but_the_padding():
    layer = dien.RandomFilms(3)
    keras.utils.set_random_seed(0)
    drawn = np.asarray(layer(tf.zeros((50, 40), "int32")))
    assert drawn.shape == (50, 40)
    ids, counts = np.unique(drawn, return_counts=True)
    assert ids.tolist() == [1, 2, 3]
    assert counts.min() > 500  # of 667 expected, standard deviation 21
    assert (np.asarray(layer(tf.zeros((50, 40), "int32"))) != drawn).any()


OPTIONS = {
    "everything": {
        "film_units": 3,
        "genre_units": 2,
        "rating_units": 2,
        "attention_units": (4,),
        "attention_activation": "sigmoid",
        "hidden_units": (5,),
        "activation": "relu",
        "batch_norm": True,
        "dropout": 0.2,
        "hidden_l2": 0.1,
        "film_l2": 0.1,
        "seed": 1,
    },
    "no_auxiliary_loss": {"auxiliary_weight": 0.0, "hidden_units": (), "seed": 2},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_the_model_trains_with_every_option_and_serves_the_same_numbers(options):
    """Short, long and empty histories; the model to serve has no layer of the example in it."""
    rng = np.random.default_rng(0)
    shares = np.concatenate([np.zeros((1, 3)), rng.dirichlet(np.ones(3), 7)]).astype("float32")
    model = dien.build_dien(shares, **OPTIONS[options])
    lengths = np.array([[0], [1], [4], [6]])
    inputs = {
        "movie": rng.integers(1, 8, (4, 1)),
        "history_movies": rng.integers(1, 8, (4, 6)) * (np.arange(6) < lengths),
        "history_ratings": rng.integers(1, 11, (4, 6)) * (np.arange(6) < lengths),
    }
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile("sgd", "binary_crossentropy")
    model.fit(inputs, np.array([[0], [1], [0], [1]]), verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any(), weight.path
    served = dien.without_auxiliary_loss(model)
    assert not any(type(layer).__module__ == "dien" for layer in served.layers)
    assert served.count_params() == model.count_params()
    # More padding makes no other number.
    longer = {key: np.pad(x, [(0, 0), (0, 2 * (x.shape[1] > 1))]) for key, x in inputs.items()}
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_array_equal(served.predict(inputs, verbose=0), expected)
    np.testing.assert_allclose(served.predict(longer, verbose=0), expected, rtol=1e-5)


def test_bad_arguments_end_with_one_line(capsys):
    for arguments in (["--seeds", "0"], ["--data", "no/such/folder"]):
        assert dien_movielens.main(arguments) == 2
        printed, error = capsys.readouterr()
        assert printed == ""
        assert error.startswith("dien_movielens: ")
        assert error.count("\n") == 1


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_small_slice(tmp_path, capsys):
    arguments = ["--limit", "8", "--epochs", "1", "--history", "5"]
    assert dien_movielens.main([*arguments, "--out", str(tmp_path)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in tmp_path.iterdir()} == {"dien.keras", "training.png"}
    lines = printed.splitlines()
    header = next(place for place, line in enumerate(lines) if "user-weighted AUC" in line)
    names = ("evolution (DIEN)", "attention (DIN)", "mean")
    for line, name in zip(lines[header + 1 :], names, strict=False):
        assert line.startswith(name)
        scores = line.removeprefix(name).split()[:3]
        assert all(0 < float(score) < 2 for score in scores)
    assert "The saved DIEN, loaded in a fresh process" in printed
    assert "largest difference 0" in printed


def test_several_runs_are_one_line_with_mean_and_spread(capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    runs = [
        din.Run(name, model, [], [din.Scores(value, 2 * value, 3 * value)], seconds)
        for name, value, seconds in (("a", 0.1, 1), ("b", 0.5, 3), ("a", 0.2, 2), ("a", 0.3, 6))
    ]
    din_movielens.print_table(runs)
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "0.2000±0.1000", "0.4000±0.2000", "0.6000±0.3000", "9", "3.0"]
    assert second.split() == ["b", "0.5000", "1.0000", "1.5000", "9", "3.0"]
