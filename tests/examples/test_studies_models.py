"""The models of the studies: published sizes, shapes and rows, padding, and the known answers."""

import contextlib
import csv

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import ablation, bst, community, dien, din, fields, interests, million, rows, training
from studies import two_towers as towers
from studies.command_line import main
from studies.data import HISTORY, held_out, load, number, questions

from din_layers.testing import MaskingError, check_ids
from din_layers.testing._fresh_process import run_fresh


@pytest.fixture(scope="module")
def few():
    return load(limit=3)


def test_rows_of_a_million_come_after_another_and_show_what_was_before(few):
    parts = list(million.split_by_time(few).values())
    times = [few.time[events] for events in parts]
    assert times[0].max() <= times[1].min()
    assert times[1].max() <= times[2].min()
    events = np.sort(np.concatenate(parts))
    assert (events - few.first[events] >= million.FEWEST).all()
    rows = questions(few, events, 100)
    size = len(events) // 2  # batches of all rows, padded to 64 and to what is longest
    shown = [
        row
        for inputs, label in million.batches(few, events[: 2 * size], 100, size, seed=0)
        for row in zip(*(x.numpy() for x in inputs.values()), label.numpy() + 1, strict=True)
    ]
    before = (rows.history_movies, rows.history_ratings, rows.label[:, None] + 1)
    asked = zip(*(x[: 2 * size] for x in (rows.movie[:, None], *before)), strict=True)
    found, expected = (
        sorted([x[x > 0].tolist() for x in row] for row in of) for of in (shown, asked)
    )
    assert found == expected


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_ragged_and_padded_din_are_the_same(few, pooling):
    events, shares = np.arange(40), din.genre_shares(few)
    padded = din.build_din(shares, pooling=pooling)
    ragged = din.build_din(shares, pooling=pooling, ragged=True)
    ragged.set_weights(padded.get_weights())
    asked = questions(few, events, 7)
    ((inputs, label),) = training.ragged_batches(few, events, 7, size=40)
    np.testing.assert_array_equal(label[:, 0], asked.label)
    expected = padded(din.inputs_of(asked))
    np.testing.assert_allclose(ragged(inputs), expected, rtol=1e-5, atol=1e-6)


def test_dien_serves_what_it_learnt_and_ignores_padding(few, monkeypatch):
    """Not every version of Keras hands a mask on behind a GRU."""
    monkeypatch.setattr(keras.layers.GRU, "compute_mask", lambda self, *_: None)
    model = dien.build_dien(din.genre_shares(few))
    check_ids(model, invariants=["padding_invariance"], max_examples=5)
    inputs = din.inputs_of(questions(few, np.arange(9), 6))
    np.testing.assert_array_equal(dien.without_auxiliary_loss(model)(inputs), model(inputs))


def test_the_auxiliary_loss_is_the_log_loss_of_the_next_event_and_of_a_sampled_one():
    rng = np.random.default_rng(0)
    interests_, events, sampled = rng.normal(size=(3, 4, 6, 5)).astype("float32")
    valid = rng.random((4, 6)) < 0.7
    layer = dien.NextEventLoss()
    mask = [tf.constant(valid)] * 3
    output = layer([interests_, events, sampled], mask=mask, training=True)
    np.testing.assert_array_equal(output, interests_)
    losses = []
    for row, step in zip(*np.nonzero(valid[:, :-1] & valid[:, 1:]), strict=True):
        real, false = (x[row, step + 1] @ interests_[row, step] for x in (events, sampled))
        losses.append(np.logaddexp(0, -real) + np.logaddexp(0, false))
    # float32 sums of a few dozen terms.
    np.testing.assert_allclose(layer.losses, [np.mean(losses)], rtol=1e-5)
    layer([interests_, events, sampled], mask=mask, training=False)
    assert layer.losses == []


def test_the_published_model_has_its_parts_and_the_unit_that_was_not_counted(capsys):
    """A shape that differs is raised as an error."""
    bst.print_published()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    other = {line[0]: line[2:5] for line in lines if any(cell.startswith("+") for cell in line)}
    assert other == {
        "din_attention_layer": ["5,244,928", "5,245,953", "+1,025"],
        "total": ["22,061,762", "+1,025"],
    }
    assert ["total", "22,060,737"] in [line[:2] for line in lines]


@pytest.mark.parametrize("pooling", ["transformer", "attention", "mean"])
def test_bst_ignores_padding_and_only_the_transformer_sees_the_order(pooling):
    items, users = {"item": (20, 6), "category": (5, 2)}, {"gender": (3, 4)}
    sizes = {"heads": 2, "attention_units": (6, 3), "hidden_units": (5,), "blocks": 2}
    model = bst.build_bst(items, users, pooling=pooling, activation="dice", **sizes)
    asked = {"history": ["history_item", "history_category"], "max_examples": 5}
    check_ids(model, invariants=["padding_invariance"], **asked)
    sees_order = pooling == "transformer"
    with pytest.raises(MaskingError) if sees_order else contextlib.nullcontext():
        check_ids(model, invariants=["permutation_invariance"], **asked)


