"""Golden files: what older versions of the package saved loads, and gives the numbers it gave.

`tests/golden/write.py` wrote them, once, from the models in `tests/golden/recipes/`. A test here
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
SHA256 = {
    "0.1.0/attention.keras": "6f012e829d523d1866b95a8292a7a0a7e724edbcc8123d22873d46ec223ec83d",
    "0.1.0/attention.weights.h5": "1ebdb6f7840d7f9bfcb0d073c8ef46e9b35b15037a46561b8896a8d88d2af3c1",
    "0.1.0/attention.json": "88ac5ab91e85a4a44c8b4dd582cdea43ddfbac8928fcd60adba2b613d87c3672",
    "0.1.0/attention.npz": "fa57d9bc5822304276484dd01f428709f5c9b6b36d5b6d514556a072a363291c",
    "0.1.0/pooling.keras": "2e2a6fd91a426928580de664f9ef4b02de322664df04b88106d92a1d8af11bc1",
    "0.1.0/pooling.weights.h5": "42ee8619b9143ebd99ee8fa67ab6bc5b9bb634928bc14ec38fa693f3021e8008",
    "0.1.0/pooling.json": "65cc7419385dd3003318d1da2d4a7b7c94f6b0da33d1359bffcaf19cecc3978c",
    "0.1.0/pooling.npz": "89372f63778930747741cb1f2cb2eda538ee738fa01d739e20b33f306dfdb212",
    "0.1.0/weighting.keras": "415e01480f1e4f065c392f0efd7c5d5ee0d877674339783cc8a6d1c2208be72b",
    "0.1.0/weighting.weights.h5": "e5887afd1b5b1be896ec8bda5b2789b98429f220398a3bab3e5387585f90becb",
    "0.1.0/weighting.json": "16bfed1dd70840a68ae0c69cda4d390469ce19b02308b1aa3cddc50142fa9aef",
    "0.1.0/weighting.npz": "739b72715f9ca341eceb7745d8aa75afd3a7be88b5c728db1750a56f8baacd00",
    "0.1.0/dice.keras": "87c7a57e3245e4c074e3033379857e2e0f1ab24d13f49ef29ef49b50050d9355",
    "0.1.0/dice.weights.h5": "c93c1e657e31a4681452c81f6a415e814da7cded96accb0eab698e02b9f0fa97",
    "0.1.0/dice.json": "f4ed0c8519bdccd34e49d6214334716e8e96c386cae7e77301476808524c9aba",
    "0.1.0/dice.npz": "24f2b21b1fb2945959b2bf20322c16eeb530c8e7583a0c24cd9dc2f14950db3c",
    "0.1.0/vocab.keras": "b06ce937eb71b82c49feeed8a5815aac769d73c2ef654cc507881a086a819dac",
    "0.1.0/vocab.weights.h5": "88b749684a28e74dda5750fb50a44adb39a095da581124b7f3e4def618b945a9",
    "0.1.0/vocab.json": "2ead07b85030bb9e0edb1332a2fba4e542d8a792775df6f55191843ff65a00bc",
    "0.1.0/vocab.npz": "ba6a053151d0741862799df2df4169bfabcadb17569101eb0fe1fa947a9bc24a",
    "0.1.0/hash.keras": "6fdd5e6a4950de4552fea85fe67ce0542b2032144ad023300491f0f66644b231",
    "0.1.0/hash.weights.h5": "116d7dbec1d819c505ac2919c2a80fd831b54ab2ed8f3c216e2e947424a44cb1",
    "0.1.0/hash.json": "e0f732336e7b0fbd331029d8caa554a0a0672f7ab54a06b2386c46709a254c0a",
    "0.1.0/hash.npz": "f8683131ba667d3b08497492dc04b072d9c67669af3f8a0de3ee33aab1f06d1b",
    "0.2.0/augru.keras": "eb2305cfd6af2748f8379406a873016ab3bc48309e5b3358713bd7665fd968ba",
    "0.2.0/augru.weights.h5": "e6bc33efb4e91d49456dfbfddfbf9169472662c4a0096a93e778509d2248de2c",
    "0.2.0/augru.json": "c2835194c26277118aa92b9532445788b9d68673decddbca52f77594ccf52905",
    "0.2.0/augru.npz": "896b40decda481b72eccf2f29a635fe50751ce2c4c3772d826ea107d937272df",
    "0.3.0/l2.keras": "12a5577234901862c965eb2337a25d1b126bb1591b368d4bea5452d632b91221",
    "0.3.0/l2.weights.h5": "b38c75a6889ded06e79b4aef67e7a28a1402462e958660167ee54cfbc23fac90",
    "0.3.0/l2.json": "aee1b0f571ddbefa88b62e230eb4af079c40c2a1a4c812fd751d430cb4548f95",
    "0.3.0/l2.npz": "c8fdc3a7ea9ddf548b7f041d6e8d8cec33e78e845ab7545808ca701885c4b5ef",
    "0.4.0/names.keras": "d2d57369aff14817174cfac3f378cca63a190bdc5dc42c0c470967082a1b0521",
    "0.4.0/names.weights.h5": "e69f6e5d70d1a4ccbe937d8dd7aa7c1c2a140b0cdaccfb3d9a4a40cf301753fd",
    "0.4.0/names.json": "2395a49a940cc001c718ace6f4216f775f78756bac816242df33d6eb34c1c400",
    "0.4.0/names.npz": "9614dcb194ab8440701cabaee56c63fa335c9b5aa7d9e88e0088a09bfb4f141e",
    "0.4.0/nested.keras": "40dd0869bc099fff104b26a68609370f565d28a9024978dba03bf6b74025655d",
    "0.4.0/nested.weights.h5": "6809cbd9746381748609ed8f7561cc8317bd5e6d7c3bda057b756a55551ed0a3",
    "0.4.0/nested.json": "45ee7df16b87d04cf337d0b65c284ca4ff383ef48e8ca5ab10f91acc583b9312",
    "0.4.0/nested.npz": "b3c6d8baadf740d6a7dffa222aa998faa21fdd15955e4c2062dc25849bc11162",
    "other_classes.json": "c3c7248e7e18fe3ed4eed239a6c956aba93df5fbf7973efc84c3264c013cef57",
}
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
