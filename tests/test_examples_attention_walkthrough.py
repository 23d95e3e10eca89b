"""The walk through the attention: its steps are right, and the layer takes the same ones."""

import attention_walkthrough
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

DIM, UNITS = 3, 5


@st.composite
def walks(draw):
    """Draw query, keys, lengths from 1 up, and the weights of the scoring network."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    lengths = np.array(draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    query, keys = rng.normal(size=(batch, DIM)), rng.normal(size=(batch, time, DIM))
    shapes = [(4 * DIM, UNITS), (UNITS,), (UNITS, 1), (1,)]
    return query, keys, lengths, [rng.normal(size=shape) for shape in shapes]


@given(walk=walks())
def test_the_steps_give_each_reader_what_the_valid_events_alone_give(walk):
    query, keys, lengths, weights = walk
    pooled = attention_walkthrough.attention_steps(*walk)["weighted sum of the keys"]
    for row, length in enumerate(lengths):
        scores = oracles.attention_scores(
            query[row, None],
            keys[row, :length],
            kernels=weights[0::2],
            biases=weights[1::2],
            activations=[oracles.sigmoid, lambda x: x],
            scale=True,
        )
        expected = oracles.attend(oracles.softmax(scores), keys[row, :length])[0]
        # Both in float64, with sums of at most six events in another order.
        np.testing.assert_allclose(pooled[row], expected, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_steps_of_dice(seed):
    rng = np.random.default_rng(seed)
    x, alpha = rng.normal(size=(7, 4)), rng.normal(size=4)
    *_, result = attention_walkthrough.dice_steps(x, alpha).values()
    expected = oracles.dice(x, x.mean(0), x.var(0), alpha, 1e-8)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)  # float64, the same formula


def test_the_layer_takes_the_same_steps():
    inputs = attention_walkthrough.readers(seed=3)
    model = attention_walkthrough.build_attention(seed=3)
    steps = attention_walkthrough.attention_steps(*inputs, model.get_weights())
    layer = attention_walkthrough.layer_steps(model, inputs)
    assert list(layer) == [
        "scores",
        "divided by the root of dim",
        "softmax",
        "weighted sum of the keys",
    ]
    off = attention_walkthrough.differences(steps, layer, steps["valid positions"])
    assert max(off.values()) <= attention_walkthrough.TOLERANCE

    # What would be seen if the layer forgot the scaling.
    unscaled = attention_walkthrough.build_attention(scale=False)
    unscaled.set_weights(model.get_weights())
    wrong = {"softmax": unscaled.predict_on_batch(list(inputs))[1]}
    off = attention_walkthrough.differences(steps, wrong, steps["valid positions"])
    assert off["softmax"] > 100 * attention_walkthrough.TOLERANCE


@pytest.mark.parametrize("difference", [1e-5, np.nan])
def test_a_layer_that_is_off_ends_the_walk(difference):
    with pytest.raises(RuntimeError, match="off by"):
        attention_walkthrough.print_steps({"scores": np.zeros(3)}, {"scores": difference})


def test_the_walk(tmp_path, capsys):
    out = tmp_path / "out"
    assert attention_walkthrough.main(["--out", str(out), "--seed", "5"]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    for line in (
        "queries, one for each key    (32, 20, 14)",
        "[q, k, q - k, q * k]         (32, 20, 56)",
        "hidden layer, sigmoid        (32, 20, 36)",
        "scores                       (32, 1, 20)",
        "softmax                      (32, 1, 20)",
        "weighted sum of the keys     (32, 14)",
    ):
        assert line in printed
    assert "The layer gives 0.0000" in printed
    assert [path.name for path in out.iterdir()] == ["steps.png"]
    assert (out / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_bad_arguments_end_with_one_line(capsys):
    assert attention_walkthrough.main(["--seed", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
