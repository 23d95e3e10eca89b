"""The models of the studies: published sizes and shapes, padding, and what each is made of."""

import keras
import numpy as np
import oracles
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import ablation, bst, dien, din, fields, interests, training, two_towers
from studies.data import HISTORY, genre_combinations, held_out, load, number, questions
from studies.scores import Scores
from studies.training import Epoch, best_epoch

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strings, ragged and sparse tensors"
)


@pytest.fixture(scope="module")
def few():
    return load(limit=3)


# DIN and DIEN ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["attention", "mean", "sum"])
def test_ragged_and_padded_din_are_the_same(few, pooling):
    events = np.arange(40)
    shares = din.genre_shares(few)
    padded = din.build_din(shares, pooling=pooling, attention_units=(4,))
    ragged = din.build_din(shares, pooling=pooling, attention_units=(4,), ragged=True)
    ragged.set_weights(padded.get_weights())
    asked = questions(few, events, 7)
    ((inputs, label),) = training.ragged_batches(few, events, 7, size=40)
    np.testing.assert_array_equal(label[:, 0], asked.label)
    expected = padded(din.inputs_of(asked))
    np.testing.assert_allclose(ragged(inputs), expected, rtol=1e-5, atol=1e-6)


def small_dien(rows=4, time=6):
    rng = np.random.default_rng(0)
    shares = np.concatenate([np.zeros((1, 3)), rng.dirichlet(np.ones(3), 7)]).astype("float32")
    valid = np.arange(time) < np.array([0, 1, 4, 6])[:rows, None]
    inputs = {
        "movie": rng.integers(1, 8, (rows, 1)),
        "history_movies": rng.integers(1, 8, (rows, time)) * valid,
        "history_ratings": rng.integers(1, 11, (rows, time)) * valid,
    }
    return dien.build_dien(shares, seed=1), inputs