def test_the_published_batch_has_its_shapes():
    batch = fields.as_form(fields.BATCH, "padded")
    shapes = fields.step_shapes(fields.build_fields_din(), batch)
    for field in ("tag", "id"):
        assert shapes[f"seq_{field}_embedding"] == (3, 2, 8)
        assert shapes[f"target_{field}_embedding"] == shapes[f"attention_{field}"] == (3, 1, 8)
        assert shapes[f"attention_{field}, weights"] == (3, 1, 2)
        assert shapes[f"user_{field}"] == (3, 16)
    assert shapes["fields"] == shapes["normalized"] == (3, 32)
    dense = [shapes[name] for name in ("hidden_1", "hidden_2", "probability")]
    assert dense == [(3, 16), (3, 8), (3, 1)]


@pytest.mark.parametrize("form", ["ragged", "sparse"])
def test_every_form_gives_the_probabilities_of_the_padded_one(form):
    rng = np.random.default_rng(0)
    batch = {f"target_{field}": rng.integers(1, 60, (5, 1)) for field in ("tag", "id")}
    for field, longest in (("tag", 4), ("id", 6)):  # of independent lengths, some empty
        lengths = rng.integers(0, longest + 1, (5, 1))
        batch[f"seq_{field}"] = rng.integers(1, 60, (5, longest)) * (np.arange(longest) < lengths)
    padded, other = fields.build_fields_din(), fields.build_fields_din(form=form)
    other.set_weights(padded.get_weights())
    expected = padded(fields.as_form(batch, "padded"))
    # Sums in float32, without the zeros of the padding and so in another order.
    np.testing.assert_allclose(other(fields.as_form(batch, form)), expected, atol=1e-6)


def test_drawn_rows_hang_on_the_event_in_question():
    drawn = rows.draw(2000, 0)
    found, share = [], []
    for cells in csv.reader(drawn.lines):
        row = dict(zip(rows.COLUMNS, cells, strict=True))
        news = [int(keyword) in rows.NEWS for keyword in row["hist_keyword_id"].split(",")]
        found.append(news[row["hist_topic_id"].split(",").index(row["topic_id"])])
        share.append(np.mean(news))
    scores = [training.measure(drawn.label, np.clip(x, 0.1, 0.9))["AUC"] for x in (found, share)]
    # 2,000 rows move an AUC by less than .03.
    assert scores[0] > 0.79
    assert scores[1] < 0.71


def test_lines_become_padded_strings_and_weights():
    full = '1,144629,0,1,177,"225,158","1:0.4074,177:1e-3","225,158,123",4,"1,2,4"'
    features, label = community.parse(tf.constant([full, "0,144629,0,1,177,,,,4,"]))
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


def test_lists_are_pooled_as_by_embedding_lookup_sparse_and_more_padding_changes_nothing():
    model = community.build_community()
    features = community.parse(tf.constant(rows.ten_rows().lines))[0]
    table = tf.constant(model.get_layer("topics").get_weights()[0])
    outputs = [model.get_layer(name).output for name in ("favourites", "followed")]
    pooled = keras.Model(model.inputs, outputs)(features)
    weights = [features[community.WEIGHTS], None]
    lists = ("all_topic_fav_7", "follow_topic_id")
    for result, name, weight in zip(pooled, lists, weights, strict=True):
        where, ids = tf.where(features[name] != "0"), model.get_layer("topic_ids")(features[name])

        def sparse(values, where=where, shape=ids.shape):
            return tf.SparseTensor(where, tf.gather_nd(values, where), shape)

        weight = weight if weight is None else sparse(weight)
        expected = tf.nn.embedding_lookup_sparse(table, sparse(ids), weight, combiner="mean")
        # Sums of at most nine small numbers in float32.
        np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5, atol=1e-7)
    paddings = {**dict.fromkeys(community.LISTS, "0"), community.WEIGHTS: -1.0}
    more = {
        name: tf.pad(features[name], [[0, 0], [1, 2]], constant_values=padding)
        for name, padding in paddings.items()
    }
    # Sums in float32, with zeros among them.
    np.testing.assert_allclose(model({**features, **more}), model(features), rtol=0, atol=1e-6)


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


