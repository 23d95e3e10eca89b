"""The BST example: the published sizes, padding, and the whole job on a small slice."""

import os

import bst
import bst_movielens
import keras
import numpy as np
import pytest
from movielens import examples, genre_combinations, number, read

ITEMS = {"item": (20, 6), "category": (5, 2)}
USERS = {"gender": (3, 4)}


def small_bst(**arguments):
    return bst.build_bst(
        ITEMS, USERS, **{"heads": 2, "attention_units": (6, 3), "hidden_units": (5,), **arguments}
    )


def some_inputs(rows=7, time=6):
    rng = np.random.default_rng(0)
    lengths = np.arange(rows)[:, None] % (time + 1)  # the first history is empty
    valid = np.arange(time) < lengths
    return {
        "item": rng.integers(1, 20, (rows, 1)),
        "category": rng.integers(1, 5, (rows, 1)),
        "gender": rng.integers(1, 3, (rows, 1)),
        "history_item": rng.integers(1, 20, (rows, time)) * valid,
        "history_category": rng.integers(1, 5, (rows, time)) * valid,
    }


def probabilities(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


# The model -------------------------------------------------------------------------------------


def test_the_published_model_has_its_parts_and_the_unit_that_was_not_counted(capsys):
    assert bst_movielens.main(["--sizes", "seed"]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    lines = {line.split()[0]: line.split() for line in printed.splitlines()}
    for part in bst_movielens.PUBLISHED:
        published, here = lines[part.name][2:4]
        assert published == f"{part.parameters:,}"
        assert here == (published if part.name != "din_attention_layer" else "5,245,953")
    assert lines["total"] == ["total", "22,060,737", "22,061,762", "(+1,025)"]
    assert sum(part.parameters for part in bst_movielens.PUBLISHED) == 22_060_737
    assert "1,024 weights and 1 bias" in printed


def test_a_part_of_another_size_is_noticed():
    model = small_bst(history=6)
    with pytest.raises((RuntimeError, KeyError)):
        bst_movielens.print_parts(model)


@pytest.mark.parametrize("pooling", bst.POOLINGS)
def test_padding_changes_no_probability(pooling):
    model = small_bst(pooling=pooling, blocks=2, attention_activation="dice")
    inputs = some_inputs()
    padded = {
        name: np.pad(ids, ((0, 0), (0, 5))) if name.startswith("history") else ids
        for name, ids in inputs.items()
    }
    # Sums over a longer axis in another order, in float32.
    np.testing.assert_allclose(
        probabilities(model, inputs), probabilities(model, padded), atol=1e-6
    )


def test_the_transformer_sees_the_order_of_events_and_attention_alone_does_not():
    inputs = some_inputs(rows=2, time=6)
    inputs["history_item"][:] = 3
    inputs["history_category"] = np.array([[1, 2, 3, 4, 1, 2], [4, 3, 2, 1, 2, 1]])
    turned = inputs | {"history_category": inputs["history_category"][:, ::-1]}
    for pooling, sees_order in (("transformer", True), ("attention", False), ("mean", False)):
        model = small_bst(pooling=pooling, blocks=2, seed=1)
        one, other = probabilities(model, inputs), probabilities(model, turned)
        assert np.allclose(one, other, atol=1e-6) != sees_order


def test_every_weight_is_trained_the_attentions_last_unit_included():
    model = small_bst(blocks=2, compare=False, attention_activation="relu", batch_norm=True)
    before = [weight.numpy().copy() for weight in model.trainable_variables]
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy", jit_compile=False)
    model.fit(some_inputs(64), np.arange(64)[:, None] % 2, verbose=0)
    same = [
        weight.path
        for weight, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    # Softmax ignores what is added to all scores, and batch normalization what is added to all
    # rows, so that some biases have no gradient.
    assert all("bias" in path for path in same), same


def test_the_arguments_reach_the_model():
    model = small_bst(blocks=3, dropout=0.3, embedding_l2=1e-4, hidden_l2=1e-5, activation="dice")
    names = [type(layer).__name__ for layer in model.layers]
    assert names.count("MultiHeadAttention") == 3
    assert names.count("Dice") == 1
    assert model.get_layer("hidden_1_dropout").rate == 0.3
    assert model.get_layer("item_embedding").embeddings_regularizer.l2 == pytest.approx(1e-4)
    assert model.get_layer("hidden_1").kernel_regularizer.l2 == pytest.approx(1e-5)
    one, other = (probabilities(small_bst(seed=5), some_inputs()) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"heads": 3}, r"`heads` must divide.*heads=3, width=8"), ({"pooling": "max"}, "`pooling`")],
)
def test_impossible_arguments_are_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        small_bst(**arguments)


def test_the_models_inputs_are_the_examples_newest_first():
    data = number(*read(limit=2))
    questions = examples(data, np.arange(30), 8)
    genres = genre_combinations(data)
    users = {"age": np.array([4, 7])}
    inputs = bst_movielens.inputs_of(questions, genres=genres, users=users)
    row = 12
    np.testing.assert_array_equal(inputs["history_movie"][row], data.movie[row - 8 : row][::-1])
    np.testing.assert_array_equal(inputs["history_rating"][row], data.rating[row - 8 : row][::-1])
    np.testing.assert_array_equal(
        inputs["history_genres"][row], genres[data.movie[row - 8 : row][::-1]]
    )
    assert inputs["age"].tolist() == [[users["age"][user]] for user in questions.user]


def test_several_seeds_get_a_mean_and_a_spread():
    assert bst_movielens.mean_and_spread([0.5]) == "0.5000"
    assert bst_movielens.mean_and_spread([0.25, 0.75]) == "0.5000 +- 0.3536"  # 0.25 * sqrt(2)


# The job ---------------------------------------------------------------------------------------


def test_bad_arguments_end_with_one_line(tmp_path, capsys):
    for arguments in (
        ["--sizes", "published"],
        ["--seeds", "0"],
        ["--seeds", "2", "--seed", str(2**32 - 1)],
        ["--data", "no/such/folder"],
        ["--out", os.devnull],
    ):
        assert bst_movielens.main(["--out", str(tmp_path / "out"), *arguments]) == 2
        printed, error = capsys.readouterr()
        assert printed == ""
        assert error.startswith("bst_movielens: ")
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_small_slice(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--limit", "20", "--epochs", "1", "--history", "10"]
    assert bst_movielens.main([*arguments, "--out", str(out)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == {"bst.keras", "training.png"}
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    lines = printed.splitlines()
    header = next(place for place, line in enumerate(lines) if "user-weighted AUC" in line)
    for line, name in zip(lines[header + 1 :], bst_movielens.POOLINGS, strict=False):
        assert line.startswith(name)
        assert 0 < float(line.removeprefix(name).split()[0]) < 1
    assert "largest difference 0" in printed
