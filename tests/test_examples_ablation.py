"""The ablation on MovieLens and the log of known interests: splits, kept runs, sums, whole jobs."""

import dataclasses
import json
import math

import ablation_movielens
import din
import known_interests
import numpy as np
import pytest
import ragged_training
from ablation_movielens import Job, Row
from finished_runs import FinishedRuns
from hypothesis import given, settings
from hypothesis import strategies as st
from movielens import Film, MovieLens, Ratings, examples, held_out, number, read
from ragged_training import Epoch

# The data --------------------------------------------------------------------------------------

FILMS = {film: Film(f"Film {film}", ("Drama",) if film % 2 else ()) for film in range(9)}


@st.composite
def logs(draw):
    """Draw numbered ratings: users with few and many, films rated again."""
    counts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    size = sum(counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return number(
        FILMS,
        Ratings(
            user=np.repeat(np.arange(len(counts)), counts),
            movie=rng.integers(0, 9, size),
            rating=rng.integers(1, 11, size).astype(np.int32),
            time=rng.integers(0, 9, size),
        ),
    )


@given(data=logs())
def test_validation_comes_after_training_and_before_the_test(data):
    test = held_out(data)
    validation = held_out(data, among=~test)
    for user in range(data.user[-1] + 1):
        first, end = data.span(user)
        tested = (end - first) // 5
        validated = (end - first - tested) // 5
        kinds = ["training"] * (end - first - tested - validated)
        kinds += ["validation"] * validated + ["test"] * tested
        assert kinds == [
            "test" if test[i] else "validation" if validation[i] else "training"
            for i in range(first, end)
        ]


@given(data=logs(), history=st.integers(1, 25), chosen=st.integers(0, 2**32 - 1))
def test_batches_and_frequencies_are_those_of_the_padded_examples(data, history, chosen):
    events = np.flatnonzero(np.random.default_rng(chosen).random(len(data.user)) < 0.7)
    questions = examples(data, events, history)
    ids = np.concatenate([questions.movie, questions.history_movies.ravel()])
    expected = np.bincount(ids, minlength=len(data.titles))
    expected[0] = 0  # padding
    np.testing.assert_array_equal(ragged_training.frequencies(data, events, history), expected)
    if len(events):
        ((inputs, label),) = ragged_training.batches(data, events, history, size=len(events))
        np.testing.assert_array_equal(label[:, 0], questions.label)
        np.testing.assert_array_equal(inputs["movie"][:, 0], questions.movie)
        for name in ("history_movies", "history_ratings"):
            padded = inputs[name].to_tensor(shape=[None, history])
            np.testing.assert_array_equal(padded, getattr(questions, name))


@pytest.mark.parametrize("pooling", ["attention", "mean", "sum"])
def test_ragged_and_padded_models_are_the_same(pooling):
    data = number(*read(limit=3))
    events = np.arange(len(data.user))[:40]
    settings = {"pooling": pooling, "seed": 1, "attention_units": (4,), "hidden_units": (4,)}
    padded = din.build_model(din.genre_shares(data), **settings)
    ragged = din.build_model(din.genre_shares(data), ragged=True, **settings)
    ragged.set_weights(padded.get_weights())
    ((inputs, _),) = ragged_training.batches(data, events, 7, size=40)
    np.testing.assert_allclose(
        ragged(inputs), padded(din.inputs_of(examples(data, events, 7))), rtol=1e-5, atol=1e-6
    )


# Kept runs -------------------------------------------------------------------------------------


def test_a_run_is_found_again_by_all_that_determines_it(tmp_path):
    store = FinishedRuns(tmp_path / "finished")
    assert store.load("din", {"seed": 0}) is None
    store.save("din", {"seed": 0, "units": (3, 2)}, {"auc": 0.5, "nothing": math.nan})
    found = store.load("din", {"units": (3, 2), "seed": 0})
    assert found["auc"] == 0.5
    assert math.isnan(found["nothing"])
    for name, key in (
        ("din", {"seed": 1, "units": (3, 2)}),
        ("mean", {"seed": 0, "units": (3, 2)}),
    ):
        assert store.load(name, key) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": {"seed": 0}}', '{"result": 1}'])
def test_a_broken_file_is_no_run(tmp_path, content):
    store = FinishedRuns(tmp_path)
    store.save("din", {"seed": 0}, {})
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert store.load("din", {"seed": 0}) is None


def test_what_cannot_be_written_leaves_no_run(tmp_path):
    store = FinishedRuns(tmp_path)
    with pytest.raises(TypeError):
        store.save("din", {"seed": 0}, {"model": object()})
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_part_of_the_key(monkeypatch):
    keys = [
        Job(name, seed, epochs).key(data)
        for name in ablation_movielens.VARIANTS
        for seed in (0, 1)
        for epochs in (1, 2)
        for data in ("a", "b")
    ]
    for name in ("ATTENTION_UNITS", "BATCH", "LEARNING_RATE", "RECIPE"):
        monkeypatch.setattr(ablation_movielens, name, 7)
        keys.append(Job("din", 0, 1).key("a"))
    monkeypatch.setattr(ablation_movielens, "DECAY", {True: 7.0, False: 7.0})
    keys.append(Job("din", 0, 1).key("a"))
    assert len({json.dumps(key) for key in keys}) == len(keys)


# The table -------------------------------------------------------------------------------------


def result_of(validation_aucs, test_aucs):
    def epoch(validation, test):
        scores = {
            "validation": din.Scores(validation, 0.9, 0.1),
            "test": din.Scores(test, test / 2, 1 - test),
        }
        return dataclasses.asdict(Epoch(0.5, 2.0, scores))

    return {"parameters": 9, "epochs": list(map(epoch, validation_aucs, test_aucs))}


def test_the_epoch_is_chosen_by_validation_and_not_by_test():
    assert ablation_movielens.best_epoch(result_of([0.6, 0.8, 0.7], [0.9, 0.1, 0.9])) == 1
    # A part too small for an AUC chooses nothing.
    assert ablation_movielens.best_epoch(result_of([math.nan, 0.4], [0.9, 0.1])) == 1
    assert ablation_movielens.best_epoch(result_of([math.nan, math.nan], [0.9, 0.1])) == 0


@given(
    mine=st.dictionaries(st.integers(0, 5), st.floats(0, 1), min_size=1),
    others=st.dictionaries(st.integers(0, 5), st.floats(0, 1), min_size=1),
)
def test_gains_compare_seed_by_seed(mine, others):
    row, other = (Row("", {"auc": by_seed}, [1], 1, 1.0) for by_seed in (mine, others))
    gains = np.array([mine[seed] - others[seed] for seed in mine if seed in others])
    mean, error = row.gain("auc", other)
    assert mean == pytest.approx(gains.mean() if len(gains) else math.nan, nan_ok=True, abs=1e-12)
    expected = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    assert error == pytest.approx(expected, nan_ok=True, abs=1e-12)


# The whole job ---------------------------------------------------------------------------------

SMALL = ["--limit", "12", "--epochs", "2"]


def made_up(calls):
    """Stand in for training: a result that depends on variant and seed."""

    def execute(job, data, parts, on_epoch):
        calls.append((job.name, job.seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        for _ in range(job.epochs):
            on_epoch()
        auc = 0.7 + len(job.name) / 100 + job.seed / 1000
        return result_of([0.5, 0.6], [auc, auc])

    return execute


def test_an_interrupted_ablation_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(ablation_movielens, "execute", made_up(calls))
    arguments = [
        *SMALL,
        "--seeds",
        "2",
        "--variants",
        "mean",
        "din",
        "--out",
        str(tmp_path / "out"),
    ]
    assert ablation_movielens.main(arguments) == 130
    assert "the finished runs are kept and the same command goes on" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"finished"}
    assert calls == [("mean", 0), ("din", 0), ("mean", 1)]

    assert ablation_movielens.main([*arguments, "--finished"]) == 0
    assert len(calls) == 3
    printed = capsys.readouterr().out
    assert "minutes" not in printed
    assert "0.7400           0.3700" in printed  # one seed has no deviation

    assert ablation_movielens.main(arguments) == 0
    assert calls[3:] == [("mean", 1), ("din", 1)]
    printed = capsys.readouterr().out
    assert "4 runs, 2 of them finished before" in printed
    assert "about 1 minutes of one processor core's time to go" in printed
    assert "0.7405 ± 0.0007" in printed
    assert "-0.0100 ± 0.0000" in printed  # din against mean: one letter less
    assert (tmp_path / "out" / "table.txt").read_text(encoding="utf-8") in printed
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")

    assert ablation_movielens.main(arguments) == 0
    assert len(calls) == 5
    # Another setting is another run.
    assert ablation_movielens.main([*arguments, "--epochs", "1"]) == 0
    assert len(calls) == 9


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_ablation_on_a_small_slice(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*SMALL, "--seeds", "1", "--variants", "prelu", "mean_l2", "--out", str(out)]
    assert ablation_movielens.main(arguments) == 0
    for file in (out / "finished").iterdir():
        result = json.loads(file.read_text(encoding="utf-8"))["result"]
        assert len(result["epochs"]) == 2
        for epoch in result["epochs"]:
            assert set(epoch["scores"]) == {"validation", "test"}
            for scores in epoch["scores"].values():
                assert 0 < scores["auc"] < 1
                assert 0 < scores["log_loss"] < 2
    printed = capsys.readouterr().out
    for name in ("prelu", "mean_l2"):
        assert ablation_movielens.VARIANTS[name].title in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "0"],
        ["--variants", "median"],
        ["--variants"],
        ["--history", "3"],
        ["--epochs", "0"],
        ["--data", "no/such/folder"],
        ["--finished"],
    ],
)
def test_what_cannot_be_run_ends_with_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert ablation_movielens.main(["--limit", "12", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Known interests -------------------------------------------------------------------------------


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_best_answer_is_that_of_bayes(seed):
    """For each question: both worlds, the user likes the topic or not, each event by event."""
    log = known_interests.make_log(users=2, seed=seed)
    data = log.data
    events = np.arange(0, len(data.user), 7)
    best = known_interests.best_answers(log, events, history=20)
    for event, answer in zip(events, best, strict=True):
        first, _ = data.span(data.user[event])
        topic = log.topics[data.movie[event]]
        worlds = {0.9: 0.5, 0.1: 0.5}
        for before in range(max(first, event - 20), event):
            if log.topics[data.movie[before]] == topic:
                good = data.rating[before] == known_interests.GOOD
                worlds = {p: w * (p if good else 1 - p) for p, w in worlds.items()}
        expected = sum(p * w for p, w in worlds.items()) / sum(worlds.values())
        assert answer == pytest.approx(expected, rel=1e-9)


def test_the_log_follows_the_likings():
    log = known_interests.make_log(users=50, seed=0)
    data = log.data
    good = data.rating == known_interests.GOOD
    topic = log.topics[data.movie]
    assert sorted(set(topic)) == list(range(known_interests.TOPICS))
    cells = data.user * known_interests.TOPICS + topic
    counts = np.bincount(cells)
    share = np.bincount(cells, weights=good)[counts > 3] / counts[counts > 3]
    # Users who like a topic and who do not: hardly anything between.
    assert np.mean(np.abs(share - 0.5) > 0.2) > 0.9
    assert 0.4 < np.mean(share > 0.5) < 0.6
    for user in range(50):
        first, end = data.span(user)
        assert len(set(data.movie[first:end])) == known_interests.RATINGS


def test_attention_on_the_topic_alone_and_on_everything():
    log = known_interests.make_log(users=20, seed=1)
    data = log.data
    events = np.flatnonzero(held_out(data))
    questions = examples(data, events, known_interests.HISTORY)
    valid = questions.history_movies > 0
    same = valid & (log.topics[questions.history_movies] == log.topics[questions.movie][:, None])
    on_topic = known_interests.look(log, events, same / same.sum(1, keepdims=True).clip(1))
    plain = known_interests.look(log, events, valid / valid.sum(1, keepdims=True))
    assert on_topic.mass == pytest.approx(1)
    assert plain.mass == pytest.approx(plain.share) == pytest.approx(on_topic.share)
    np.testing.assert_allclose(plain.by_topic, 1)
    off_diagonal = ~np.eye(known_interests.TOPICS, dtype=bool)
    np.testing.assert_array_equal(on_topic.by_topic[off_diagonal], 0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_known_interests_on_a_small_log(tmp_path, capsys):
    arguments = ["--users", "10", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert known_interests.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "best possible  0." in printed
    assert "of DIN's attention lies on films of the topic in question, which are" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["interests.png"]
    assert isinstance(known_interests.make_log(2, 0).data, MovieLens)