@pytest.mark.slow
def test_the_ten_rows_train_save_reload_and_score(tmp_path, capsys):
    """Into a folder that has something of an earlier run."""
    old = tmp_path / "serving" / "of an earlier run"
    old.mkdir(parents=True)
    assert main(["community", "--published", "--epochs", "10", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    table = [text for text in printed.splitlines() if text.startswith("attention (DIN)")]
    assert float(table[0].split()[2]) > 0.9  # learnt by heart
    assert not old.exists()
    # `act` is what is to be predicted, so it may be empty.
    scores = run_fresh(SCORE_WITHOUT_THE_PACKAGE, tmp_path / "serving", rows.TEN_ROWS).split()
    shown = printed.split("probability  act,client_id")[1].splitlines()[1:11]
    assert [f"{float(score):.3f}" for score in scores] == [text.split()[0] for text in shown]


@pytest.mark.parametrize("ids", [[2, 2, 2], [1, 1, 2], [4, 1, 3]])
def test_the_loss_is_that_of_a_softmax_without_accidental_hits(ids):
    rng = np.random.default_rng(0)
    table, users = rng.normal(size=(2, 5, 3)).astype("float32")
    share = np.array([0, 0.5, 0.25, 0.125, 0.125])
    logits = towers.in_batch_logits(users[:3], table[ids], np.array(ids)[:, None], share)
    for user, own, row in zip(users, ids, np.asarray(logits, np.float64), strict=False):
        expected = [
            user @ table[item] / towers.TEMPERATURE - np.log(share[item])
            for item in (own, *(other for other in ids if other != own))
        ]
        # Only differences count for a softmax; float32.
        loss, wanted = (np.logaddexp.reduce(np.array(x) - x[0]) for x in (row, expected))
        assert loss == pytest.approx(wanted, abs=1e-5)


def test_the_last_film_is_held_out_and_nothing_of_it_is_shown(few):
    parts = towers.Parts(few)
    starts, ends = np.transpose([few.span(user) for user in range(3)])
    assert parts.test.tolist() == (ends - 1).tolist()
    assert not set(parts.train) & {*parts.test, *starts}
    inputs = parts.user_inputs(parts.test)
    for row, end in enumerate(ends):
        length = inputs["history_length"][row, 0]
        newest = few.movie[end - 1 - length : end - 1][::-1]
        np.testing.assert_array_equal(inputs["history_movie"][row, :length], newest)


def test_popular_films_and_recall():
    ratings = [(user, film, 4.0, t) for user in (1, 2) for t, film in enumerate((7, 8, 9))]
    frame = pd.DataFrame([*ratings, (3, 8, 4.0, 0)])
    frame.columns = ["userId", "movieId", "rating", "timestamp"]
    films = pd.DataFrame({"movieId": [7, 8, 9], "title": "", "genres": ""})
    parts = towers.Parts(number(frame, films))
    assert parts.popular().tolist() == [[2, 1, 3]] * 2  # the held-out ratings do not count
    best, film = np.array([[5, 6, 7], [8, 9, 5]]), np.array([7, 8])
    assert [towers.recall(best, film, k) for k in (1, 2, 3)] == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("validation", [[0.6, 0.8, 0.7], [np.nan, 0.4, 0.3]])
def test_the_epoch_is_chosen_by_validation_and_not_by_test(validation):
    epochs = [
        training.Epoch(0.5, 1.0, {"validation": {"AUC": auc}, "test": {"AUC": test}})
        for auc, test in zip(validation, [0.9, 0.1, 0.9], strict=True)
    ]
    assert ablation.best_epoch(epochs) == 1


def test_gains_compare_seed_by_seed():
    found = pd.DataFrame(
        [("din", 0, 0.5, 1), ("din", 1, 0.7, 1), ("mean", 0, 0.4, 1), ("mean", 1, 0.65, 1)],
        columns=["variant", "seed", "AUC", "log loss"],
    ).assign(GAUC=0.5)
    row = ablation.gain(found.set_index(["variant", "seed"]), "din", "mean")
    assert row["AUC"] == "+0.0750 ± 0.0250"


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_best_answer_is_that_of_bayes(seed):
    """For each question: both worlds, the user likes the topic or not, each event by event."""
    log = interests.make_log(users=2, seed=seed)
    data = log.data
    events = np.arange(0, len(data.user), 7)
    best = interests.best_answers(log, events, history=20)
    for event, answer in zip(events, best, strict=True):
        first, _ = data.span(data.user[event])
        topic = log.topics[data.movie[event]]
        worlds = {0.9: 0.5, 0.1: 0.5}
        for before in range(max(first, event - 20), event):
            if log.topics[data.movie[before]] == topic:
                good = data.rating[before] == 2 * interests.GOOD
                worlds = {p: w * (p if good else 1 - p) for p, w in worlds.items()}
        expected = sum(p * w for p, w in worlds.items()) / sum(worlds.values())
        assert answer == pytest.approx(expected, rel=1e-9)


def test_attention_on_the_topic_alone_and_on_everything():
    log = interests.make_log(users=20, seed=1)
    events = np.flatnonzero(held_out(log.data))
    asked = questions(log.data, events, HISTORY)
    valid = asked.history_movies > 0
    same = valid & (log.topics[asked.history_movies] == log.topics[asked.movie][:, None])
    on_topic = interests.look(log, events, same / same.sum(1, keepdims=True).clip(1))
    plain = interests.look(log, events, valid / valid.sum(1, keepdims=True))
    assert on_topic.mass == pytest.approx(1)
    assert plain.mass == pytest.approx(plain.share) == pytest.approx(on_topic.share)
    np.testing.assert_allclose(plain.by_topic, 1)
    assert not on_topic.by_topic[~np.eye(interests.TOPICS, dtype=bool)].any()
