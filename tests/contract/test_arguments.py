"""The arguments of layers and metric: their defaults, and what is refused."""

import re

import numpy as np
import pytest
from helpers.layers import CASES, ONE_OF_EACH, SEQUENCE_LAYERS, every_layer, made

import din_layers

# What a layer does that is given nothing: another default changes the numbers of its users.
DEFAULTS = {
    "attention": {
        "att_hidden_units": [80, 40],
        "att_activation": "sigmoid",
        "weight_normalization": "softmax",
        "mode": "sum",
        "scale": False,
        "skip_padding": None,
        "dropout": 0.0,
        "seed": None,
    },
    "pooling": {"mode": "mean"},
    "weighting": {"weight_normalization": "softmax"},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults(name):
    expected = {**DEFAULTS[name], "mask_required": False, "hist_mask_value": 0}
    config = ONE_OF_EACH[name][0]().get_config()
    assert {name: config[name] for name in expected} == expected


def test_the_registry_has_every_class():
    """Else the tests that draw from it would miss one."""
    classes = {of for of, *_ in ONE_OF_EACH.values()}
    assert set(din_layers.custom_objects.values()) <= classes
    assert {case.layer for case in CASES.values()} == {ONE_OF_EACH[x][0] for x in SEQUENCE_LAYERS}


@every_layer
@pytest.mark.parametrize("argument", ["mask_required", "supports_masking"])  # its old name
def test_a_mask_is_required_or_not(name, argument):
    with pytest.raises(TypeError, match=r"`mask_required` must be a bool. Received: mask_requ"):
        made(name, **{argument: 1})


@every_layer
@pytest.mark.parametrize("value", [0.5, None, True, np.array([3, 2])])
def test_padding_has_one_id(name, value):
    with pytest.raises(TypeError, match="`hist_mask_value` must be an integer or a string"):
        made(name, hist_mask_value=value)


ACTIVATION = 'be "dice", "prelu", a Keras layer, or the name or function of'
NORMALIZATION = "be one of True, False, 'softmax'"


@pytest.mark.parametrize(
    ("name", "argument", "value", "error", "text"),
    [
        ("attention", "att_hidden_units", 80, TypeError, "be a list or tuple of integers"),
        ("attention", "att_hidden_units", "80", TypeError, "be a list or tuple of integers"),
        ("attention", "att_hidden_units", (2**31,), ValueError, "be at most 2147483646"),
        ("attention", "att_hidden_units", (8, 0), ValueError, "be at least 1"),
        ("attention", "att_hidden_units", (8, 2.0), TypeError, "be an integer"),
        ("attention", "att_activation", "dise", ValueError, ACTIVATION),
        ("attention", "att_activation", {}, ValueError, ACTIVATION),
        ("attention", "att_activation", din_layers.Dice, TypeError, ACTIVATION),
        ("attention", "weight_normalization", "sum", ValueError, NORMALIZATION),
        ("attention", "mode", "mean", ValueError, "be one of 'sum', 'sequence'"),
        ("attention", "scale", None, TypeError, "be a bool"),
        ("attention", "dropout", 1.5, ValueError, "lie between 0.0 and 1.0"),
        ("attention", "dropout", np.True_, TypeError, "be a number"),
        ("attention", "seed", np.array([3]), TypeError, "be an integer"),
        ("attention", "seed", -1, ValueError, "be at least 0"),
        ("pooling", "mode", "median", ValueError, "be one of 'sum', 'mean', "),
        ("weighting", "weight_normalization", "mean", ValueError, NORMALIZATION),
        ("weighting", "weight_normalization", 1, ValueError, NORMALIZATION),
        ("augru", "units", 0, ValueError, "be at least 1"),
        ("augru", "units", 2.5, TypeError, "be an integer"),
        ("augru", "return_sequences", 1, TypeError, "be a bool"),
        ("augru", "return_state", None, TypeError, "be a bool"),
        ("augru", "use_bias", "no", TypeError, "be a bool"),
        ("dice", "axis", "last", TypeError, "be an integer"),
        ("dice", "axis", -9, ValueError, "be at least -8"),
        ("dice", "momentum", 1.5, ValueError, "lie between 0.0 and 1.0"),
        ("dice", "momentum", np.True_, TypeError, "be a number"),
        ("dice", "epsilon", float("nan"), ValueError, "lie between 0.0 and"),
        ("dice", "synchronized", 1, TypeError, "be a bool"),
        ("gauc", "capacity", 0, ValueError, "be at least 1"),
        ("gauc", "capacity", 1.5, TypeError, "be an integer"),
        ("l2", "frequencies", [[1.0]], ValueError, "be one number, 0 or more, for each id"),
        ("l2", "frequencies", [1, -1], ValueError, "be one number, 0 or more, for each id"),
        ("l2", "frequencies", [1, np.nan], ValueError, "be one number, 0 or more, for each id"),
        ("l2", "frequencies", {0: 1}, TypeError, "be a list or an array of numbers"),
        ("l2", "frequencies", [[1], [1, 2]], TypeError, "be a list or an array of numbers"),
        ("l2", "l2", -0.1, ValueError, "lie between 0.0 and"),
        ("l2", "l2", "l2", TypeError, "be a number"),
        ("l2", "mask_value", 2, ValueError, "be one of the ids"),
        ("l2", "mask_value", -1, ValueError, "be at least 0"),
        ("l2", "mask_value", "", TypeError, "be an integer"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_expected(name, argument, value, error, text):
    with pytest.raises(error, match=re.escape(f"`{argument}` must {text}")) as caught:
        made(name, **{argument: value})
    assert f". Received: {argument}=" in str(caught.value)
