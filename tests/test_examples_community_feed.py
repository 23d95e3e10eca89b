"""The community feed: rows read and drawn, the pipeline, the model's parts, and the whole job."""

from pathlib import Path

import community_feed
import community_rows
import keras
import numpy as np
import pytest
import tensorflow as tf
from community_model import build_community_feed, parse
from community_rows import COLUMNS, TEN_ROWS, csv_line
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from din_layers.testing._fresh_process import run_fresh

# Rows ------------------------------------------------------------------------------------------

GOOD = {
    "act": "1",
    "client_id": "144629",
    "client_type": "0",
    "post_type": "1",
    "topic_id": "177",
    "follow_topic_id": "225,158",
    "all_topic_fav_7": "1:0.4074,177:1e-3",
    "hist_topic_id": "225,158,123",
    "keyword_id": "4",
    "hist_keyword_id": "1,2,4",
}


def line(**changes: str) -> str:
    return csv_line([*{**GOOD, **changes}.values()])


def write(tmp_path: Path, lines: list[str]) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([",".join(COLUMNS), *lines, ""]), encoding="utf-8")
    return file


def test_the_ten_rows_are_all_in_order():
    rows = community_rows.read(TEN_ROWS)
    assert rows.problems == []
    assert rows.labels == [0, 1, 0, 1, 1, 0, 1, 0, 1, 0]
    assert rows.lines[4] == (
        '1,144629,1,0,1,"225,158,139,138,140,130,129,124,123",'
        '"1:0.4074,140:0.1217,502:0.4286","225,129,124,123",4,"1,4,6,7"'
    )


