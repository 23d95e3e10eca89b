"""The models of the studies: padding, the auxiliary loss, and the known answers."""

import keras
import numpy as np
import pandas as pd
import pytest
from helpers.padding import check_models
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import dien, din, interests, million
from studies.data import HISTORY, held_out, load, questions
from studies.variants import VARIANTS

from din_layers.testing import MaskingError, check_ids


@pytest.fixture(scope="module")
def few():
    return load(limit=3)


@pytest.mark.slow
def test_no_model_counts_padding(few, monkeypatch):
    # Not every version of Keras hands a mask on behind a recurrent layer.
    monkeypatch.setattr(keras.layers.GRU, "compute_mask", lambda self, *_: None)
    shares = din.genre_shares(few)
    models = [din.build_din(shares, pooling=pooling) for pooling in ("attention", "mean")]
    for name in ("recency", "dien", "bst"):
        models.append(million.build_ranker(few, **VARIANTS[name].model))
    assert check_models(models) == len(models)


@pytest.mark.slow
def test_only_the_transformer_sees_the_order(few):
    asked = {"invariants": ["permutation_invariance"], "max_examples": 5}
    check_ids(million.build_ranker(few), **asked)
    with pytest.raises(MaskingError, match="permutation"):
        check_ids(million.build_ranker(few, pooling="transformer"), **asked)


def test_dien_serves_what_it_learnt(few):
    model = million.build_ranker(few, pooling="evolution")
    inputs = din.inputs_of(questions(few, np.arange(9), 6))
    np.testing.assert_array_equal(dien.without_auxiliary_loss(model)(inputs), model(inputs))


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


def test_the_auxiliary_loss_is_the_log_loss_of_the_next_event_and_of_a_sampled_one():
    rng = np.random.default_rng(0)
    interests_, events, sampled = rng.normal(size=(3, 4, 6, 5)).astype("float32")
    valid = rng.random((4, 6)) < 0.7
    layer = dien.NextEventLoss()
    inputs = [interests_, events, sampled, np.int32(valid)]
    output = layer(inputs, training=True)
    np.testing.assert_array_equal(output, interests_)
    losses = []
    for row, step in zip(*np.nonzero(valid[:, :-1] & valid[:, 1:]), strict=True):
        real, false = (x[row, step + 1] @ interests_[row, step] for x in (events, sampled))
        losses.append(np.logaddexp(0, -real) + np.logaddexp(0, false))
    # float32 sums of a few dozen terms.
    np.testing.assert_allclose(layer.losses, [np.mean(losses)], rtol=1e-5)
    layer(inputs, training=False)
    assert layer.losses == []


@pytest.mark.parametrize("validation", [[0.6, 0.8, 0.7], [np.nan, 0.4, 0.3]])
def test_the_epoch_is_chosen_by_validation_and_not_by_test(validation):
    epochs = [
        million.Epoch(1.0, {"validation": {"AUC": auc}, "test": {"AUC": test}})
        for auc, test in zip(validation, [0.9, 0.1, 0.9], strict=True)
    ]
    assert million.best_epoch(epochs) == 1


def test_gains_compare_seed_by_seed():
    found = pd.DataFrame(
        [("din", 0, 0.5, 1), ("din", 1, 0.7, 1), ("mean", 0, 0.4, 1), ("mean", 1, 0.65, 1)],
        columns=["variant", "seed", "AUC", "log loss"],
    ).assign(GAUC=0.5)
    row = million.gain(found.set_index(["variant", "seed"]), "din", "mean")
    assert row["AUC"] == "+0.0750 ± 0.0250"


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_best_answer_is_that_of_bayes(seed):
    """For each question: both worlds, the user likes the topic or not, each event by event."""
    log = interests.make_log(users=2, seed=seed)
    data = log.data
    events = np.arange(0, len(data.user), 7)
    best = interests.best_answers(log, events)
    for event, answer in zip(events, best, strict=True):
        first, _ = data.span(data.user[event])
        topic = log.topics[data.movie[event]]
        worlds = {0.9: 0.5, 0.1: 0.5}
        for before in range(max(first, event - HISTORY), event):
            if log.topics[data.movie[before]] == topic:
                good = data.rating[before] == 2 * interests.GOOD
                worlds = {p: w * (p if good else 1 - p) for p, w in worlds.items()}
        expected = sum(p * w for p, w in worlds.items()) / sum(worlds.values())
        assert answer == pytest.approx(expected, rel=1e-9)


def test_attention_on_the_topic_alone_and_on_everything():
    log = interests.make_log(users=20, seed=1)
    events = np.flatnonzero(held_out(log.data))
    asked = questions(log.data, events)
    valid = asked.history_movies > 0
    same = valid & (log.topics[asked.history_movies] == log.topics[asked.movie][:, None])
    on_topic = interests.look(log, events, same / same.sum(1, keepdims=True).clip(1))
    plain = interests.look(log, events, valid / valid.sum(1, keepdims=True))
    assert on_topic.mass == pytest.approx(1)
    assert plain.mass == pytest.approx(plain.share) == pytest.approx(on_topic.share)
    np.testing.assert_allclose(plain.by_topic, 1)
    assert not on_topic.by_topic[~np.eye(interests.TOPICS, dtype=bool)].any()
