"""The laws of the package, for every sequence layer in every mode and every source of validity.

Tolerances: float32 sums of up to six products of numbers up to 4 (and an MLP of width 5) are exact
to about 1e-5 relative; the tests of equality under padding compare the same arithmetic in another
order, hence the same tolerance.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, SOURCES, attention, make
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import DIM, Batch, batches, garbage

import din_layers

CLOSE = {"rtol": 2e-5, "atol": 2e-5}

every_case = pytest.mark.parametrize("name", CASES)
every_source = pytest.mark.parametrize("source", SOURCES)


def drawn(data, case, source, shape=None):
    queries = case.queries or (2 if shape else None)
    return data.draw(batches(prefix=source.prefix, shape=shape, queries=queries), "batch")


def assert_rows_equal(actual, expected, **tolerance):
    for row, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(row, wanted, **{**CLOSE, **tolerance})


@every_source
@every_case
@given(data=st.data())
def test_a_row_is_the_float64_result_on_its_valid_events(name, source, data):
    """Laws 3, 4 and 7: the oracle knows the valid events only, whatever told which they are."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    output = source.call(case, layer, batch)
    assert_rows_equal(source.rows(case, output, batch), case.expected(layer, batch))


@every_source
@every_case
@given(data=st.data())
def test_adding_invalid_positions_changes_nothing(name, source, data):
    """Law 1."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    time = batch.valid.shape[1]
    assume(time > 0)
    # Each position may appear again anywhere, as an invalid one; lengths need them at the end.
    copies = data.draw(st.lists(st.integers(0, time - 1), max_size=4), "invalid copies")
    places = [time] * len(copies)
    if not source.prefix:
        places = [data.draw(st.integers(0, time)) for _ in copies]
    order, invalid = list(range(time)), []
    for place, copy in sorted(zip(places, copies, strict=True), reverse=True):
        order.insert(place, copy)
        invalid = [place, *(i + 1 for i in invalid)]
    padded = batch.with_time(order, invalid)
    assert_rows_equal(
        source.rows(case, source.call(case, layer, padded), padded),
        source.rows(case, source.call(case, layer, batch), batch),
    )


@every_source
@every_case
@given(data=st.data(), garbage=garbage())
def test_padding_is_inert(name, source, data, garbage):
    """Law 2: no output changes by one bit, and no gradient leaks to or from invalid positions."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    clean, clean_gradients = with_gradients(case, source, layer, batch)
    output, gradients = with_gradients(case, source, layer, batch.garbage_where_invalid(garbage))
    np.testing.assert_array_equal(output, clean)
    for role in ("sequence", "weights"):
        np.testing.assert_array_equal(gradients[role][~batch.valid], 0)
    for role, gradient in gradients.items():
        assert np.isfinite(gradient).all(), role
        np.testing.assert_array_equal(gradient, clean_gradients[role], role)


@every_source
@every_case
@given(data=st.data())
def test_gradients_are_those_of_the_valid_events_alone(name, source, data):
    """Laws 1 and 4, for the backward pass: each row alone, cut to its valid events."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    _, gradients = with_gradients(case, source, layer, batch)
    by_weight = 0.0
    for row, valid in enumerate(batch.valid):
        cut = batch.take([row]).with_time(np.flatnonzero(valid))
        _, alone = with_gradients(case, SOURCES["mask"], layer, cut)
        for role in ("sequence", "weights"):
            np.testing.assert_allclose(gradients[role][row, valid], alone[role][0], **CLOSE)
        np.testing.assert_allclose(gradients["query"][row], alone["query"][0], **CLOSE)
        by_weight = by_weight + alone["layer"]
    np.testing.assert_allclose(gradients["layer"], by_weight, rtol=1e-4, atol=1e-4)


def with_gradients(case, source, layer, batch):
    """Return the output and, by role, the gradients of a loss that weights every output."""
    roles = {key: tf.constant(getattr(batch, key)) for key in ("sequence", "weights", "query")}
    weights = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch([roles, weights])
        output = source.call(case, layer, dataclasses.replace(batch, **roles))
        flat = tf.cast(
            output.flat_values if source.ragged and case.keeps_time else output, "float64"
        )
        # Another weight for each channel: a sum of all outputs would hide errors that cancel.
        loss = tf.reduce_sum(flat * np.linspace(1, 2, DIM))
    gradients = tape.gradient(loss, [roles, weights], unconnected_gradients="zero")
    by_role = {key: tf.convert_to_tensor(value).numpy() for key, value in gradients[0].items()}
    by_role["layer"] = np.concatenate([np.ravel(g) for g in gradients[1]] or [np.zeros(1)])
    return tf.convert_to_tensor(flat).numpy(), by_role


@every_source
@every_case
@given(data=st.data())
def test_an_empty_history_gives_zeros_and_finite_gradients(name, source, data):
    """Law 3: zeros, not NaN, not -1e9, not the padding's embedding."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    empty = dataclasses.replace(batch, valid=np.zeros_like(batch.valid))
    output, gradients = with_gradients(case, source, layer, empty)
    np.testing.assert_array_equal(output, 0)
    for role, gradient in gradients.items():
        assert np.isfinite(gradient).all(), role


