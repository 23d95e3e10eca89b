"""docs/contract.md, for every sequence layer in every mode and every way to tell valid positions.

What masking promises is checked by the package's own kit, `din_layers.testing`.

Tolerances: float32 sums of up to six products of numbers up to 4 (and an MLP of width 5) are exact
to about 1e-5 relative; the tests of equality under padding compare the same arithmetic in another
order, hence the same tolerance.
"""

import dataclasses
import functools
import itertools
import warnings

import keras
import numpy as np
import pytest
from helpers.backend import BACKEND, needs_tensorflow, recording
from helpers.layers import (
    CASES,
    FAMILIES,
    POOLING_MODES,
    Attention,
    Nested,
    Pooling,
    Weighting,
    cases_of,
    layer_of,
)
from helpers.sources import CHANNELS, SOURCES, as_function, make, pairs
from helpers.strategies import DIM, SIZES, Batch, batches
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import din_layers
from din_layers.testing import check_masking, garbage
from din_layers.testing._gradients import differentiate, to_numpy
from din_layers.testing._subject import symbolic_mismatch

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def every_pair(sources=SOURCES):
    """Parametrize by cases and sources, as `pairs` chooses them."""
    return pytest.mark.parametrize(("name", "source"), pairs(itertools.product(CASES, sources)))


def every_layer(sources):
    """Parametrize by one case of each family and source, for what comes before a mode is asked."""
    firsts = [next(iter(family)) for family in FAMILIES]
    return pytest.mark.parametrize(("name", "source"), [*itertools.product(firsts, sources)])


def drawn(data, case, source, shape=None):
    queries = case.queries or (2 if shape else None)
    return data.draw(batches(prefix=source.prefix, shape=shape, queries=queries), "batch")


def assert_rows_equal(actual, expected, **tolerance):
    for row, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(row, wanted, **{**CLOSE, **tolerance})