MALFORMED = {
    "too short": ("1,144629", "2 fields instead of 10"),
    "too long": (line() + ",9", "11 fields instead of 10"),
    "blank": ("", "0 fields instead of 10"),
    "open quote": (line()[:-1], "unexpected end of data"),
    "label": (line(act="2"), "act: '2' is neither 0 nor 1"),
    "no label": (line(act=""), "act: '' is neither 0 nor 1"),
    "no topic": (line(topic_id=""), "topic_id: empty"),
    "gap": (line(follow_topic_id="225,,158"), "follow_topic_id: '' is not an id"),
    "padding": (line(hist_keyword_id="1,0,4"), "hist_keyword_id: '0' is not an id"),
    "no weight": (line(all_topic_fav_7="1:0.4,177"), "all_topic_fav_7: '177' is not id:weight"),
    "weight in words": (line(all_topic_fav_7="1:much"), "'1:much' is not id:weight"),
    "negative weight": (line(all_topic_fav_7="1:-1"), "'1:-1' is not id:weight"),
    "weight nan": (line(all_topic_fav_7="1:nan"), "'1:nan' is not id:weight"),
    "endless weight": (line(all_topic_fav_7="1:1e39"), "'1:1e39' is not id:weight"),
    "two weights": (line(all_topic_fav_7="1:2:3"), "'1:2:3' is not id:weight"),
    "uneven": (line(hist_topic_id="225"), "hist_topic_id has 1 entries, hist_keyword_id 3"),
    "NUL": (line(topic_id="1\0"), "not UTF-8 text"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_row_is_left_out_and_its_line_named(tmp_path, case):
    malformed, expected = MALFORMED[case]
    file = write(tmp_path, [line(), malformed, line(act="0")])
    rows = community_rows.read(file)
    assert rows.labels == [1, 0]
    assert rows.lines == [line(), line(act="0")]
    (problem,) = rows.problems
    assert problem.startswith(f"{file}, line 3: ")
    assert expected in problem


def test_bytes_that_are_no_text_are_a_malformed_row(tmp_path):
    file = write(tmp_path, [line()])
    file.write_bytes(file.read_bytes() + line(topic_id="X").replace("X", "\xff").encode("latin-1"))
    assert community_rows.read(file).problems == [f"{file}, line 3: not UTF-8 text"]


@given(count=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_drawn_rows_are_rows(tmp_path_factory, count, seed):
    file = tmp_path_factory.mktemp("drawn") / "rows.csv"
    drawn = community_rows.draw(count, seed)
    community_rows.write(drawn, file)
    rows = community_rows.read(file)
    assert rows.problems == []
    assert rows.labels == [fields[0] for fields in drawn.fields]
    assert community_rows.draw(count, seed).fields == drawn.fields
    assert ((drawn.probability > 0) & (drawn.probability < 1)).all()
    for *_, topic, _, _, history, _, keywords in (fields[:] for fields in drawn.fields):
        assert str(topic) in history.split(",")
        assert len(set(history.split(","))) == len(keywords.split(","))


def test_the_drawn_label_hangs_on_the_event_with_the_topic_in_question():
    drawn = community_rows.draw(4000, 0)
    label, found, share = [], [], []
    for act, *_, topic, _, _, history, _, keywords in drawn.fields:
        news = [int(keyword) in community_rows.NEWS for keyword in keywords.split(",")]
        label.append(act)
        found.append(news[history.split(",").index(str(topic))])
        share.append(np.mean(news))
    # 4,000 rows move an AUC by less than .02.
    assert roc_auc_score(label, drawn.probability) > 0.87
    assert roc_auc_score(label, found) > 0.80
    assert roc_auc_score(label, share) < 0.70


# Pipeline --------------------------------------------------------------------------------------


def test_lines_become_padded_strings_and_weights():
    empty = {
        "follow_topic_id": "",
        "all_topic_fav_7": "",
        "hist_topic_id": "",
        "hist_keyword_id": "",
    }
    features, label = parse(tf.constant([line(), line(act="0", **empty)]))
    assert label.numpy().tolist() == [[1], [0]]
    expected = {
        "client_type": [["0"], ["0"]],
        "post_type": [["1"], ["1"]],
        "topic_id": [["177"], ["177"]],
        "keyword_id": [["4"], ["4"]],
        "follow_topic_id": [["225", "158"], ["0", "0"]],
        "all_topic_fav_7": [["1", "177"], ["0", "0"]],
        "hist_topic_id": [["225", "158", "123"], ["0"] * 3],
        "hist_keyword_id": [["1", "2", "4"], ["0"] * 3],
    }
    weights = features.pop("all_topic_fav_7_weight")
    np.testing.assert_array_equal(weights, np.float32([[0.4074, 1e-3], [-1, -1]]))
    assert {
        name: value.numpy().astype(str).tolist() for name, value in features.items()
    } == expected


# Model -----------------------------------------------------------------------------------------


def ten_features():
    return parse(tf.constant(community_rows.read(TEN_ROWS).lines))[0]


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_lists_are_pooled_as_by_embedding_lookup_sparse(combiner):
    model = build_community_feed(combiner=combiner, seed=0)
    features = ten_features()
    table = tf.constant(model.get_layer("topics").get_weights()[0])
    outputs = [model.get_layer(name).output for name in ("favourites", "followed")]
    favourites, followed = keras.Model(model.inputs, outputs)(features)
    for result, name, weighted in (
        (favourites, "all_topic_fav_7", True),
        (followed, "follow_topic_id", False),
    ):
        ids = model.get_layer("topic_ids")(features[name])
        where = tf.where(features[name] != "0")
        shape = tf.shape(ids, tf.int64)
        sparse_ids = tf.SparseTensor(where, tf.gather_nd(ids, where), shape)
        values = tf.gather_nd(features[f"{name}_weight"], where) if weighted else None
        sparse_weights = tf.SparseTensor(where, values, shape) if weighted else None
        expected = tf.nn.embedding_lookup_sparse(
            table, sparse_ids, sparse_weights, combiner=combiner
        )
        # Sums of at most nine small numbers in float32.
        np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_more_padding_changes_nothing(pooling):
    model = build_community_feed(pooling=pooling, seed=0)
    features = ten_features()
    padded = {
        name: tf.pad(value, [[0, 0], [1, 2]], constant_values="0")
        for name, value in features.items()
        if value.dtype == tf.string and value.shape[1] > 1
    }
    padded["all_topic_fav_7_weight"] = tf.pad(
        features["all_topic_fav_7_weight"], [[0, 0], [1, 2]], constant_values=-1.0
    )
    assert len(padded) == 5
    # Sums in float32, with zeros among them.
    np.testing.assert_allclose(model({**features, **padded}), model(features), rtol=0, atol=1e-6)


def test_article_history_and_lists_share_their_embeddings():
    model = build_community_feed(topic_units=6, keyword_units=5, type_units=3)
    shapes = [
        tuple(layer.embeddings.shape)
        for layer in model.layers
        if isinstance(layer, keras.layers.Embedding)
    ]
    assert sorted(shapes) == [(16, 3), (16, 3), (702, 6), (1000, 5)]


def test_the_two_types_have_ids_of_their_own():
    """Types are hashed; these are the values they have."""
    type_ids = build_community_feed().get_layer("type_ids")
    assert len(set(type_ids(["0", "1"]).numpy())) == 2


@pytest.mark.parametrize("argument", ["pooling", "combiner"])
def test_an_unknown_name_is_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be .* Received: 'max'"):
        build_community_feed(**{argument: "max"})


# The whole job ---------------------------------------------------------------------------------

SCORE_WITHOUT_THE_PACKAGE = """
import sys
import tensorflow as tf
scorer = tf.saved_model.load(sys.argv[1])
lines = [line.rstrip() for line in open(sys.argv[2])][1:]
scores = [scorer.score(tf.constant(lines)), scorer.score(tf.constant([x[1:] for x in lines]))]
assert "din_layers" not in sys.modules
for known, unknown in zip(*scores):
    assert abs(float(known[0]) - float(unknown[0])) < 1e-6, (known, unknown)
    print(float(known[0]))
"""


def table_of(printed: str) -> dict[str, list[str]]:
    """The scores that are printed for each model."""
    lines = printed.splitlines()
    header = next(place for place, text in enumerate(lines) if text.startswith("history pooled"))
    names = ("attention (DIN)", "mean", "(the best there is)")
    return {
        name: text.removeprefix(name).split()
        for text in lines[header + 1 : header + 4]
        for name in names
        if text.startswith(name)
    }


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_ten_rows_train_save_reload_and_score(tmp_path, capsys):
    """With two malformed rows among them, twice into the same folder."""
    ten = TEN_ROWS.read_text(encoding="utf-8").splitlines()
    data = write(tmp_path, [*ten[1:6], "1,2,3", *ten[6:], MALFORMED["uneven"][0]])
    out = tmp_path / "out"
    (out / "serving").mkdir(parents=True)
    (out / "serving" / "of an earlier run").touch()
    arguments = ["--data", str(data), "--epochs", "40", "--out", str(out)]
    assert community_feed.main(arguments) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert "2 malformed rows left out:" in printed
    assert f"{data}, line 7: 3 fields instead of 10" in printed
    assert f"{data}, line 13: hist_topic_id has 1 entries" in printed
    assert "10 rows: 10 to train with, too few to hold some out" in printed
    assert float(table_of(printed)["attention (DIN)"][0]) > 0.9  # learnt by heart
    assert {f"{path.name}/" if path.is_dir() else path.name for path in out.iterdir()} == set(
        community_feed.FILES
    )
    assert not (out / "serving" / "of an earlier run").exists()
    for run in ("attention", "mean"):
        assert list((out / "logs" / run / "train").glob("events.out.tfevents.*"))
    assert (out / "rows.csv").read_text(encoding="utf-8").splitlines() == ten
    # `act` is what is to be predicted, so it may be empty.
    scores = run_fresh(SCORE_WITHOUT_THE_PACKAGE, out / "serving", TEN_ROWS).split()
    shown = printed.split("probability  act,client_id")[1].splitlines()[1:11]
    assert [f"{float(score):.3f}" for score in scores] == [text.split()[0] for text in shown]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_few_drawn_rows(tmp_path, monkeypatch, capsys):
    def score_nothing(run, staging):  # the test above does
        (staging / "serving").mkdir()
        (staging / "feed.keras").touch()

    monkeypatch.setattr(community_feed, "score_ten_rows", score_nothing)
    out = tmp_path / "out"
    arguments = ["--rows", "130", "--limit", "120", "--epochs", "1", "--out", str(out)]
    assert community_feed.main(arguments) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert "120 rows: 96 to train with, the last fifth (24) held out" in printed
    for scores in table_of(printed).values():
        assert 0 <= float(scores[0]) <= 1
        assert 0 < float(scores[1]) < 2
    assert set(table_of(printed)) == {"attention (DIN)", "mean", "(the best there is)"}
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "rows.csv").read_text(encoding="utf-8").splitlines()) == 131


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rows", "-1"], "argument --rows"),
        (["--epochs", "0"], "argument --epochs"),
        (["--limit", "0"], "argument --limit"),
        (["--data", "missing.csv"], "missing.csv"),
        (["--data", "."], "."),
        (["--data", "header.csv"], "header.csv, line 1: must be act,client_id"),
        (["--data", "rows.csv"], "rows.csv: no usable row (rows.csv, line 2: 1 fields"),
        (["--data", "rows.csv", "--rows", "5"], "argument --rows: not together with --data"),
    ],
)
def test_bad_arguments_and_data_end_with_one_line(
    tmp_path, monkeypatch, capsys, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ["nothing"])
    (tmp_path / "header.csv").write_text("act,topic\n1,2\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert community_feed.main(["--out", "out", *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("community_feed: ")
    assert error.count("\n") == 1
    assert expected in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_in_the_place_of_a_folder_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "serving").touch()
    assert community_feed.main(["--out", str(tmp_path)]) == 2
    assert "serving is not a folder" in capsys.readouterr().err
