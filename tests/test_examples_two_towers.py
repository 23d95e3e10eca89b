"""The two-tower example: the loss, the ranks, and the whole job on a small slice."""

import os

import numpy as np
import pytest
import two_towers
import two_towers_movielens
from hypothesis import example, given
from hypothesis import strategies as st
from movielens import Film, Ratings, histories, number

# The loss --------------------------------------------------------------------------------------

DIM = 3
TEMPERATURE = 0.1
PROBABILITIES = np.array([0, 0.5, 0.25, 0.125, 0.125])


def slow_logits(users, items, negatives, ids, negative_ids):
    """In float64, pair by pair: a negative that is the user's own item is left out."""
    result = []
    for user, item, own in zip(users, items, ids, strict=True):
        row = [user @ item / TEMPERATURE - np.log(PROBABILITIES[own])]
        row += [
            user @ negative / TEMPERATURE - np.log(PROBABILITIES[other])
            for negative, other in zip(negatives, negative_ids, strict=True)
            if other != own
        ]
        result.append(row)
    return result


def loss_of(logits):
    """Mean softmax cross entropy where the first is right."""
    return np.mean([np.log(np.sum(np.exp(np.array(row) - row[0]))) for row in logits])


def unit_vectors(rng, count):
    vectors = rng.normal(size=(count, DIM))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(
    ids=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    negative_ids=st.none() | st.lists(st.integers(1, 4), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
@example(ids=[2, 2, 2], negative_ids=None, seed=0)  # nothing but accidental hits
@example(ids=[1, 2], negative_ids=[1, 1, 2], seed=0)
def test_the_loss_is_that_of_a_softmax_without_accidental_hits(ids, negative_ids, seed):
    rng = np.random.default_rng(seed)
    table, users = unit_vectors(rng, 5), unit_vectors(rng, len(ids))
    negative_ids = ids if negative_ids is None else negative_ids  # in the batch
    arrays = [users, table[ids], table[negative_ids]]
    logits = two_towers.sampled_softmax_logits(
        *(array.astype("float32") for array in arrays),
        np.array(ids)[:, None],
        np.array(negative_ids)[:, None],
        PROBABILITIES,
        TEMPERATURE,
    )
    assert logits.shape == (len(ids), 1 + len(negative_ids))
    # float32 logits of up to 12 or so.
    assert loss_of(np.asarray(logits, np.float64)) == pytest.approx(
        loss_of(slow_logits(*arrays, ids, negative_ids)), abs=1e-5
    )


def test_probabilities_are_those_of_the_sampler():
    counts = np.array([9, 4, 0, 1])  # the first is padding
    by_name = {
        name: two_towers.sampling_probabilities(name, counts).tolist()
        for name in two_towers.SAMPLERS
    }
    assert by_name["inbatch"] == by_name["frequency"] == [0, 0.8, 0, 0.2]
    assert by_name["uniform"] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    flat = two_towers.sampling_probabilities("frequency", counts, distortion=0.5)
    assert flat.tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])


def test_negatives_are_drawn_by_their_probability_and_anew():
    sampler = two_towers.NegativeSampler(PROBABILITIES, 4000, seed=3)
    one, other = (np.asarray(sampler(np.zeros((2, 1)))) for _ in range(2))
    assert one.shape == (4000, 1)
    assert (one != other).any()
    # Four standard deviations of a share of a half among 4000.
    np.testing.assert_allclose(
        np.bincount(one[:, 0], minlength=5) / 4000, PROBABILITIES, atol=4 * 0.5 / 4000**0.5
    )


def test_an_unknown_sampler_is_refused(tmp_path, capsys):
    with pytest.raises(
        ValueError, match=r"`sampler` must be one of .* Received: sampler='adaptive'"
    ):
        two_towers.sampling_probabilities("adaptive", np.array([0, 1]))
    assert two_towers_movielens.main(["--sampler", "adaptive"]) == 2
    assert "invalid choice: 'adaptive'" in capsys.readouterr().err
    assert two_towers_movielens.SAMPLERS == two_towers.SAMPLERS


