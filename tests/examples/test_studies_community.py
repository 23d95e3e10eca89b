"""The community feed: rows read and drawn, the pipeline, the model's parts, the ten rows."""

import csv
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score
from studies import community, rows
from studies.command_line import main
from studies.data import DataError

from din_layers.testing._fresh_process import run_fresh

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strings in a model"
)

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
EMPTY = dict.fromkeys(community.LISTS, "")


def line(**changes):
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow({**GOOD, **changes}.values())
    return text.getvalue()


def write(tmp_path, lines):
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([",".join(rows.COLUMNS), *lines, ""]), encoding="utf-8")
    return file


# Rows ------------------------------------------------------------------------------------------


def test_rows_are_read_as_they_stand(tmp_path):
    ten = rows.read(rows.TEN_ROWS)
    assert ten.lines == rows.TEN_ROWS.read_text(encoding="utf-8").splitlines()[1:]
    assert ten.label.tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 1, 0]
    lines = [line(), line(act="0", **EMPTY)]
    assert rows.read(write(tmp_path, lines)).lines == lines
    assert rows.read(tmp_path / "rows.csv", limit=1).lines == lines[:1]


MALFORMED = {
    "too short": "1,144629",
    "too long": line() + ",9",
    "open quote": line()[:-1],
    "label": line(act="2"),
    "no topic": line(topic_id=""),
    "gap": line(follow_topic_id="225,,158"),
    "last comma": line(follow_topic_id="225,"),
    "padding": line(hist_keyword_id="1,0,4"),
    "no weight": line(all_topic_fav_7="1:0.4,177"),
    "weight in words": line(all_topic_fav_7="1:much"),
    "negative weight": line(all_topic_fav_7="1:-1"),
    "weight nan": line(all_topic_fav_7="1:nan"),
    "endless weight": line(all_topic_fav_7="1:1e39"),
    "two weights": line(all_topic_fav_7="1:2:3"),
    "uneven": line(hist_topic_id="225"),
    "one empty": line(hist_topic_id="", hist_keyword_id="1"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_row_is_refused(tmp_path, case):
    file = write(tmp_path, [line(), MALFORMED[case]])
    with pytest.raises(DataError) as refusal:
        rows.read(file)
    assert str(file) in str(refusal.value)


def test_what_is_no_such_file_is_refused(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("act,topic\n1,2\n", encoding="utf-8")
    for wrong in (file, tmp_path, tmp_path / "missing.csv", write(tmp_path, [])):
        with pytest.raises(DataError, match=wrong.name):
            rows.read(wrong)


def test_drawn_rows_are_rows_whose_label_hangs_on_the_event_in_question(tmp_path):
    drawn = rows.draw(2000, 0)
    again = rows.read(write(tmp_path, drawn.lines))
    assert again.lines == drawn.lines
    np.testing.assert_array_equal(again.label, drawn.label)
    assert rows.draw(2000, 0).lines == drawn.lines
    found, share = [], []
    for fields in csv.reader(drawn.lines):
        row = dict(zip(rows.COLUMNS, fields, strict=True))
        news = [int(keyword) in rows.NEWS for keyword in row["hist_keyword_id"].split(",")]
        found.append(news[row["hist_topic_id"].split(",").index(row["topic_id"])])
        share.append(np.mean(news))
    # 2,000 rows move an AUC by less than .03.
    assert roc_auc_score(drawn.label, drawn.probability) > 0.86
    assert roc_auc_score(drawn.label, found) > 0.79
    assert roc_auc_score(drawn.label, share) < 0.71


# Pipeline and model ----------------------------------------------------------------------------


def test_lines_become_padded_strings_and_weights():
    features, label = community.parse(tf.constant([line(), line(act="0", **EMPTY)]))
    assert label.numpy().tolist() == [[1], [0]]
    weights = features.pop("all_topic_fav_7_weight")
    np.testing.assert_array_equal(weights, np.float32([[0.4074, 1e-3], [-1, -1]]))
    assert {name: x.numpy().astype(str).tolist() for name, x in features.items()} == {
        "client_type": [["0"], ["0"]],
        "post_type": [["1"], ["1"]],
        "topic_id": [["177"], ["177"]],
        "keyword_id": [["4"], ["4"]],
        "follow_topic_id": [["225", "158"], ["0", "0"]],
        "all_topic_fav_7": [["1", "177"], ["0", "0"]],
        "hist_topic_id": [["225", "158", "123"], ["0"] * 3],
        "hist_keyword_id": [["1", "2", "4"], ["0"] * 3],
    }


def ten_features():
    return community.parse(tf.constant(rows.read(rows.TEN_ROWS).lines))[0]


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_lists_are_pooled_as_by_embedding_lookup_sparse(combiner):
    model, features = community.build_community(combiner=combiner, seed=0), ten_features()
    table = tf.constant(model.get_layer("topics").get_weights()[0])
    outputs = [model.get_layer(name).output for name in ("favourites", "followed")]
    pooled = keras.Model(model.inputs, outputs)(features)
    for result, name in zip(pooled, ("all_topic_fav_7", "follow_topic_id"), strict=True):
        ids = model.get_layer("topic_ids")(features[name])
        where, shape = tf.where(features[name] != "0"), tf.shape(ids, tf.int64)
        sparse = tf.SparseTensor(where, tf.gather_nd(ids, where), shape)
        weights = None
        if name == "all_topic_fav_7":
            values = tf.gather_nd(features["all_topic_fav_7_weight"], where)
            weights = tf.SparseTensor(where, values, shape)
        expected = tf.nn.embedding_lookup_sparse(table, sparse, weights, combiner=combiner)
        # Sums of at most nine small numbers in float32.
        np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_more_padding_changes_nothing_and_the_tables_are_shared(pooling):
    model = community.build_community(pooling=pooling, batch_norm=True, dropout=0.1, seed=0)
    features = ten_features()
    padded = {
        name: tf.pad(features[name], [[0, 0], [1, 2]], constant_values="0")
        for name in community.LISTS
    }
    weights = features["all_topic_fav_7_weight"]
    padded["all_topic_fav_7_weight"] = tf.pad(weights, [[0, 0], [1, 2]], constant_values=-1.0)
    # Sums in float32, with zeros among them.
    np.testing.assert_allclose(model({**features, **padded}), model(features), rtol=0, atol=1e-6)
    tables = [layer for layer in model.layers if isinstance(layer, keras.layers.Embedding)]
    shapes = sorted(tuple(table.embeddings.shape) for table in tables)
    assert shapes == [(16, 4), (16, 4), (702, 8), (1000, 8)]


# The ten rows ----------------------------------------------------------------------------------

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


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_ten_rows_train_save_reload_and_score(tmp_path, capsys):
    """Into a folder that has something of an earlier run."""
    out = tmp_path / "out"
    (out / "serving").mkdir(parents=True)
    (out / "serving" / "of an earlier run").touch()
    assert main(["community", "--published", "--epochs", "10", "--out", str(out)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert "10 rows: 10 to train with, too few to hold some out" in printed
    table = [text for text in printed.splitlines() if text.startswith("attention (DIN)")]
    assert float(table[0].split()[2]) > 0.9  # learnt by heart
    names = {path.name for path in out.iterdir()}
    assert names == {"serving", "feed.keras", "logs", "training.png"}
    assert not (out / "serving" / "of an earlier run").exists()
    assert list((out / "logs").glob("attention_0/train/events.out.tfevents.*"))
    # `act` is what is to be predicted, so it may be empty.
    scores = run_fresh(SCORE_WITHOUT_THE_PACKAGE, out / "serving", rows.TEN_ROWS).split()
    shown = printed.split("probability  act,client_id")[1].splitlines()[1:11]
    assert [f"{float(score):.3f}" for score in scores] == [text.split()[0] for text in shown]
