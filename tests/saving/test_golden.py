"""Golden files: what older versions of the package saved loads, and gives the numbers it gave.

`tests/golden/write.py` wrote them, once, and pinned them in `tests/golden/sha256.txt`. A test here
that fails after a change of the package has found a broken promise: mend the change, not the files.
"""

import hashlib
import json
from pathlib import Path

import keras
import pytest

import din_layers
from din_layers.testing._fresh_process import run_fresh

GOLDEN = Path(__file__).parents[1] / "golden"
PINS = (GOLDEN / "sha256.txt").read_text(encoding="utf-8").splitlines()
SHA256 = {name: digest for digest, name in map(str.split, PINS)}
SAVED = sorted(name.removesuffix(".keras") for name in SHA256 if name.endswith(".keras"))


def test_the_files_are_those_that_were_written():
    """Not regenerated, none missing, and none that nobody pinned."""
    files = [p for p in GOLDEN.rglob("*") if p.suffix in {".keras", ".h5", ".json", ".npz"}]
    found = {
        path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    assert found == SHA256


# One process for all, since importing TensorFlow takes seconds. Buckets and ids are the same to the
# last digit; floats are sums in float32, which other processors and versions add in another order.
LOAD = """
import sys
import numpy as np
import din_layers
import keras
from pathlib import Path

def strings(x):
    import tensorflow as tf
    return tf.constant(np.char.encode(x, "utf-8"))

def check(model, arrays, how):
    count = sum(key.startswith("input") for key in arrays)
    inputs = [arrays[f"input_{place}"] for place in range(count)]
    inputs = [strings(x) if x.dtype.kind == "U" else keras.ops.convert_to_tensor(x) for x in inputs]
    outputs = model(inputs if count > 1 else inputs[0])
    assert len(outputs) == len(arrays) - count
    for place, output in enumerate(outputs):
        expected = arrays[f"output_{place}"]
        assert keras.backend.standardize_dtype(output.dtype) == expected.dtype, how
        message = f"{how}, output {place}"
        if expected.dtype.kind == "f":
            output = keras.ops.convert_to_numpy(output)
            np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6, err_msg=message)
        else:
            np.testing.assert_array_equal(output, expected, message)

for name in sys.argv[1:]:
    arrays = dict(np.load(f"{name}.npz"))
    for custom_objects in (None, din_layers.custom_objects):
        model = keras.models.load_model(f"{name}.keras", custom_objects=custom_objects)
        check(model, arrays, f"{name}.keras")
    model = keras.models.model_from_json(Path(f"{name}.json").read_text())
    model.load_weights(f"{name}.weights.h5")
    check(model, arrays, f"{name}.weights.h5")
    print(name)
"""


def loads_here(name):
    """Tell whether the backend has what the model needs: strings in a model are TensorFlow's."""
    return keras.backend.backend() == "tensorflow" or Path(name).name not in ("vocab", "hash")


def test_a_fresh_process_loads_them_and_gets_the_same_numbers():
    names = [str(GOLDEN / name) for name in SAVED if loads_here(name)]
    assert run_fresh(LOAD, *names).splitlines()[-len(names) :] == names


def layers_in(config):
    """Yield every serialized layer of this package in a model's JSON."""
    if isinstance(config, dict):
        if str(config.get("registered_name")).startswith("din_layers>"):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from layers_in(part)


def every_config():
    return [
        pytest.param(layer, id=f"{name} {layer['config']['name']}")
        for name in SAVED
        for layer in layers_in(json.loads((GOLDEN / f"{name}.json").read_text()))
    ]


@pytest.mark.parametrize("serialized", every_config())
def test_configs_keep_their_meaning(serialized):
    """A later version may add arguments; those that were written are read as they were."""
    config = keras.saving.deserialize_keras_object(serialized).get_config()
    assert_has_meaning(config, serialized)


# Wording of messages, which 0.1 to 0.3 saved with the mask that a layer hands on.
NO_MEANING = {"sequence_name", "companion_name", "single_event_ids"}


def assert_has_meaning(config, serialized):
    """What a file says stands in the config of today, under today's names."""
    for key, value in serialized["config"].items():
        if serialized["class_name"] == "ValidPositions" and key in {*NO_MEANING, "mask_required"}:
            continue
        if key == "weight_normalization" and isinstance(value, bool):
            value = "softmax" if value else None
        assert config["mask_required" if key == "supports_masking" else key] == value


def test_every_layer_is_among_them():
    layers = {name for name, c in din_layers.custom_objects.items() if issubclass(c, keras.Layer)}
    assert {param.values[0]["class_name"] for param in every_config()} >= layers


@pytest.mark.parametrize(
    "serialized",
    [
        pytest.param(layer, id=f"{layer['class_name']} {place}")
        for place, layer in enumerate(json.loads((GOLDEN / "other_classes.json").read_text()))
    ],
)
def test_configs_of_classes_of_the_same_names_load(serialized):
    """As Keras 2 and Keras 3 write the layers of code bases that register nothing."""
    with pytest.raises((TypeError, ValueError), match=serialized["class_name"]):
        keras.saving.deserialize_keras_object(serialized)
    layer = keras.saving.deserialize_keras_object(
        serialized, custom_objects=din_layers.custom_objects
    )
    assert type(layer) is din_layers.custom_objects[serialized["class_name"]]
    del serialized["config"]["dtype"]
    assert_has_meaning(layer.get_config(), serialized)
    assert layer.dtype_policy.name == "float32"


def test_a_vocabulary_without_its_keys_says_what_is_missing():
    """The class that others named VocabLayer left the keys out of its config."""
    serialized = {"class_name": "VocabLayer", "config": {"name": "vocab", "mask_value": "0"}}
    with pytest.raises(TypeError, match="keys"):
        keras.saving.deserialize_keras_object(serialized, custom_objects=din_layers.custom_objects)