# The towers ------------------------------------------------------------------------------------

USERS = {"user": 4, "age": 3}
ITEMS = {"movie": 5, "genres": 3}


def user_inputs(time=4):
    movies = np.array([[1, 2, 3, 4], [2, 2, 0, 0], [0, 0, 0, 0]])
    return {
        "user": np.array([[1], [2], [3]]),
        "age": np.array([[1], [2], [2]]),
        "history_movie": np.pad(movies, ((0, 0), (0, time - 4))),
        "history_genres": np.pad(movies % 3, ((0, 0), (0, time - 4))),
        "history_length": np.array([[4], [2], [0]]),
    }


def test_vectors_have_length_one_and_padding_does_not_move_them():
    user_tower, item_tower = two_towers.build_two_towers(
        USERS, ITEMS, user_hidden_units=(6, 4), item_hidden_units=(4,), embedding_stddev=0.1
    )
    users = two_towers.vectors(user_tower, user_inputs())
    items = two_towers.vectors(item_tower, {"movie": np.ones((2, 1)), "genres": np.ones((2, 1))})
    assert users.shape == (3, 4)
    assert items.shape == (2, 4)
    for vectors in (users, items):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    # The padding of `history_movie` is read off the lengths: what stands there does not matter.
    padded = user_inputs(time=7)
    padded["history_movie"][:, 4:] = 3
    np.testing.assert_allclose(two_towers.vectors(user_tower, padded), users, atol=1e-6)


def test_the_arguments_reach_the_towers():
    def build(**arguments):
        return two_towers.build_two_towers(USERS, ITEMS, **arguments)

    user_tower, item_tower = build(
        user_units=3, item_units=7, batch_norm=True, dropout=0.2, hidden_l2=1e-4, embedding_l2=1e-5
    )
    kinds = [type(layer).__name__ for layer in user_tower.layers]
    assert kinds.count("BatchNormalization") == kinds.count("Dropout") == 2
    assert user_tower.get_layer("age_embedding").embeddings.shape == (3, 3)
    movies = item_tower.get_layer("movie_embedding")
    assert movies.embeddings.shape == (5, 7)
    assert movies is user_tower.get_layer("movie_embedding")
    assert movies.embeddings_regularizer.l2 == pytest.approx(1e-5)
    one, other = (two_towers.vectors(build(seed=4)[0], user_inputs()) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sampler", two_towers.SAMPLERS)
def test_training_brings_users_to_their_items(sampler):
    """Four users, each with one item of their own: the towers must learn which."""
    user_tower, item_tower = two_towers.build_two_towers({"user": 5}, {"movie": 5}, seed=0)
    movies = np.arange(5)
    model = two_towers.build_training_model(
        user_tower, item_tower, {"movie": movies}, np.array([0, 8, 8, 8, 8]),
        sampler=sampler, num_sampled=6, seed=0,
    )  # fmt: skip
    users = np.tile(np.arange(1, 5), 512)
    inputs = {
        "user": users[:, None],
        "history_movie": np.zeros((2048, 1), np.int32),
        "history_length": np.zeros((2048, 1), np.int32),
    }
    losses = two_towers.train(model, inputs | {"positive": (5 - users)[:, None]}, epochs=8)
    assert losses[-1] < losses[0]
    asked = {name: values[:4] for name, values in inputs.items()}
    scores = (
        two_towers.vectors(user_tower, asked)
        @ two_towers.vectors(item_tower, {"movie": movies[1:, None]}).T
    )
    assert (scores.argmax(axis=1) + 1).tolist() == [4, 3, 2, 1]


# Ranks -----------------------------------------------------------------------------------------


@given(
    drawn=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=30, unique=True
    ),
    scores=st.lists(st.integers(0, 3), min_size=7, max_size=7),
)
def test_ranks_are_places_in_the_sorted_list(drawn, scores):
    user, movie = (np.array(column) for column in zip(*drawn, strict=True))
    films = {number: Film(str(number), ()) for number in range(1, 7)}
    data = number(films, Ratings(user, movie, np.ones(len(user), np.int32), np.arange(len(user))))
    table = np.array(scores[: len(data.titles)], np.float64)
    events = np.flatnonzero(two_towers_movielens.last_of_user(data))
    for unseen in (False, True):
        result = two_towers_movielens.ranks(
            lambda rows: np.tile(table, (len(events[rows]), 1)), data, events, unseen=unseen
        )
        for event, rank in zip(events, result, strict=True):
            seen = data.movie[data.first[event] : event].tolist() if unseen else []
            offered = [film for film in range(1, len(table)) if film not in seen]
            offered.sort(key=lambda film: -table[film])
            assert offered.index(data.movie[event]) == rank


