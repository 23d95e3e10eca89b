"""The kit rejects broken layers, each by the invariant that it breaks, and accepts right ones."""

import contextlib
import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.backend import BACKEND, needs_tensorflow
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import din_layers
from din_layers import testing
from din_layers.testing import (
    INVARIANTS,
    MaskingError,
    RoundTripError,
    check_ids,
    check_masking,
    check_round_trip,
)
from din_layers.testing.__main__ import main

DIM = 4
DENSE = keras.layers.Dense(1)
DENSE.build((None, DIM))


@contextlib.contextmanager
def weights_kept(*layers):
    """Check that layers or models have the weights of before."""
    before = [layer.get_weights() for layer in layers]
    yield
    after = [layer.get_weights() for layer in layers]
    for weight, kept in zip(itertools.chain(*after), itertools.chain(*before), strict=True):
        np.testing.assert_array_equal(weight, kept)


def column(mask):
    return ops.expand_dims(mask, -1)


def as_floats(mask):
    return ops.cast(column(mask), "float32")


def events(sequence, mask):
    return ops.where(column(mask), sequence, 0.0)


def right_sum(sequence, mask):
    return ops.sum(events(sequence, mask), axis=1)


def right_maximum(sequence, mask):
    largest = ops.max(ops.where(column(mask), sequence, -float("inf")), axis=1)
    return ops.where(ops.any(column(mask), axis=1), largest, 0.0)


def multiplied(sequence, mask):
    return ops.sum(sequence * as_floats(mask), axis=1)


def late_where(sequence, mask):
    # The output is right, the gradient of the kernel is 0 * NaN.
    return right_sum(DENSE(sequence), mask)


def mean_over_time(sequence, mask):
    return ops.mean(events(sequence, mask), axis=1)


def uniform_softmax(sequence, mask):
    scores = ops.where(mask, ops.sum(sequence, -1), -1e9)
    unnormalised = ops.exp(scores - ops.max(scores, axis=1, keepdims=True))
    weights = column(unnormalised / ops.sum(unnormalised, axis=1, keepdims=True))
    return ops.sum(ops.where(weights > 0, sequence, 0.0) * weights, axis=1)


def sentinel_maximum(sequence, mask):
    return ops.max(ops.where(column(mask), sequence, -1e9), axis=1)


def batch_statistics(sequence, mask):
    return right_sum(sequence, mask) - ops.mean(events(sequence, mask), axis=(0, 1))


def added_sentinel(sequence, mask):
    shifted = events(sequence, mask) - 1e9 * (1 - as_floats(mask))
    return ops.where(ops.any(column(mask), axis=1), ops.max(shifted, axis=1), 0.0)


def last_event(sequence, mask):
    positions = ops.cumsum(ops.ones_like(mask, dtype="int32"), axis=1)
    last = ops.max(ops.where(mask, positions, 0), axis=1, keepdims=True)
    return right_sum(events(sequence, mask), positions == last)


def ungraded(sequence, mask):
    """A root of 0, which has no gradient."""
    x = events(sequence, mask)
    return ops.sum(x + ops.sqrt(x - x), axis=1)


def other_dtype(sequence, mask):
    summed = right_sum(sequence, mask)
    return summed if isinstance(summed, keras.KerasTensor) else ops.cast(summed, "float16")


def leaking(sequence, mask, where):
    """Right numbers, but a gradient for padding where its values are `where`."""
    x = ops.where(column(mask) | ~where(sequence), 0.0, sequence)
    leak = ops.sum(x * 2.0, axis=1)
    return right_sum(sequence, mask) + leak - ops.stop_gradient(leak)


def leaking_to_zeros(sequence, mask):
    return leaking(sequence, mask, lambda x: x == 0)


def leaking_to_ordinary_numbers(sequence, mask):
    return leaking(sequence, mask, lambda x: (x != 0) & (ops.abs(x) <= 1))


def long_mean(sequence, mask):
    """Counts padding from 40 positions on."""
    return (right_sum if mask.shape[1] < 40 else mean_over_time)(sequence, mask)


def long_window(sequence, mask):
    return right_sum(sequence[:, -40:], mask[:, -40:])


def long_leak(sequence, mask):
    return (right_sum if mask.shape[1] < 40 else multiplied)(sequence, mask)


def inverted(sequence, mask):
    return right_sum(sequence, ~mask)