@every_source
@every_case
@given(data=st.data(), garbage=garbage())
def test_a_row_does_not_depend_on_the_other_rows(name, source, data, garbage):
    """Law 5: neither on their values, be they NaN, nor on their being there."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    row = data.draw(st.integers(0, len(batch.valid) - 1), "row")
    others = np.arange(len(batch.valid)) != row
    spoilt = dataclasses.replace(
        batch, sequence=batch.sequence.copy(), weights=batch.weights.copy()
    )
    spoilt.sequence[others] = spoilt.weights[others] = garbage
    (alone,) = source.rows(case, source.call(case, layer, batch.take([row])), batch.take([row]))
    for neighbours in (batch, spoilt):
        output = source.call(case, layer, neighbours)
        np.testing.assert_allclose(output_row(case, source, output, batch, row), alone, **CLOSE)


def output_row(case, source, output, batch, row):
    if not case.keeps_time or source.ragged:
        return np.asarray(output[row])
    return np.asarray(output[row])[batch.valid[row]]


@every_source
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.ordered])
@given(data=st.data())
def test_the_order_of_positions_does_not_matter(name, source, data):
    """Law 6: pooling ignores it, weighting commutes with it."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    order = data.draw(st.permutations(range(batch.valid.shape[1])), "order")
    if source.prefix:  # lengths can follow a permutation of the valid positions only
        batch = dataclasses.replace(batch, valid=np.ones_like(batch.valid))
    shuffled = batch.with_time(list(order))
    before = source.rows(case, source.call(case, layer, batch), batch)
    after = source.rows(case, source.call(case, layer, shuffled), shuffled)
    if case.keeps_time:
        # Where the position that comes to `i` had been among the valid ones of its row.
        ranks = np.cumsum(batch.valid, axis=1) - 1
        moved = ranks[:, list(order)]
        before = [
            row[ranks_of[ok]]
            for row, ranks_of, ok in zip(before, moved, shuffled.valid, strict=True)
        ]
    assert_rows_equal(after, before)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.kind == "attend" and not case.queries]
)
@given(data=st.data())
def test_many_queries_are_as_many_calls(name, data):
    """`Q` candidates against one history equal `Q` separate calls."""
    case, source, layer = make(name, "mask")
    batch = drawn(data, case, source)
    output = np.asarray(source.call(case, layer, batch))
    for i in range(batch.query.shape[1]):
        single = dataclasses.replace(batch, query=batch.query[:, i : i + 1])
        np.testing.assert_allclose(output[:, i : i + 1], source.call(case, layer, single), **CLOSE)


# One unit in the last place is 1e-3 in float16 and 8e-3 in bfloat16; scores pass three layers
# and an exponential before they weight values up to 4.
DTYPES = {
    "float32": CLOSE,
    "float64": {"rtol": 1e-9, "atol": 1e-9},
    "mixed_float16": {"rtol": 3e-2, "atol": 3e-2},
    "mixed_bfloat16": {"rtol": 2e-1, "atol": 2e-1},
}
FIXED = (4, 5)  # one shape, so that each graph is traced and compiled once


# XLA knows no ragged tensors, and compiling takes seconds: lengths in one precision only.
MODES = [
    *itertools.product(("eager", "graph"), ("mask", "lengths", "ragged"), DTYPES),
    *itertools.product(("xla",), ("mask",), DTYPES),
    ("xla", "lengths", "float32"),
]
CASES_IN_MODES = [
    (name, *mode)
    for name, mode in itertools.product(CASES, MODES)
    # A layer that skips padding tells `fit` to take a plain graph.
    if mode[0] != "xla" or not CASES[name].config.get("skip_padding")
]