def test_recall_counts_the_films_in_the_list():
    assert two_towers_movielens.recall(np.array([0, 9, 10, 500]), 10) == 0.5


# The job ---------------------------------------------------------------------------------------


def write_ml_1m(folder, users=12, films=30):
    """A folder like ml-1m: everybody rates films in the order of their numbers."""
    folder.mkdir()
    lines = {
        "users": [f"{user}::{'FM'[user % 2]}::25::{user % 3}::{user:05}" for user in range(users)],
        "movies": [f"{film}::Film {film} (1999)::Drama|War" for film in range(films)],
        "ratings": [
            f"{user}::{(user + step) % films}::4::{step}"
            for user in range(users)
            for step in range(9)
        ],
    }
    for name, text in lines.items():
        (folder / f"{name}.dat").write_text("\n".join(text) + "\n", encoding="latin-1")
    return folder


def test_the_split_holds_the_last_out_and_shows_nothing_of_it(tmp_path):
    options = two_towers_movielens.parser().parse_args(
        ["--data", str(write_ml_1m(tmp_path / "data")), "--history", "5"]
    )
    parts = two_towers_movielens.split(options)
    data = parts.data
    assert parts.test.tolist() == [9 * user + 8 for user in range(12)]
    assert parts.train.tolist() == [9 * user + step for user in range(12) for step in range(1, 8)]
    assert set(parts.users) == {"user", "gender", "age", "occupation", "zip"}
    inputs = parts.user_inputs(parts.test)
    old_to_new, _ = histories(data, data.first[parts.test], parts.test, 5)
    np.testing.assert_array_equal(inputs["history_movie"], old_to_new[:, ::-1])
    assert not (inputs["history_movie"] == data.movie[parts.test][:, None]).any()
    assert (inputs["history_length"] == 5).all()
    user_tower, _ = two_towers.build_two_towers(*parts.vocabularies())
    assert {tensor.name for tensor in user_tower.inputs} == set(inputs)
    assert two_towers.vectors(user_tower, inputs).shape == (12, 32)


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_small_slice(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--limit", "20", "--epochs", "1", "--history", "10", "--seeds", "2"]
    assert two_towers_movielens.main([*arguments, "--out", str(out)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == set(two_towers_movielens.FILES)
    assert (out / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert "loaded in a fresh process" in printed
    for name in ("seed 0", "seed 1", "two towers, mean", "popularity list"):
        line = next(line for line in printed.splitlines() if name in line and "." in line)
        recalls = [float(value) for value in line.split()[-6:]]
        assert all(0 <= value <= 1 for value in recalls)
        assert recalls[:3] == sorted(recalls[:3])
        assert recalls[3:] == sorted(recalls[3:])


def test_bad_arguments_and_data_end_with_one_line(tmp_path, capsys):
    folder = write_ml_1m(tmp_path / "data")
    (folder / "users.dat").write_text("0::F::25::0\n")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        ["--seeds", "0"],
        ["--seeds", "2", "--seed", str(2**32 - 1)],
        ["--data", "no/such/folder"],
        ["--data", str(folder)],
        ["--out", os.devnull],
    ):
        out = ["--out", str(tmp_path / "out")]
        assert two_towers_movielens.main([*out, *arguments]) == 2
        printed, error = capsys.readouterr()
        assert printed == ""
        assert error.startswith("two_towers_movielens: ")
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