BROKEN = [
    (mean_over_time, "padding_invariance"),
    (long_mean, "padding_invariance"),
    (long_window, "padding_invariance"),
    (multiplied, "padding_is_inert"),
    (leaking_to_zeros, "padding_is_inert"),
    (leaking_to_ordinary_numbers, "padding_is_inert"),
    (long_leak, "padding_is_inert"),
    (inverted, "padding_is_inert"),
    (late_where, "finite_gradients"),
    (ungraded, "finite_gradients"),
    (sentinel_maximum, "empty_history"),
    (uniform_softmax, "empty_history"),
    (batch_statistics, "batch_independence"),
    (added_sentinel, "extreme_values"),
    (last_event, "permutation_invariance"),
    (other_dtype, "dtype_and_shape"),
]


def test_every_invariant_has_a_broken_layer():
    assert {invariant for _, invariant in BROKEN} == set(INVARIANTS)


@pytest.mark.parametrize(("broken", "invariant"), BROKEN)
def test_an_invariant_rejects_a_broken_layer(broken, invariant):
    few_sizes = {"max_examples": 100} if BACKEND == "jax" else {}
    with pytest.raises(MaskingError, match=f"^{invariant}: ") as caught:
        check_masking(broken, invariants=[invariant], **few_sizes)
    assert caught.value.invariant == invariant


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("window", [slice(None, 40), slice(-40, None)])
def test_a_window_is_found_where_events_may_stand_outside(padding, window):
    def apply(sequence, mask):
        return right_sum(sequence[:, window], mask[:, window])

    # Events at the end that the window keeps are all there.
    if (padding == "right") == (window.start is None):
        check_masking(apply, padding=padding)
    else:
        with pytest.raises(MaskingError, match="padding_invariance"):
            check_masking(apply, padding=padding)
    check_masking(apply, max_time=6)  # a function that takes no more


def test_nan_meets_a_row_with_events_for_certain():
    """With one example, Hypothesis tries the simplest batch alone, an empty row."""

    def apply(sequence, mask):
        summed, dirty = right_sum(sequence, mask), multiplied(sequence, mask)
        return ops.where(ops.any(column(mask), axis=1) & ops.isnan(dirty), dirty, summed)

    with pytest.raises(MaskingError, match="padding_is_inert: nan at invalid positions changes"):
        check_masking(apply, invariants=["padding_is_inert"], max_examples=1)


@pytest.mark.parametrize("right", [right_sum, right_maximum, events])
def test_right_layers_are_accepted(right):
    """The last one has a time axis, and is compared at valid positions."""
    check_masking(right, invariants=INVARIANTS)


def run_again(report, apply):
    """Run the code that a report ends with; return what it prints."""
    printed = []
    names = {"np": np, "testing": testing, "apply": apply, "print": printed.append}
    exec(report.split("Reproduce with")[1], names)
    return printed


def test_the_report_has_a_small_batch_both_outputs_and_code_that_shows_it():
    with pytest.raises(MaskingError) as caught:
        check_masking(multiplied, invariants=["padding_is_inert"])
    text = str(caught.value)
    for part in ("mask = [[False]]  # bool (1, 1)", "expected = ", "actual = "):
        assert part in text
    printed = run_again(text, lambda *inputs: multiplied(*map(ops.convert_to_tensor, inputs)))
    clean, spoilt = map(ops.convert_to_numpy, printed)
    assert np.isfinite(clean).all()
    assert not np.isfinite(spoilt).all()


def test_the_report_shows_the_gradient_and_code_that_shows_it_again():
    with pytest.raises(MaskingError) as caught:
        check_masking(late_where, invariants=["padding_is_inert"])
    text = str(caught.value)
    assert "actual gradient = [[nan]," in text
    (clean, _), (spoilt, _) = (of_weights for _, of_weights in run_again(text, late_where))
    assert np.isfinite(clean).all()
    assert np.isnan(spoilt).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6])
def test_a_thousandth_too_much_is_found_however_small_the_outputs(scale):
    def right(sequence, mask):
        return right_sum(sequence, mask) * scale

    def wrong(sequence, mask):  # by a thousandth for each position, padding too
        return right(sequence, mask) * (1 + 0.001 * ops.shape(sequence)[1])

    check_masking(right)
    with pytest.raises(MaskingError, match="padding_invariance"):
        check_masking(wrong, invariants=["padding_invariance"])
    with pytest.raises(MaskingError, match=r"padding_invariance: .* gradient"):
        # The output is right, its gradient is not.
        check_masking(
            lambda s, m: wrong(s, m) + ops.stop_gradient(right(s, m) - wrong(s, m)),
            invariants=["padding_invariance"],
        )