@every_pair()
@given(data=st.data())
def test_a_row_is_the_float64_result_on_its_valid_events(name, source, data):
    """The oracle knows the valid events only, whatever told which they are."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    output = source.call(case, layer, batch)
    assert_rows_equal(source.rows(case, output, batch), case.expected(layer, batch))


def invariants_under(name, source):
    """Return what is not the same as under a mask, or follows from it.

    Outputs are those of the valid events under every source, by the test above, and gradients those
    under a mask, by the test below. What stands at padding is told by neither. Ragged events are
    stored in another way. AUGRU reads its sources as all do, and takes long.
    """
    if source in ("mask", "ragged"):
        return CASES[name].invariants
    return [] if CASES[name].ordered else ["padding_is_inert"]


# What differs from the first of its family in the numbers of a score alone, or is the same function
# of the events of tags as of those of a history: plain pytest compares its results only.
ALIKE = {"attend_scaled", "attend_dice", "attend_linear", *cases_of(Nested)[1:]}


@pytest.mark.parametrize(
    ("name", "source", "invariant"),
    pairs(
        (
            (name, source, invariant)
            for name, source in itertools.product(CASES, SOURCES)
            for invariant in invariants_under(name, source)
        ),
        slow=ALIKE,
    ),
)
def test_the_invariants_of_masking(name, source, invariant):
    """With any time from 0 on, for output and gradients."""
    case, source, layer = make(name, source)
    check_masking(
        as_function(case, source, layer),
        dim=CHANNELS,
        **SIZES,
        padding=source.padding,
        invariants=[invariant],
        max_examples=settings().max_examples,
    )


@every_pair([source for source in SOURCES if source != "mask"])
@given(data=st.data())
def test_sources_agree_on_gradients(name, source, data):
    """For the output the float64 result above is the judge."""
    case, source, _ = make(name, source)
    batch = drawn(data, case, source)
    channels = np.concatenate([batch.sequence, batch.weights[..., None] - 4], axis=-1)
    counted = batch.valid if case.keeps_time else np.ones(len(batch.valid), bool)
    valid = ops.convert_to_tensor(batch.valid)
    results = []
    for way in (source, SOURCES["mask"]):
        # The same variables under both sources, and the same query.
        apply = as_function(case, way, layer_of(name, hist_mask_value=way.hist_mask_value))
        _, (of_channels,), of_weights = differentiate(
            lambda x, apply=apply: apply(x, valid), [channels], counted
        )
        results.append([of_channels, *of_weights])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in cases_of(Attention) if not CASES[name].queries])
@given(data=st.data())
def test_many_queries_are_as_many_calls(name, data):
    """`Q` candidates against one history equal `Q` separate calls."""
    case, source, layer = make(name, "mask")
    batch = drawn(data, case, source)
    output = to_numpy(source.call(case, layer, batch))
    for i in range(batch.query.shape[1]):
        single = dataclasses.replace(batch, query=batch.query[:, i : i + 1])
        alone = to_numpy(source.call(case, layer, single))
        np.testing.assert_allclose(output[:, i : i + 1], alone, **CLOSE)


# One unit in the last place is 1e-3 in float16 and 8e-3 in bfloat16; scores pass three layers
# and an exponential before they weight values up to 4.
DTYPES = {
    "float32": CLOSE,
    "float64": {"rtol": 1e-9, "atol": 1e-9},
    "mixed_float16": {"rtol": 3e-2, "atol": 3e-2},
    "mixed_bfloat16": {"rtol": 2e-1, "atol": 2e-1},
}
if BACKEND == "torch":  # where Keras 3.15 multiplies matrices of float64 in float32
    DTYPES["float64"] = CLOSE
FIXED = (4, 5)  # one shape, so that each graph is traced and compiled once


# How each backend computes, from which source, in which precisions. Ragged events have operations
# of their own; lengths become a mask before any number is computed.
ALL, ONE = list(DTYPES), ["float32"]
HALF = ["float32", "mixed_float16", "mixed_bfloat16"]  # JAX has no float64 unless it is asked for
MODES = {
    "tensorflow": [
        *(("eager", "mask", ALL), ("eager", "ragged", ALL), ("eager", "lengths", ONE)),
        *(("graph", "mask", ALL), ("graph", "ragged", ALL), ("graph", "lengths", ONE)),
        *(("compiled", "mask", ALL), ("compiled", "lengths", ONE)),  # XLA knows no ragged tensors
    ],
    "jax": [("eager", "mask", ONE), ("compiled", "mask", HALF), ("compiled", "lengths", ONE)],
    "torch": [("eager", "mask", ALL), ("eager", "lengths", ONE)],
}[BACKEND]
CASES_IN_MODES = [
    (name, mode, source, dtype)
    for name, (mode, source, dtypes) in itertools.product(CASES, MODES)
    for dtype in dtypes
    if name not in ALIKE or name == "attend_dice"  # whose statistics have a precision of their own
    # A layer that skips padding tells `fit` to take a plain graph.
    if not (CASES[name].skips_padding and BACKEND == "tensorflow" and mode == "compiled")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode", "source", "dtype"), CASES_IN_MODES)
def test_the_contract_holds_in_every_precision_and_mode(name, mode, source, dtype):
    """Eagerly, in a plain graph and compiled, in all precisions, with gradients."""
    check_in_mode(name, mode, source, dtype)


@pytest.mark.parametrize("name", [next(iter(family)) for family in FAMILIES])
def test_the_contract_holds_compiled_and_in_half_precision(name):
    """One of each layer, where most can go wrong."""
    check_in_mode(name, "eager" if BACKEND == "torch" else "compiled", "mask", "mixed_float16")


def check_in_mode(name, mode, source, dtype):
    case, source, layer = make(name, source, dtype)
    policy = keras.dtype_policies.get(dtype)
    call = compiled(lambda *parts: source.call(case, layer, Batch(*parts)), mode)
    # A few: what precision and compilation can break does not hide in rare shapes.
    most = settings().max_examples
    few = min(most, max(4, most // 10))

    @settings(max_examples=few)
    @given(data=st.data(), garbage=garbage())
    def check_result(data, garbage):
        batch = in_precision(drawn(data, case, source, FIXED), policy.compute_dtype)
        output = call(*map(ops.convert_to_tensor, batch.garbage_where_invalid(garbage).parts))
        assert keras.backend.standardize_dtype(output.dtype) == policy.compute_dtype
        expected = case.expected(layer, batch)
        assert_rows_equal(source.rows(case, output, batch), expected, **DTYPES[dtype])

    check_result()
    if BACKEND == "tensorflow" and mode == "compiled" and case.ordered:
        return  # the gradient of a loop must be taken inside what XLA compiles: see test_augru
    batch, time = FIXED
    check_masking(
        compiled(as_function(case, source, layer), mode),
        dim=CHANNELS,
        min_batch=batch,
        max_batch=batch,
        min_time=time,
        max_time=time,
        padding=source.padding,
        invariants=["padding_is_inert", "finite_gradients"],
        max_examples=few,
    )


@pytest.mark.skipif(BACKEND == "jax", reason="has no float64 unless the whole process asks for it")
@pytest.mark.parametrize("name", cases_of(Pooling, Weighting))
def test_float64_is_float64(name):
    """On PyTorch, Keras computes some operations in float32: those of the attention's MLP too."""
    case, source, layer = make(name, "lengths", "float64")
    batch = Batch(
        sequence=np.array([[[0.1], [1e100], [-0.7]], [[0.1], [0.2], [0.7]]]),
        valid=np.array([[True, True, False], [True] * 3]),
        weights=np.array([[1e100, 2e100, 0], [0.1, 0.2, 0.3]]),
        query=np.ones((2, 1, 1)),
    )
    rows = source.rows(case, source.call(case, layer, batch), batch)
    for row, expected in zip(rows, case.expected(layer, batch), strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_no_rows_give_no_rows(mode):
    assert din_layers.SequencePoolingLayer(mode)(np.ones((0, 3, 2), "float32")).shape == (0, 1, 2)


@pytest.mark.skipif(BACKEND != "torch", reason="where Keras builds a model on meta tensors")
@pytest.mark.parametrize("name", CASES)
def test_a_fresh_subclassed_model_is_built_without_a_warning(name):
    """A layer that cannot be traced makes Keras warn twice."""
    case, source, _ = make(name, "mask")

    class Fresh(keras.Model):
        def __init__(self):
            super().__init__()
            self.films = keras.layers.Embedding(5, DIM)
            self.layer, self.click = case.layer(**case.config), keras.layers.Dense(1)

        def call(self, inputs):
            batch = Batch(self.films(inputs["ids"]), **inputs["rest"])
            output = source.call(case, self.layer, batch)
            return self.click(ops.max(output, axis=list(range(1, len(output.shape) - 1))))

    ids = np.array([[1, 0, 4], [0, 0, 0]])
    query, weights = np.ones((2, 1, DIM), "float32"), np.ones((2, 3), "float32")
    rest = {"valid": ids != 0, "weights": weights, "query": query}
    model = Fresh()
    model.compile("sgd", "mse")
    with recording(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit({"ids": ids, "rest": rest}, np.ones((2, 1)), verbose=0)
    assert [str(warning.message) for warning in caught] == []


def compiled(function, mode):
    """Return a function as it is, traced to a plain graph, or compiled."""
    if mode == "eager":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False, jit_compile=mode == "compiled")


def in_precision(batch, dtype):
    """Round a batch to what the layer will see, so that the oracle sees the same."""
    rounded = {
        key: to_numpy(ops.cast(ops.cast(getattr(batch, key), dtype), "float32"))
        for key in ("sequence", "weights", "query")
    }
    return dataclasses.replace(batch, **rounded)


@every_pair()
@given(data=st.data())
def test_symbolic_outputs_match_real_ones(name, source, data):
    """With every axis that may be unknown unknown."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source)
    inputs, keywords = source.inputs(case, batch)
    symbolic, symbolic_keywords = keras.tree.map_structure(as_symbolic, (inputs, keywords))
    expected = layer(symbolic, **symbolic_keywords)
    output = layer(inputs, **keywords)
    assert symbolic_mismatch(expected, output) is None
    assert (hasattr(output, "row_splits")) == expected.ragged
    assert expected.shape[-1] == DIM


def as_symbolic(x):
    free = max(2, len(x.shape) - 1)
    shape = [None if axis < free and size != 1 else size for axis, size in enumerate(x.shape)]
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.KerasTensor(shape, dtype, ragged=hasattr(x, "row_splits"))


@functools.cache
def without_sizes(name, source):
    """Return a case as a graph that knows neither batch nor time."""
    import tensorflow as tf

    case, source, layer = make(name, source)

    @tf.function
    def graph(inputs, keywords):
        return layer(inputs, **keywords)

    def spec(x):
        if len(x.shape) < 3 or not x.dtype.is_floating:
            return tf.TensorSpec([None] * len(x.shape), x.dtype)
        queries_or_time = 1 if x.shape[1] == case.queries else None
        return tf.TensorSpec((None, queries_or_time, *[None] * (len(x.shape) - 3), DIM), x.dtype)

    def call(batch):
        given = source.inputs(case, batch)
        return graph.get_concrete_function(*keras.tree.map_structure(spec, given))(*given)

    return call


@needs_tensorflow
@every_pair(["mask", "ids", "lengths", "column_lengths", "all"])
@given(data=st.data())
def test_a_graph_that_knows_no_size_gives_what_eager_gives(name, source, data):
    """Where no shape tells what an input is, its name does."""
    case, kind, layer = make(name, source)
    batch = drawn(data, case, kind)
    output = case.unnest(without_sizes(name, source)(batch))
    np.testing.assert_allclose(output, kind.call(case, layer, batch), rtol=1e-5, atol=1e-5)


@every_layer(["mask", "ids", "ragged"])
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
    widest = np.int32 if BACKEND == "jax" else np.int64  # JAX has no 64 bits
    for lengths in (
        np.array([1, -1], widest) * (np.iinfo(widest).max // 2),
        np.array([127, -128], "int8"),
    ):
        output = source.call(case, layer, batch, lengths=ops.convert_to_tensor(lengths))
        assert_rows_equal(source.rows(case, output, batch), expected)


@every_layer(["mask", "string_ids", "lengths", "all"])
@given(data=st.data())
def test_lists_and_dicts_are_the_keywords(name, source, data):
    """What versions before 0.4 took, `[query, keys, history_ids]`, and the dict of today."""
    case, source, layer = make(name, source)
    batch = drawn(data, case, source, FIXED)
    inputs, keywords = source.inputs(case, batch)
    expected = to_numpy(layer(inputs, **keywords))
    inputs = inputs if isinstance(inputs, list) else [inputs]
    masks = {"mask": keywords.pop("mask")} if "mask" in keywords else {}
    named = {**keywords, **dict(zip(layer.input_names.required, inputs, strict=True))}
    place = case.list_place
    np.testing.assert_array_equal(layer(named, **masks), expected)
    np.testing.assert_array_equal(layer(**named, **masks), expected)
    if masks:  # by name, or one for each of what every call has
        by_name = {layer.input_names.sequence: masks["mask"]}
        each = [by_name.get(key) for key in layer.input_names.required]
        np.testing.assert_array_equal(layer(**named, mask=by_name), expected)
        np.testing.assert_array_equal(layer(**named, mask=each), expected)
    if place is None:
        return
    companions = [keywords[key] for key in ("ids", "lengths") if key in keywords]
    listed = [*inputs[:place], *companions, *inputs[place:]]
    np.testing.assert_array_equal(layer(listed, **masks), expected)
    if masks:  # a list of one mask for each input
        each = [masks["mask"] if i == place - 1 else None for i in range(len(listed))]
        np.testing.assert_array_equal(layer(listed, mask=each), expected)
