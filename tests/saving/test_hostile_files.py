"""Nothing that a config holds is run when it is read."""

import keras
import numpy as np
import pytest
from helpers.layers import made

import din_layers


def hostile(target):
    """Serialized objects that write a file where they are run."""
    path = str(target)
    with pytest.warns(UserWarning, match="lambda"):
        function = keras.saving.serialize_keras_object(
            lambda x, **kwargs: (open(path, "w").close(), x)[1]
        )
    lambda_layer = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "lambda", "function": function, "arguments": {}},
        "registered_name": None,
    }
    system = {
        "module": "os",
        "class_name": "system",
        "config": f"touch {target}",
        "registered_name": "system",
    }
    opened = {"module": "builtins", "class_name": "open", "config": {"file": str(target)}}
    return [function, lambda_layer, system, opened]


# The activation is what a layer reads by itself; all else Keras reads.
@pytest.mark.parametrize("place", range(4))
def test_nothing_smuggled_in_is_executed(tmp_path, place):
    target = tmp_path / "executed"
    serialized = keras.saving.serialize_keras_object(made("attention")[0])
    serialized["config"]["att_activation"] = hostile(target)[place]
    with pytest.raises((TypeError, ValueError, AttributeError)):
        keras.saving.deserialize_keras_object(serialized)
    assert not target.exists()


def test_the_hostile_function_runs_where_safe_mode_is_off(tmp_path):
    """Else the test above could not fail."""
    target = tmp_path / "executed"
    serialized = keras.saving.serialize_keras_object(din_layers.AttentionPoolingLayer((3,)))
    serialized["config"]["att_activation"] = hostile(target)[0]
    inputs = [np.ones((1, 2, 4), "float32")] * 2
    with pytest.raises((TypeError, ValueError), match="arbitrary code"):
        keras.saving.deserialize_keras_object(serialized)
    assert not target.exists()
    keras.saving.deserialize_keras_object(serialized, safe_mode=False)(inputs)
    assert target.exists()