def test_what_cancels_is_no_difference():
    """The gradients of these scores are sums that are 0 but for rounding."""
    scores = keras.layers.Dense(1)
    scores.build((None, DIM))

    def apply(sequence, mask):
        clean = events(sequence, mask)
        exp = ops.where(column(mask), ops.exp(scores(clean)), 0.0)
        shares = exp / ops.maximum(ops.sum(exp, axis=1, keepdims=True), 1e-9)
        return ops.sum(shares, axis=1) + ops.sum(clean, axis=1)  # the shares sum up to 1

    check_masking(apply, invariants=["padding_invariance", "padding_is_inert"])


def one_where_empty(sequence, mask):
    return ops.where(ops.any(column(mask), axis=1), right_sum(sequence, mask), 1.0)


def test_an_empty_history_is_finite_or_zeros_as_asked():
    check_masking(one_where_empty, invariants=["empty_history"])
    for right in (right_sum, events):
        check_masking(right, invariants=["empty_history"], empty="zeros")
    with pytest.raises(MaskingError, match="empty_history: the output of an empty row is not 0"):
        check_masking(one_where_empty, invariants=["empty_history"], empty="zeros")


def through_numpy(sequence, mask):
    return ops.convert_to_tensor(ops.convert_to_numpy(right_sum(sequence, mask)))


def stopped(sequence, mask):
    return ops.stop_gradient(right_sum(sequence, mask))


def test_weights_after_the_padding_was_cleaned_are_right_and_left_alone():
    dense = keras.layers.Dense(3)
    dense.build((None, DIM))
    with weights_kept(dense):
        check_masking(lambda sequence, mask: dense(events(sequence, mask)))


def test_fixed_sizes():
    pool = keras.layers.Dense(2)

    def apply(sequence, mask):
        assert sequence.shape == (3, 5, DIM)
        return pool(ops.reshape(events(sequence, mask), (3, 5 * DIM)))

    sizes = {"min_batch": 3, "max_batch": 3, "min_time": 5, "max_time": 5}
    check_masking(apply, invariants=["padding_is_inert", "batch_independence"], **sizes)
    with pytest.raises(MaskingError, match="padding_invariance"):
        check_masking(apply, **sizes)


def noisy(sequence, mask):
    return sequence + keras.random.normal(ops.shape(sequence))


NO_GRADIENT = "`apply` must (have|return a tensor with a) gradient"


@pytest.mark.parametrize(
    ("apply", "options", "error", "text"),
    [
        (3, {}, TypeError, "`apply` must be callable"),
        (lambda s, m: [s], {}, TypeError, "`apply` must return one tensor. Received: returned='li"),
        (lambda s, m: m, {}, TypeError, "`apply` must return floats"),
        (lambda s, m: s[:1], {}, ValueError, "`apply` must return a tensor with the batch first"),
        (lambda s, m: ops.sum(s), {}, ValueError, "with the batch first. Received: batch=4"),
        (noisy, {}, ValueError, "`apply` must return the same for the same input"),
        (through_numpy, {}, TypeError, NO_GRADIENT),
        (stopped, {}, TypeError, NO_GRADIENT),
        (right_sum, {"invariants": ["unknown"]}, ValueError, "`invariants` must be among .*'unk"),
        (right_sum, {"invariants": []}, ValueError, "`invariants` must name at least one"),
        (right_sum, {"invariants": "empty_history"}, TypeError, "`invariants` must be a list of n"),
        (right_sum, {"dim": 0}, ValueError, "`dim` must be at least 1"),
        (right_sum, {"max_time": 0}, ValueError, "`max_time` must be at least 1"),
        (right_sum, {"min_time": 7, "max_time": 6}, ValueError, "`min_time` must be at most `max"),
        (right_sum, {"padding": "both"}, ValueError, "`padding` must be one of 'any', 'right', 'l"),
        (right_sum, {"max_examples": 0}, ValueError, "`max_examples` must be at least 1"),
        (right_sum, {"seed": -1}, ValueError, "`seed` must be at least 0"),
        (right_sum, {"tolerance": -1.0}, ValueError, "`tolerance` must lie between"),
        (right_sum, {"empty": 0}, ValueError, "`empty` must be one of 'finite', 'zeros'"),
    ],
)
def test_what_cannot_be_checked_is_refused(apply, options, error, text):
    with pytest.raises(error, match=text):
        check_masking(apply, **options)


