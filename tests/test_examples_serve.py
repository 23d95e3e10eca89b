"""The serving example: rows of films, both ways to ask, and the whole job on a small slice."""

import contextlib
import importlib.util
import io

import keras
import numpy as np
import pytest
import score_exported
import serve_candidates
import string_din
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

# Films -----------------------------------------------------------------------------------------

film_ids = st.text("0123456789é", min_size=1, max_size=3)


@given(
    known=st.lists(film_ids, min_size=1, max_size=5, unique=True),
    films=st.lists(film_ids | st.just(""), max_size=8),
    buckets=st.integers(1, 4),
)
def test_known_films_have_a_row_of_their_own_and_the_others_share_some(known, films, buckets):
    rows = string_din.FilmRows(known, buckets)
    # Row 1 is nobody's: VocabLayer keeps it for unknown films, which go to the shared rows.
    own = {"": 0, **{film: 2 + place for place, film in enumerate(known)}}
    drawn = rows(tf.constant(films, tf.string)).numpy()
    for film, row in zip(films, drawn, strict=True):
        if film in own:
            assert row == own[film]
        else:
            assert 2 + len(known) <= row < rows.count == 2 + len(known) + buckets


def test_rows_are_the_same_inside_a_model():
    rows = string_din.FilmRows(["7", "50"])
    films = tf.constant([["7", "", "8"], ["50", "9", "7"]])
    inputs = keras.Input((None,), dtype="string")
    np.testing.assert_array_equal(keras.Model(inputs, rows(inputs))(films), rows(films))


def test_films_are_known_from_their_ratings():
    films = np.array(["", "7", "50", "9"])
    ratings = np.array([1] * 5 + [2] * 4 + [3])
    assert string_din.known_films(films, ratings) == ["7"]
    # With little data, those with the most ratings are.
    assert string_din.known_films(films, ratings[4:]) == ["50"]


def test_a_shared_row_has_the_mean_of_what_its_films_have():
    shares = np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.5]], "float32")
    mean = string_din.mean_by_row(shares, np.array([0, 3, 3, 2]), 5)
    np.testing.assert_array_equal(mean, [[0, 0], [0, 0], [0.5, 0.5], [0.5, 0.5], [0, 0]])


def test_a_tiled_request_has_the_history_in_every_row():
    request = {"movie": np.array([[5, 6, 7]]), "history": np.array([[1, 2]])}
    tiled = score_exported.tiled(request)
    np.testing.assert_array_equal(tiled["movie"], [[5], [6], [7]])
    np.testing.assert_array_equal(tiled["history"], [[1, 2]] * 3)
    assert score_exported.size({"ids": np.array([["10", "7"]]), "x": np.zeros(2, "int32")}) == 11


# The whole job ---------------------------------------------------------------------------------

SLICE = ["--limit", "10", "--history", "8", "--candidates", "20", "--repeats", "2"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What the job printed on a small slice, and where its files are."""
    out = tmp_path_factory.mktemp("serve") / "some" / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert serve_candidates.main([*SLICE, "--out", str(out)]) == 0
    return printed.getvalue(), out


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")


def test_every_runtime_gives_the_scores_of_the_trained_model(job):
    printed, out = job
    entries = {path.name + "/" * path.is_dir() for path in out.iterdir()}
    assert entries == set(serve_candidates.FILES)
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    lines = printed.splitlines()
    for name in ("SavedModel, strings", "LiteRT, ids", "ONNX Runtime, ids"):
        (line,) = (line for line in lines if line.startswith(name) and "e" in line.split()[-1])
        *once, once_bytes = map(float, line.removeprefix(name).split()[:3])
        *tiled, tiled_bytes = map(float, line.removeprefix(name).split()[3:6])
        assert min(*once, *tiled) > 0
        assert tiled_bytes > once_bytes
        assert float(line.split()[-1]) <= serve_candidates.TOLERANCE


def served(out, candidates, history, stars):
    """Return the scores of the SavedModel."""
    signature = tf.saved_model.load(str(out / "saved_model"))
    inputs = {"candidates": candidates, "history": history, "stars": stars}
    tensors = {name: tf.constant(values) for name, values in inputs.items()}
    return signature.signatures["serving_default"](**tensors)["output_0"].numpy()


def test_the_saved_model_takes_unknown_films_padding_and_any_number(job):
    _, out = job
    films = ["1", "a film of tomorrow", "50"]
    scores = served(out, [films], [["2", "no such film"]], [[4.5, 2.0]])
    assert np.isfinite(scores).all()
    padded = served(out, [films[::-1]], [["", "2", "no such film", ""]], [[0.0, 4.5, 2.0, 0.0]])
    # One float32 sum over the history has more terms.
    np.testing.assert_allclose(padded[:, ::-1], scores, rtol=1e-5)
    assert served(out, [films], [[""]], [[0.0]]).shape == (1, 3)


def test_scores_that_differ_end_the_job(job):
    _, out = job
    request = {
        "movie": np.array([[2, 3]], "int32"),
        "history_movies": np.array([[2]], "int32"),
        "history_ratings": np.array([[9]], "int32"),
    }
    asked = ["ONNX", "ONNX Runtime", out / "din.onnx", request]
    with pytest.raises(RuntimeError, match="ONNX Runtime scores differently"):
        serve_candidates.ask(*asked, np.float32([0.1, 0.9]), 1)


def test_a_model_that_does_not_load_ends_the_job_with_its_reason(job, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)ONNX Runtime does not answer.*no\.onnx"):
        serve_candidates.ask(
            "ONNX", "ONNX Runtime", tmp_path / "no.onnx", {"x": np.zeros((1, 1))}, 0, 1
        )


# Refusals --------------------------------------------------------------------------------------


def refused(arguments, tmp_path, capsys):
    """Run the job; it must end with 2, one line on standard error, and no file."""
    before = sorted(tmp_path.rglob("*"))
    assert serve_candidates.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("serve_candidates: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return error


@pytest.mark.parametrize(
    "arguments",
    [["--candidates", "0"], ["--candidates", "many"], ["--repeats", "0"], ["--data", "no/such"]],
)
def test_bad_arguments_end_with_one_line(tmp_path, capsys, arguments):
    refused(arguments, tmp_path, capsys)


def test_more_candidates_than_unseen_films_are_refused(tmp_path, capsys):
    message = refused(["--limit", "2", "--candidates", "100000"], tmp_path, capsys)
    assert "argument --candidates: 100000, but the user has only" in message


def test_a_missing_package_is_named_before_training(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find_spec(name)
    )
    message = refused([], tmp_path, capsys)
    assert "tf2onnx is missing: pip install din-layers[export]" in message