@pytest.mark.slow
def test_dien_trains_every_weight_and_serves_the_same_numbers_under_more_padding():
    model, inputs = small_dien()
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile("sgd", "binary_crossentropy")
    model.fit(inputs, np.array([[0], [1], [0], [1]]), verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any(), weight.path
    served = dien.without_auxiliary_loss(model)
    assert not any(type(layer).__module__ == "studies.dien" for layer in served.layers)
    assert served.count_params() == model.count_params()
    longer = {key: np.pad(x, [(0, 0), (0, 2 * (x.shape[1] > 1))]) for key, x in inputs.items()}
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_array_equal(served.predict(inputs, verbose=0), expected)
    np.testing.assert_allclose(served.predict(longer, verbose=0), expected, rtol=1e-5)


def test_dien_tells_attention_and_augru_which_events_are_real(monkeypatch):
    """Not every version of Keras hands a mask on behind a GRU."""
    monkeypatch.setattr(keras.layers.GRU, "compute_mask", lambda self, *_: None)
    model, inputs = small_dien()
    longer = {key: np.pad(x, [(0, 0), (0, 3 * (x.shape[1] > 1))]) for key, x in inputs.items()}
    np.testing.assert_allclose(model(longer), model(inputs), rtol=1e-5)


def test_the_auxiliary_loss_is_the_log_loss_of_the_next_event_and_of_a_sampled_one():
    rng = np.random.default_rng(0)
    interests_, events, sampled = rng.normal(size=(3, 4, 6, 5)).astype("float32")
    valid = rng.random((4, 6)) < 0.7
    layer = dien.NextEventLoss(0.5)
    mask = [tf.constant(valid)] * 3
    output = layer([interests_, events, sampled], mask=mask, training=True)
    np.testing.assert_array_equal(output, interests_)
    losses = []
    for row, step in zip(*np.nonzero(valid[:, :-1] & valid[:, 1:]), strict=True):
        real, false = (x[row, step + 1] @ interests_[row, step] for x in (events, sampled))
        losses.append(np.logaddexp(0, -real) + np.logaddexp(0, false))
    # float32 sums of a few dozen terms.
    np.testing.assert_allclose(layer.losses, [0.5 * np.mean(losses)], rtol=1e-5)
    layer([interests_, events, sampled], mask=mask, training=False)
    assert layer.losses == []


def test_films_are_sampled_anew_from_all_but_the_padding():
    layer = dien.RandomFilms(3)
    one, other = (np.asarray(layer(tf.zeros((50, 40), "int32"))) for _ in range(2))
    counts = np.bincount(one.ravel(), minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 500  # of 667 expected, standard deviation 21
    assert (one != other).any()


# BST -------------------------------------------------------------------------------------------


def test_the_published_model_has_its_parts_and_the_unit_that_was_not_counted(capsys):
    bst.print_published()
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in printed.splitlines()}
    for part in bst.PUBLISHED:
        *_, published, here = lines[part.name][: 4 if part.name != "total" else 3]
        assert published == f"{part.parameters:,}"
        assert here == (published if part.name != "din_attention_layer" else "5,245,953")
    assert lines["total"] == ["total", "22,060,737", "22,061,762", "+1,025"]
    assert "1,024 weights and 1 bias" in printed


def small_bst(**arguments):
    items, users = {"item": (20, 6), "category": (5, 2)}, {"gender": (3, 4)}
    sizes = {"heads": 2, "attention_units": (6, 3), "hidden_units": (5,), "blocks": 2}
    return bst.build_bst(items, users, **{**sizes, **arguments})


def bst_inputs(rows=7, time=6):
    rng = np.random.default_rng(0)
    valid = np.arange(time) < np.arange(rows)[:, None]  # the first history is empty
    return {
        "item": rng.integers(1, 20, (rows, 1)),
        "category": rng.integers(1, 5, (rows, 1)),
        "gender": rng.integers(1, 3, (rows, 1)),
        "history_item": rng.integers(1, 20, (rows, time)) * valid,
        "history_category": rng.integers(1, 5, (rows, time)) * valid,
    }


def test_a_part_of_another_size_is_noticed():
    with pytest.raises((RuntimeError, KeyError)):
        bst.print_parts(small_bst(history=6))


@pytest.mark.parametrize("pooling", ["transformer", "attention", "mean"])
def test_bst_ignores_padding_and_only_the_transformer_sees_the_order(pooling):
    model = small_bst(pooling=pooling, activation="dice", seed=1)
    inputs = bst_inputs()
    padded = {
        name: np.pad(ids, ((0, 0), (0, 5))) if name.startswith("history") else ids
        for name, ids in inputs.items()
    }
    # Sums over a longer axis in another order, in float32.
    np.testing.assert_allclose(model(inputs), model(padded), atol=1e-6)
    full = {name: ids[-1:] for name, ids in inputs.items()}
    turned = {name: ids[:, ::-1] for name, ids in full.items()}
    same = np.allclose(model(full), model(turned), atol=1e-6)
    assert same != (pooling == "transformer")


def test_bst_is_told_the_history_newest_first(few):
    asked, genres = questions(few, np.arange(30), 8), genre_combinations(few)
    inputs = bst.inputs_of(asked, genres, {"age": np.array([4, 7, 7])})
    newest = few.movie[4:12][::-1]
    np.testing.assert_array_equal(inputs["history_movie"][12], newest)
    np.testing.assert_array_equal(inputs["history_genres"][12], genres[newest])
    np.testing.assert_array_equal(inputs["history_rating"][12], few.rating[4:12][::-1])
    assert inputs["age"][:, 0].tolist() == [4] * few.span(0)[1] + [7] * (30 - few.span(0)[1])


# Fields ----------------------------------------------------------------------------------------


def test_the_published_batch_has_its_shapes():
    batch = fields.as_form(fields.BATCH, "padded")
    shapes = fields.step_shapes(fields.build_fields_din(), batch)
    for field in ("tag", "id"):
        assert shapes[f"seq_{field}_embedding"] == (3, 2, 8)
        assert shapes[f"target_{field}_embedding"] == shapes[f"attention_{field}"] == (3, 1, 8)
        assert shapes[f"attention_{field}, weights"] == (3, 1, 2)
        assert shapes[f"user_{field}"] == (3, 16)
    assert shapes["fields"] == shapes["normalized"] == (3, 32)
    assert [shapes[name] for name in ("hidden_1", "hidden_2", "probability")] == [
        (3, 16),
        (3, 8),
        (3, 1),
    ]


def test_the_published_batch_gives_what_the_definition_gives():
    model = fields.build_fields_din(seed=2)

    def weights(name):
        return [np.float64(w) for w in model.get_layer(name).get_weights()]

    def buckets(ids, count):
        """Those of a hashed feature column: of the decimal string."""
        return 1 + tf.strings.to_hash_bucket_fast([str(one) for one in ids if one], count).numpy()

    users = []
    for field, (count, _) in fields.PUBLISHED_FIELDS.items():
        (events,) = weights(f"seq_{field}_embedding")
        (targets,) = weights(f"target_{field}_embedding")
        mlp = weights(f"attention_{field}")
        activations = [lambda x: np.maximum(x, 0)] * 2 + [lambda x: x]
        rows = []
        for ids, target in zip(
            fields.BATCH[f"seq_{field}"], fields.BATCH[f"target_{field}"], strict=True
        ):
            keys, query = events[buckets(ids, count)], targets[buckets(target, count)]
            scores = oracles.attention_scores(
                query, keys, mlp[0::2], mlp[1::2], activations, scale=False
            )
            pooled = oracles.attend(oracles.softmax(scores), keys)
            rows.append(np.concatenate([pooled[0], query[0]]))
        users.append(rows)
    gamma, beta, mean, variance = weights("normalized")
    x = np.concatenate(users, axis=1) - mean
    x = x / np.sqrt(variance + model.get_layer("normalized").epsilon) * gamma + beta
    for name in ("hidden_1", "hidden_2", "probability"):
        kernel, bias = weights(name)
        x = x @ kernel + bias
    # float32 against float64, for a probability.
    result = model(fields.as_form(fields.BATCH, "padded"))
    np.testing.assert_allclose(result, oracles.sigmoid(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["ragged", "sparse"])
def test_every_form_gives_the_probabilities_and_gradients_of_the_padded_one(form):
    rng = np.random.default_rng(0)
    batch = {f"target_{field}": rng.integers(1, 60, (5, 1)) for field in ("tag", "id")}
    for field, longest in (("tag", 4), ("id", 6)):  # of independent lengths, some empty
        lengths = rng.integers(0, longest + 1, (5, 1))
        ids = rng.integers(1, 60, (5, longest))
        batch[f"seq_{field}"] = ids * (np.arange(longest) < lengths)
    padded, other = fields.build_fields_din(), fields.build_fields_din(form=form)
    other.set_weights(padded.get_weights())
    results = []
    for model, one in ((padded, "padded"), (other, form)):
        with tf.GradientTape() as tape:
            probability = model(fields.as_form(batch, one))
            loss = tf.reduce_sum(probability)
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([probability, *map(tf.convert_to_tensor, gradients)])
    for one, two in zip(*results, strict=True):
        # Sums in float32, without the zeros of the padding and so in another order.
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


# Two towers ------------------------------------------------------------------------------------

PROBABILITIES = np.array([0, 0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize(
    ("ids", "negative_ids"), [([2, 2, 2], [2, 2, 2]), ([1, 2], [1, 1, 2]), ([4, 1, 3], [3, 1, 2])]
)
def test_the_loss_is_that_of_a_softmax_without_accidental_hits(ids, negative_ids):
    rng = np.random.default_rng(0)
    table, users = rng.normal(size=(5, 3)), rng.normal(size=(len(ids), 3))
    vectors = tuple(x.astype("float32") for x in (users, table[ids], table[negative_ids]))
    columns = np.array(ids)[:, None], np.array(negative_ids)[:, None]
    logits = two_towers.sampled_softmax_logits(vectors, *columns, PROBABILITIES, 0.5)
    for user, own, row in zip(users, ids, np.asarray(logits, np.float64), strict=True):
        expected = [
            user @ table[item] / 0.5 - np.log(PROBABILITIES[item])
            for item in (own, *(other for other in negative_ids if other != own))
        ]
        # Only differences count for a softmax; float32.
        loss, wanted = (np.logaddexp.reduce(np.array(x) - x[0]) for x in (row, expected))
        assert loss == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["inbatch", "uniform", "frequency"])
def test_training_brings_users_to_their_items(sampler):
    """Four users, each with one item of their own: the towers must learn which."""
    towers = two_towers.build_two_towers({"user": 5}, {"movie": 5}, seed=0)
    movies, counts = np.arange(5), np.array([0, 8, 8, 8, 8])
    model = two_towers.build_training_model(
        *towers, {"movie": movies}, counts, sampler=sampler, num_sampled=6, seed=0
    )
    users, nothing = np.tile(np.arange(1, 5), 512), np.zeros((2048, 1), np.int32)
    inputs = {"user": users[:, None], "history_movie": nothing, "history_length": nothing}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    asked = inputs | {"positive": (5 - users)[:, None]}
    training.train(model, asked, nothing, epochs=8, loss=loss)
    vectors = towers[0]({name: values[:4] for name, values in inputs.items()})
    scores = np.asarray(vectors) @ np.asarray(towers[1]({"movie": movies[1:, None]})).T
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert (scores.argmax(axis=1) + 1).tolist() == [4, 3, 2, 1]


def test_negatives_are_drawn_by_their_probability():
    drawn = np.asarray(two_towers.NegativeSampler(PROBABILITIES, 4000, seed=3)(np.zeros((2, 1))))
    shares = np.bincount(drawn[:, 0], minlength=5) / 4000
    # Four standard deviations of a share of a half among 4000.
    np.testing.assert_allclose(shares, PROBABILITIES, atol=4 * 0.5 / 4000**0.5)


def test_the_last_film_is_held_out_and_nothing_of_it_is_shown(few):
    parts = two_towers.Parts(few)
    ends = [few.span(user)[1] for user in range(3)]
    assert parts.test.tolist() == [end - 1 for end in ends]
    starts = [few.span(user)[0] for user in range(3)]
    assert not set(parts.train) & {*parts.test, *starts}
    inputs = parts.user_inputs(parts.test)
    for row, end in enumerate(ends):
        length = inputs["history_length"][row, 0]
        newest = few.movie[end - 1 - length : end - 1][::-1]
        np.testing.assert_array_equal(inputs["history_movie"][row, :length], newest)
    # Padding is read off the lengths: what stands there does not matter.
    user_tower, item_tower = two_towers.build_two_towers(*parts.vocabularies(), seed=0)
    inputs["history_length"] = np.minimum(inputs["history_length"], 9)
    other = inputs | {"history_movie": inputs["history_movie"].copy()}
    other["history_movie"][:, 9:] = 1
    np.testing.assert_allclose(user_tower(inputs), user_tower(other), atol=1e-6)
    best = two_towers.retrieve([user_tower, item_tower], parts)
    assert best.shape == (3, 100)
    assert best.min() >= 1


def test_popular_films_and_recall():
    ratings = [(user, film, 4.0, t) for user in (1, 2) for t, film in enumerate((7, 8, 9))]
    frame = pd.DataFrame([*ratings, (3, 8, 4.0, 0)])
    frame.columns = ["userId", "movieId", "rating", "timestamp"]
    films = pd.DataFrame({"movieId": [7, 8, 9], "title": "", "genres": ""})
    parts = two_towers.Parts(number(frame, films))
    assert parts.popular().tolist() == [[2, 1, 3]] * 2  # the held-out ratings do not count
    best, film = np.array([[5, 6, 7], [8, 9, 5]]), np.array([7, 8])
    assert [two_towers.recall(best, film, k) for k in (1, 2, 3)] == [0.5, 0.5, 1.0]


# Ablation and interests ------------------------------------------------------------------------


def test_the_epoch_is_chosen_by_validation_and_not_by_test():
    def epochs(validation, test):
        return [
            Epoch(0.5, 1.0, {"validation": Scores(v, 0, 0), "test": Scores(t, 0, 0)})
            for v, t in zip(validation, test, strict=True)
        ]

    assert best_epoch(epochs([0.6, 0.8, 0.7], [0.9, 0.1, 0.9]), "validation") == 1
    # A part too small for an AUC chooses nothing.
    assert best_epoch(epochs([np.nan, 0.4], [0.9, 0.1]), "validation") == 1


def test_gains_compare_seed_by_seed():
    found = pd.DataFrame(
        [("din", 0, 0.5, 1), ("din", 1, 0.7, 1), ("mean", 0, 0.4, 1), ("mean", 1, 0.65, 1)],
        columns=["variant", "seed", "auc", "log_loss"],
    ).assign(gauc=0.5)
    row = ablation.gain(found.set_index(["variant", "seed"]), "din", "mean")
    assert row["AUC"] == "+0.0750 ± 0.0250"


def test_every_setting_is_part_of_a_runs_recipe(monkeypatch):
    def recipe(name="din", seed=0, epochs=1, data="a"):
        return str(ablation.recipe(ablation.VARIANTS[name], seed, epochs, data))

    recipes = [recipe(name) for name in ablation.VARIANTS]
    recipes += [recipe(seed=1), recipe(epochs=2), recipe(data="b")]
    for name in ("ATTENTION_UNITS", "BATCH", "LEARNING_RATE", "DECAY"):
        monkeypatch.setattr(ablation, name, 7)
        recipes.append(recipe())
    assert len(set(recipes)) == len(recipes)


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
