"""A config makes a layer or a clear error, whatever stands in it, on every backend."""

import json

import keras
from helpers.layers import ONE_OF_EACH, made
from hypothesis import example, given
from hypothesis import strategies as st

LAYERS = {name: made(name)[0] for name in ONE_OF_EACH}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, 10**30, -(10**30), 10**400, -(10**400)]),
    st.floats(),
    st.text(st.characters(), max_size=4),
    st.sampled_from(["dice", "relu", "glorot_uniform", "l2", "sum", "float16", "keras.Dense"]),
)
KEYS = st.sampled_from(["class_name", "config", "module", "registered_name", "name", "value"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def wrong_configs(draw):
    """Draw a layer's name and its config with some values replaced, deleted and added."""
    name = draw(st.sampled_from(sorted(LAYERS)))
    config = LAYERS[name].get_config()
    keys = sorted(config)
    for key in draw(st.sets(st.sampled_from(keys), max_size=2)):
        del config[key]
    new_keys = st.sampled_from(keys) | st.text(max_size=3)
    return name, {**config, **draw(st.dictionaries(new_keys, VALUES, max_size=2))}


def changed(name, **values):
    return name, {**LAYERS[name].get_config(), **values}


def is_kerass_own_error(error, config):
    """Tell whether Dense fails in the same way on what the two have in common, `dtype`.

    Keras (3.15) reads a `dtype` that is a dict before it looks at anything else.
    """
    try:
        keras.layers.Dense.from_config({"units": 1, "dtype": config.get("dtype")})
    except Exception as same:
        return type(same) is type(error)
    return False


@given(drawn=wrong_configs())
@example(drawn=changed("attention", kernel_initializer=None))
@example(drawn=changed("attention", dropout=10**400))
@example(drawn=changed("attention", seed=10**30))
@example(drawn=changed("attention", att_hidden_units=[10**30]))
@example(drawn=changed("dice", momentum=10**400))
@example(drawn=changed("dice", epsilon=-(10**400)))
@example(drawn=changed("dice", epsilon=float("inf")))
@example(drawn=changed("valid_positions", single_event_ids=3))
@example(drawn=changed("valid_positions", hist_mask_value={"a": 1}))
@example(drawn=changed("dice", dtype={"class_name": "x"}))
def test_a_config_makes_a_layer_or_a_clear_error(drawn):
    """Through `from_config`, and as arguments, where Keras wraps no error into a TypeError."""
    name, config = drawn
    layer_class = type(LAYERS[name])
    for make in (layer_class.from_config, lambda config: layer_class(**config)):
        try:
            layer = make(dict(config))
        except (TypeError, ValueError):
            continue
        except Exception as error:
            if is_kerass_own_error(error, config):
                continue
            raise
        if isinstance(config.get("dtype"), dict):
            continue  # Keras makes a policy of what it cannot read
        again = json.loads(json.dumps(layer.get_config(), allow_nan=False))
        assert layer_class.from_config(again).get_config() == layer.get_config()