# Models of ids -----------------------------------------------------------------------------------


def model_of_ids(drop_mask=False, pool=None, time=None, **embedding):
    history = keras.Input((time,), dtype="int32", name="history")
    candidate = keras.Input((1,), dtype="int32", name="candidate")
    films = keras.layers.Embedding(9, DIM, **{"mask_zero": True, **embedding}, name="films")
    keys = films(history)
    if drop_mask:
        keys = keys * 2.0
    pooled = (pool or pool_events)(keys)
    joined = keras.layers.Concatenate()([pooled, films(candidate)])
    click = keras.layers.Dense(1, name="click")(joined[:, 0])
    return keras.Model([history, candidate], click)


def pool_events(events, **told):
    return din_layers.SequencePoolingLayer("mean")(events, **told)


def embedded_history(name="history"):
    history = keras.Input((None,), dtype="int32", name=name)
    return history, keras.layers.Embedding(9, DIM, mask_zero=True)(history)


def test_a_right_model_passes_and_keeps_its_weights():
    model = model_of_ids()
    with weights_kept(model):
        check_ids(model, invariants=testing.IDS_INVARIANTS, max_examples=10)
    check_ids(model_of_ids(time=5), max_examples=5)


@pytest.mark.parametrize(
    ("time", "invariant"),
    # A mean over a fixed number of positions is the same wherever the padding stands.
    [(None, "padding_invariance"), (None, "padding_is_inert"), (5, "padding_is_inert")],
)
def test_a_dropped_mask_is_found(time, invariant):
    model = model_of_ids(drop_mask=True, time=time)
    with pytest.raises(MaskingError, match=f"^{invariant}: "):
        check_ids(model, invariants=[invariant])


def test_where_padding_has_one_place_only_nothing_is_claimed():
    model = model_of_ids(drop_mask=True, time=5)
    with pytest.raises(ValueError, match="`invariants` must be able to fail"):
        check_ids(model, invariants=["padding_invariance"])


def model_of_tags(pool, time=3):
    tags = keras.Input((time, 2), dtype="int32", name="tags")
    embedded = keras.layers.Embedding(6, 3, mask_zero=True)(tags)
    return keras.Model(tags, pool(tags, embedded))


def test_padding_among_tags_and_events_without_tags_are_found():
    def lost(tags, embedded):  # the mask of the events
        pooled = keras.layers.TimeDistributed(din_layers.SequencePoolingLayer("max"))(embedded)
        return pool_events(pooled[:, :, 0])

    def counted(tags, embedded):  # the padding among the tags
        return pool_events(ops.mean(embedded, axis=2), mask=ops.any(tags != 0, axis=2))

    check_ids(model_of_tags(lambda _, embedded: pool_events(pool_events(embedded))), padding="any")
    for broken, time, invariant in (
        (lost, None, "padding_invariance"),
        (counted, 3, "padding_is_inert"),
    ):
        with pytest.raises(MaskingError, match=f"^{invariant}: "):
            check_ids(model_of_tags(broken, time), padding="any", invariants=[invariant])


class Multiplied(keras.Layer):
    """Multiplies by the mask: padding must be finite."""

    supports_masking = True

    def call(self, keys, mask=None):
        return ops.sum(keys * as_floats(mask), axis=1, keepdims=True)

    def compute_mask(self, inputs, mask=None):
        return None


def test_a_multiplication_by_the_mask_is_found():
    with pytest.raises(MaskingError, match="padding_is_inert: nan at invalid positions changes"):
        check_ids(model_of_ids(pool=Multiplied()))


def test_a_dice_inside_a_dense_counts_padding_in_training():
    """The mask does not reach an activation; a Dice behind the Dense gets it."""

    def model(*layers):
        def pool(keys):
            for layer in layers:
                keys = layer(keys)
            return pool_events(keys)

        return model_of_ids(pool=pool)

    inside = model(keras.layers.Dense(DIM, activation=din_layers.Dice()))
    behind = model(keras.layers.Dense(DIM), din_layers.Dice())
    for each in (inside, behind):
        check_ids(each, max_examples=5)  # with moving statistics no batch counts
    with weights_kept(inside, behind):
        with pytest.raises(MaskingError, match="padding_is_inert: "):
            check_ids(inside, training=True, invariants=["padding_is_inert"])
        check_ids(behind, training=True, max_examples=20)


