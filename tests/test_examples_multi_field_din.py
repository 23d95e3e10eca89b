"""DIN over several fields: the batch's shapes, the three forms of input, and the whole job."""

from functools import cache

import multi_field_din
import numpy as np
import oracles
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from multi_field import FORMS, build_multi_field_din, inputs_as_form
from multi_field_din import BATCH


@cache
def model_of(form):
    """Return the model of a form; all have the same weights."""
    model = build_multi_field_din(form=form, attention_activation="sigmoid", seed=2)
    if form != "padded":
        model.set_weights(model_of("padded").get_weights())
    return model


@st.composite
def batches(draw):
    """Draw histories of any length, the fields' lengths independent of each other, and targets."""
    batch = draw(st.integers(1, 4))
    ids = st.integers(1, 60)
    drawn = {}
    for field in ("tag", "id"):
        rows = draw(
            st.lists(st.lists(ids, max_size=5), min_size=batch, max_size=batch), label=field
        )
        padded = np.zeros((batch, max(1, *map(len, rows), 1)), np.int64)
        for row, events in zip(padded, rows, strict=True):
            row[: len(events)] = events
        drawn[f"seq_{field}"] = padded
        targets = draw(st.lists(ids, min_size=batch, max_size=batch))
        drawn[f"target_{field}"] = np.array(targets)[:, None]
    return drawn


def test_the_batch_has_the_shapes_of_a_din_over_two_fields():
    shapes = multi_field_din.step_shapes(build_multi_field_din(), inputs_as_form(BATCH, "padded"))
    for field in ("tag", "id"):
        assert shapes[f"seq_{field}_embedding"] == (3, 2, 8)
        assert shapes[f"target_{field}_embedding"] == (3, 1, 8)
        assert shapes[f"attention_{field}"] == (3, 1, 8)
        assert shapes[f"attention_{field}, weights"] == (3, 1, 2)
        assert shapes[f"user_{field}"] == (3, 16)
    assert shapes["fields"] == shapes["normalized"] == (3, 32)
    hidden = [shape for name, shape in shapes.items() if name.startswith("dense")]
    assert hidden == [(3, 16), (3, 8)]
    assert shapes["probability"] == (3, 1)


def buckets(ids, count):
    """The buckets of a hashed feature column: those of the decimal string."""
    return tf.strings.to_hash_bucket_fast(tf.strings.as_string(ids), count).numpy()


def test_the_batch_gives_what_the_definition_gives():
    model = model_of("padded")

    def weights(name):
        return [np.float64(w) for w in model.get_layer(name).get_weights()]

    users = []
    for field, count in (("tag", 24), ("id", 10)):
        (keys,), (queries,) = (
            weights(f"seq_{field}_embedding"),
            weights(f"target_{field}_embedding"),
        )
        mlp = weights(f"attention_{field}")
        rows = []
        for history, target in zip(BATCH[f"seq_{field}"], BATCH[f"target_{field}"], strict=True):
            events = keys[1 + buckets([one for one in history if one], count)]
            query = queries[1 + buckets(target, count)]
            activations = [oracles.sigmoid, oracles.sigmoid, lambda x: x]
            scores = oracles.attention_scores(
                query, events, mlp[0::2], mlp[1::2], activations, scale=False
            )
            pooled = oracles.attend(oracles.softmax(scores), events)
            rows.append(np.concatenate([pooled[0], query[0]]))
        users.append(rows)
    x = np.concatenate(users, axis=1)
    gamma, beta, mean, variance = weights("normalized")
    x = (x - mean) / np.sqrt(variance + model.get_layer("normalized").epsilon) * gamma + beta
    dense = [layer.name for layer in model.layers if layer.name.startswith("dense")]
    for name in (*dense, "probability"):
        kernel, bias = weights(name)
        x = x @ kernel + bias
    result = model(inputs_as_form(BATCH, "padded"))
    # float32 against float64, for a probability.
    np.testing.assert_allclose(result, oracles.sigmoid(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["ragged", "sparse"])
@given(batch=batches())
def test_every_form_gives_the_probabilities_and_gradients_of_the_padded_one(form, batch):
    results = []
    for one in ("padded", form):
        model = model_of(one)
        with tf.GradientTape() as tape:
            probability = model(inputs_as_form(batch, one))
            loss = tf.reduce_sum(probability)
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([probability, *map(tf.convert_to_tensor, gradients)])
    for padded, other in zip(*results, strict=True):
        # Sums in float32, without the zeros of the padding and so in another order.
        np.testing.assert_allclose(padded, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("argument", ["form", "pooling"])
def test_an_unknown_name_is_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of .*Received: 'dense'"):
        build_multi_field_din(**{argument: "dense"})


def test_the_options_of_the_model_reach_it():
    options = {"batch_norm": False, "dropout": 0.5, "embedding_l2": 0.1, "hidden_l2": 0.1}
    model = build_multi_field_din(
        {"tag": (6, 4)}, hidden_units=(7,), activation="dice", attention_units=(3,), **options
    )
    kinds = [type(layer).__name__ for layer in model.layers]
    assert "BatchNormalization" not in kinds
    assert {"Dropout", "Dice"} <= set(kinds)
    assert len(model.losses) == 3  # two embeddings, one hidden layer
    assert model.get_layer("seq_tag_embedding").embeddings.shape == (7, 4)
    assert set(FORMS) == {"padded", "ragged", "sparse"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_small_slice(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--limit", "12", "--epochs", "1", "--history", "6", "--out", str(out)]
    assert multi_field_din.main(arguments) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert "user_tag                     (3, 16)" in printed
    for form in FORMS:
        assert f"\n{form} " in printed
    assert "attention (DIN) " in printed
    assert "largest difference 0\n" in printed
    assert {path.name for path in out.iterdir()} == set(multi_field_din.FILES)
    assert (out / "genres.png").read_bytes().startswith(b"\x89PNG")


def test_bad_data_ends_with_one_line(tmp_path, capsys):
    assert multi_field_din.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
