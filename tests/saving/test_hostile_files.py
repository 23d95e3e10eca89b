"""A function in a config is not run where Keras is told to be safe, which is how it loads files."""

import keras
import numpy as np
import pytest

import din_layers


def test_a_hostile_activation_runs_in_unsafe_mode_only(tmp_path):
    """The activation is what a layer reads by itself; all else Keras reads."""
    target = tmp_path / "executed"
    path = str(target)
    with pytest.warns(UserWarning, match="lambda"):
        function = keras.saving.serialize_keras_object(
            lambda x, **kwargs: (open(path, "w").close(), x)[1]
        )
    serialized = keras.saving.serialize_keras_object(din_layers.AttentionPoolingLayer((3,)))
    serialized["config"]["att_activation"] = function
    with pytest.raises((TypeError, ValueError), match="arbitrary code"):
        keras.saving.deserialize_keras_object(serialized)
    assert not target.exists()
    # Else the above could not fail.
    layer = keras.saving.deserialize_keras_object(serialized, safe_mode=False)
    layer([np.ones((1, 2, 4), "float32")] * 2)
    assert target.exists()