@pytest.mark.parametrize(("name", "mode", "source", "dtype"), CASES_IN_MODES)
def test_the_laws_hold_in_every_precision_and_mode(name, mode, source, dtype):
    """Laws 2, 3, 4 eagerly, in a plain graph and under XLA, in all precisions, with gradients."""
    case, source, layer = make(name, source, dtype)
    step = compiled(case, source, layer, mode)
    policy = keras.dtype_policies.get(dtype)

    # A few: what precision and compilation can break does not hide in rare shapes.
    @settings(max_examples=max(4, settings().max_examples // 10))
    @given(data=st.data(), garbage=garbage())
    def check(data, garbage):
        batch = in_precision(drawn(data, case, source, FIXED), policy.compute_dtype)
        output, gradients = step(batch.garbage_where_invalid(garbage))
        assert output.dtype == policy.compute_dtype
        tolerance = DTYPES[dtype]
        assert_rows_equal(
            source.rows(case, output, batch), case.expected(layer, batch), **tolerance
        )
        for gradient in gradients:
            assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradients[0][~batch.valid], 0)

    check()


def compiled(case, source, layer, mode):
    """Return a function from a batch to its output and gradients, eager, traced or compiled."""

    def step(sequence, valid, weights, query):
        batch = Batch(sequence, valid, weights, query)
        trainable = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch([sequence, trainable])
            output = source.call(case, layer, batch)
            values = output.values if source.ragged and case.keeps_time else output
            loss = tf.reduce_sum(tf.cast(values, "float32"))
        return output, tape.gradient(loss, [sequence, *trainable], unconnected_gradients="zero")

    function = (
        tf.function(step, autograph=False, jit_compile=mode == "xla") if mode != "eager" else step
    )

    def run(batch):
        output, gradients = function(*map(tf.constant, batch.parts))
        return output, [tf.convert_to_tensor(g).numpy() for g in gradients]

    return run


def in_precision(batch, dtype):
    """Round a batch to what the layer will see, so that the oracle sees the same."""
    rounded = {
        key: tf.cast(tf.cast(getattr(batch, key), dtype), "float32").numpy()
        for key in ("sequence", "weights", "query")
    }
    return dataclasses.replace(batch, **rounded)


@every_source
@every_case
@given(data=st.data())
def test_symbolic_outputs_match_real_ones(name, source, data):
    """Law 8, with every axis that may be unknown unknown."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    inputs, mask = source.inputs(case, batch)
    symbolic, symbolic_mask = keras.tree.map_structure(as_symbolic, (inputs, mask))
    expected = layer(symbolic, mask=symbolic_mask)
    output = layer(inputs, mask=mask)
    assert output.dtype == expected.dtype
    assert (hasattr(output, "row_splits")) == expected.ragged
    assert len(output.shape) == len(expected.shape)
    for size, wanted in zip(output.shape, expected.shape, strict=True):
        assert wanted in (None, size)
    assert expected.shape[-1] == DIM


def as_symbolic(x):
    if x is None:
        return None
    shape = [None if axis < 2 and size != 1 else size for axis, size in enumerate(x.shape)]
    return keras.KerasTensor(shape, x.dtype, ragged=hasattr(x, "row_splits"))


@pytest.mark.parametrize("source", ["mask", "ids", "lengths"])
@given(data=st.data())
def test_skipping_the_padding_changes_nothing(source, data):
    """The two paths through attention agree, also in the batch statistics of training."""
    dice = din_layers.Dice(epsilon=1e-2)
    _, source, _ = make("attend", source)
    batch = data.draw(batches(prefix=source.prefix), "batch")
    results = []
    for skip in (False, True):
        layer = attention(att_activation=dice, skip_padding=skip).make()
        output = source.call(CASES["attend"], layer, batch, training=True)
        results.append([output, *layer.get_weights()])
    for skipped, padded in zip(*results, strict=True):
        np.testing.assert_allclose(skipped, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["mask", "lengths", "ragged"])
@every_case
def test_an_overflowing_number_of_steps_is_still_a_length(name, source):
    """Lengths above `time` count as `time`, below 0 as 0, in any integer type."""
    case, source, layer = make(name, source)
    batch = Batch(
        sequence=np.arange(2 * 4 * DIM, dtype="float32").reshape(2, 4, DIM) / 9,
        valid=np.array([[True] * 4, [False] * 4]),
        weights=np.ones((2, 4), "float32"),
        query=np.ones((2, 1, DIM), "float32"),
    )
    expected = source.rows(case, source.call(case, layer, batch), batch)
    for lengths in (np.array([2**62, -(2**62)]), np.array([127, -128], "int8")):
        output = source.call(case, layer, batch, companions=[tf.constant(lengths)])
        assert_rows_equal(source.rows(case, output, batch), expected)