def model_of_pages(*layers):
    (history, keys), (page, query) = embedded_history(), embedded_history("page")
    x = din_layers.AttentionPoolingLayer()([query, keys])
    for layer in (*layers, keras.layers.Dense(1)):
        x = layer(x)
    return keras.Model([history, page], x)


def test_a_loss_that_weighs_padded_candidates_is_found():
    right, wrong = model_of_pages(), model_of_pages(lambda x: x * 2.0)
    check_ids(right, history=["page"], max_examples=5)
    with pytest.raises(MaskingError, match=r"^loss_skips_padding: .*the output has lost its mask"):
        check_ids(wrong, history=["page"], max_examples=5)
    check_ids(wrong, history=["page"], invariants=["padding_is_inert"], max_examples=5)


class WithoutConfig(keras.layers.Layer):
    """Keras cannot save what it was made of."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function, self.supports_masking = function, True

    def call(self, x):
        return self.function(x)

    def compute_mask(self, inputs, mask=None):
        return None


def test_a_layer_without_a_config_is_no_hindrance():
    scaled = WithoutConfig(lambda x: x * 2.0)
    check_ids(model_of_ids(pool=lambda keys: scaled(pool_events(keys))), max_examples=5)
    with pytest.raises(NotImplementedError):  # as before
        scaled.get_config()
    with pytest.raises(MaskingError, match=r"^padding_is_inert: "):
        check_ids(model_of_ids(pool=WithoutConfig(lambda x: ops.sum(x, 1, keepdims=True))))


def last_state(keys):
    return keras.layers.Reshape((1, DIM))(keras.layers.GRU(DIM)(keys))


def test_an_order_is_found_in_ids():
    model = model_of_ids(pool=last_state)
    check_ids(model, max_examples=5)
    with pytest.raises(MaskingError, match=r"^permutation_invariance: "):
        check_ids(model, invariants=["permutation_invariance"])


@pytest.mark.parametrize("others", [0, 1])
def test_inputs_need_no_names(others):
    history, keys = embedded_history(name=None)
    inputs, output = [history], pool_events(keys)
    for _ in range(others):
        inputs.append(keras.Input((1,), dtype="int32"))
        output = output + keras.layers.Embedding(9, DIM)(inputs[-1])
    check_ids(keras.Model(inputs, output), max_examples=3)
    with pytest.raises(MaskingError, match=r"^empty_history: "):
        check_ids(keras.Model(inputs, output + ops.sum(keys)), invariants=["empty_history"])


def test_weights_beside_the_ids_are_part_of_the_history():
    (history, keys), weights = embedded_history(), keras.Input((None,), name="weights")
    weighted = din_layers.WeightedSequenceLayer("sum")([keys, weights])
    summed = din_layers.SequencePoolingLayer("sum")(weighted)
    check_ids(keras.Model({"weights": weights, "history": history}, summed))
    leaking = keras.Model([history, weights], summed + ops.sum(weights, 1)[:, None, None])
    with pytest.raises(MaskingError, match=r"^padding_is_inert: 100.0 at invalid"):
        check_ids(leaking, invariants=["padding_is_inert"])


def quantized():
    model = model_of_ids()
    model.quantize("int8")
    return model


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (quantized, {}, ValueError, r"must have embeddings of floats: .*quantized=\['films'\]"),
        (lambda: 3, {}, TypeError, "`model` must be a functional or sequential Keras model"),
        (lambda: model_of_ids(mask_zero=False), {}, ValueError, "`history` must be named, since"),
        (model_of_ids, {"history": ["x"]}, ValueError, "`history` must be among"),
        (model_of_ids, {"history": "history"}, TypeError, "`history` must be a list of names"),
        pytest.param(
            lambda: keras.Model(text := keras.Input((3,), dtype="string"), text),
            {},
            TypeError,
            "`model` must take ids or floats",
            marks=needs_tensorflow,
        ),
        (model_of_ids, {"output": "x"}, ValueError, r"`output` must be one of \['click'\]"),
        (model_of_ids, {"invariants": ["extreme_values"]}, ValueError, "`invariants` must be"),
        (model_of_ids, {"vocabulary": {"history": 1}}, ValueError, "must be at least 2"),
        (model_of_ids, {"empty": "zero"}, ValueError, "`empty` must be one of"),
        (model_of_ids, {"training": 1}, TypeError, "`training` must be a bool"),
    ],
)
def test_bad_models(model, options, error, text):
    with pytest.raises(error, match=text):
        check_ids(model(), **options)


def test_an_input_of_unknown_ids_must_be_described():
    (history, keys), count = embedded_history(), keras.Input((1,), dtype="int32", name="count")
    scaled = pool_events(keys) * ops.cast(count, "float32")[:, None]
    model = keras.Model([history, count], scaled)
    with pytest.raises(ValueError, match=r"`vocabulary` must have .* Received: input='count'"):
        check_ids(model)
    check_ids(model, vocabulary={"count": 5}, max_examples=5)


# The command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_on_a_right_model_and_on_a_broken_one(tmp_path, capsys):
    right, broken = str(tmp_path / "right.keras"), str(tmp_path / "broken.keras")
    model_of_ids().save(right)
    assert main([right, "--max-examples", "5"]) == 0
    printed = capsys.readouterr().out
    assert "history" in printed
    assert printed.count("holds") == 5
    model_of_ids(drop_mask=True).save(broken)
    command = [sys.executable, "-m", "din_layers.testing", broken, "--import", "din_layers"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "padding_is_inert        FAILS" in done.stdout
    assert "Reproduce with" in done.stdout


def test_the_command_on_unusable_files(tmp_path, capsys):
    (tmp_path / "text.keras").write_text("no model")
    model_of_ids(mask_zero=False).save(tmp_path / "no_history.keras")
    for name in ("missing.keras", "text.keras", "no_history.keras"):
        assert main([str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith(str(tmp_path / name))
        assert err.count("\n") == 1


def test_the_command_names_a_class_that_is_not_registered(tmp_path, capsys):
    path = str(tmp_path / "unknown.keras")
    model_of_ids(pool=lambda keys: Unregistered(DIM)(pool_events(keys))).save(path)
    assert main([path]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"{path}: Could not locate class 'Unregistered': name the module")


# Round trips: test_saving.py has right ones -------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Forgetful(keras.Layer):
    """Forgets an argument when it is saved."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()  # else Keras itself notes the arguments


@keras.saving.register_keras_serializable(package="tests")
class NoJson(keras.layers.Dropout):
    """Has an array in its config."""

    def get_config(self):
        return {**super().get_config(), "rate": np.zeros(1)}


class Unregistered(keras.layers.Dense):
    """Nothing tells Keras of it."""


def test_round_trips_of_broken_ones():
    x = np.ones((2, 3), "float32")
    with pytest.raises(RoundTripError, match="clone_model: output 0 is off by 1"):
        check_round_trip(Forgetful(2.0), x)
    with pytest.raises(RoundTripError, match=r"(?s)\.keras: .*class 'Unregistered'"):
        check_round_trip(Unregistered(2), x, imports=["din_layers"])
    with pytest.raises(RoundTripError, match="config: get_config"):
        check_round_trip(NoJson(0.5), x)
    with pytest.raises(TypeError, match="`layer_or_model` must be a Keras layer"):
        check_round_trip(right_sum, x)


# Strategies --------------------------------------------------------------------------------------


@given(st.data())
def test_the_strategies_keep_their_promises(data):
    padding = data.draw(st.sampled_from(["any", "right", "left"]))
    sizes = {"min_batch": 2, "max_batch": 3, "min_time": 0, "max_time": 5, "padding": padding}
    mask = data.draw(testing.masks(**sizes))
    sequence, its_mask = data.draw(testing.padded_sequences(dim=2, **sizes))
    history = data.draw(testing.histories(vocabulary=7, **sizes))
    assert sequence.dtype == "float32"
    assert sequence.shape == (*its_mask.shape, 2)
    assert not sequence[~its_mask].any()
    assert history.dtype == "int32"
    assert history.max(initial=0) < 7
    for valid in (mask, its_mask, history != 0):
        assert 2 <= len(valid) <= 3
        assert valid.shape[1] <= 5
        if padding == "right":
            assert not (~valid[:, :-1] & valid[:, 1:]).any()
        if padding == "left":
            assert not (valid[:, :-1] & ~valid[:, 1:]).any()


def test_without_hypothesis_the_import_says_what_to_install():
    program = "import sys; sys.modules['hypothesis'] = None; import din_layers.testing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "din-layers[testing]"' in done.stderr
