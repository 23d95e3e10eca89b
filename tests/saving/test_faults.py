"""Faults: a training that is killed, damaged and hostile files."""

import io
import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND, needs_tensorflow
from hypothesis import example, given
from hypothesis import strategies as st
from models import numeric_model, string_model

import din_layers

# Killed in mid-epoch ---------------------------------------------------------------------------

# What makes the resumed run end like the one that was not killed, bit for bit: every epoch has the
# same batches in the same order (no shuffling); backups are made after whole epochs
# (`save_freq="epoch"`), so that the epoch that was cut off is repeated from its start; they hold
# the weights, Dice's statistics and the optimizer's state; and TensorFlow adds up in one order (one
# thread, deterministic kernels). No dropout: Keras (3.15) saves the state of no SeedGenerator, also
# not that of its own Dropout, so a resumed run would draw other masks.
TRAIN = """
import os, signal, sys
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.experimental.enable_op_determinism()
import keras
import numpy as np
folder, backup, kill = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, folder)
from models import click_model, numeric_inputs

class Kill(keras.callbacks.Callback):
    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == kill:
            os.kill(os.getpid(), signal.SIGKILL)

keras.utils.set_random_seed(0)
model = click_model()
model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
inputs = numeric_inputs(batch=40)
target = np.random.default_rng(1).integers(0, 2, (40, 1))
kept = keras.callbacks.BackupAndRestore(backup, save_freq="epoch")
history = model.fit(
    inputs, target, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[kept, Kill()]
)
np.savez(sys.argv[4], epochs=len(history.epoch), *[v.numpy() for v in model.variables],
    **{f"optimizer_{i}": v.numpy() for i, v in enumerate(model.optimizer.variables)})
names = [v.path for v in model.variables]
print(sum("moving_" in name for name in names))
"""


def train(folder, name, kill=0):
    """Train in a process, which kills itself after `kill` steps if that is not 0."""
    arguments = [Path(__file__).parents[1], folder / "backup", kill, folder / f"{name}.npz"]
    command = [sys.executable, "-c", TRAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    done = train(tmp_path, "whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6\n"  # three Dice layers, with two statistics each
    # 5 steps are an epoch: step 13 is in the middle of the third.
    assert train(tmp_path, "killed", kill=13).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()
    assert json.loads((tmp_path / "backup/training_metadata.json").read_text())["epoch"] == 2
    done = train(tmp_path, "resumed")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "resumed.npz") as resumed:
        assert whole["epochs"] == 4
        assert resumed["epochs"] == 2  # the third, again, and the fourth
        assert set(whole.files) == set(resumed.files)
        for name in set(whole.files) - {"epochs"}:
            np.testing.assert_array_equal(resumed[name], whole[name], name)


# Damaged and hostile files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with every kind of layer in it, saved."""
    folder = tmp_path_factory.mktemp("saved")
    numeric_model().save(folder / "numeric.keras")
    if BACKEND == "tensorflow":
        string_model().save(folder / "string.keras")
    return folder


def load(content, folder):
    """Load a `.keras` file with this content."""
    path = folder / "changed.keras"
    path.write_bytes(content)
    return keras.models.load_model(path)


def with_config(path, class_name, **values):
    """Return the archive with other values in the config of the first layer of a class."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                model = json.loads(data)
                layers = model["config"]["layers"]
                layer = next(x for x in layers if x["class_name"] == class_name)
                layer["config"].update(values)
                data = json.dumps(model).encode()
            new.writestr(name, data)
    return out.getvalue()


# KeyError is zipfile's for a member that is missing, OSError and BadZipFile (an OSError's sibling)
# those for bytes that are no archive or no HDF5.
CLEAR = (TypeError, ValueError, OSError, KeyError, zipfile.BadZipFile)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error(saved, tmp_path, share):
    content = (saved / "numeric.keras").read_bytes()
    with pytest.raises(CLEAR):
        load(content[: int(share * len(content))], tmp_path)


def test_a_renamed_file_is_an_error(saved, tmp_path):
    for name in ("model.h5", "model.weights.h5", "model", "model.zip", "model.json"):
        renamed = tmp_path / name
        renamed.write_bytes((saved / "numeric.keras").read_bytes())
        with pytest.raises((ValueError, OSError)):
            keras.models.load_model(renamed)
    with pytest.raises(ValueError, match="File not found"):
        keras.models.load_model(tmp_path / "nothing.keras")


@given(place=st.integers(0, 2**20), byte=st.integers(1, 255))
@example(place=0, byte=1)
def test_a_flipped_byte_loads_or_is_an_error(saved, tmp_path_factory, place, byte):
    """Most bytes of HDF5 are padding: then the model loads, and computes."""
    content = bytearray((saved / "numeric.keras").read_bytes())
    content[place % len(content)] ^= byte
    try:
        model = load(bytes(content), tmp_path_factory.mktemp("flipped"))
    except (*CLEAR, RuntimeError, AttributeError, UnicodeDecodeError, UserWarning):
        return  # Keras, zipfile or h5py has noticed; Keras warns of a group that is missing
    assert isinstance(model, keras.Model)


@pytest.mark.parametrize(
    ("class_name", "values", "text"),
    [
        ("Dice", {"axis": "last"}, "`axis` must be an integer"),
        ("Dice", {"momentum": 10**400}, "`momentum` must lie between"),
        ("AttentionPoolingLayer", {"mode": "sun"}, "`mode` must be one of"),
        ("AttentionPoolingLayer", {"surprise": 1}, "surprise"),
        ("AttentionPoolingLayer", {"att_hidden_units": [6, -3]}, "`att_hidden_units` must be at l"),
        ("AttentionPoolingLayer", {"att_hidden_units": [7, 3]}, "shape"),  # of the weights
        ("SequencePoolingLayer", {"mode": []}, "`mode` must be one of"),
        ("WeightedSequenceLayer", {"weight_normalization": 1}, "must be one of"),
        ("VocabLayer", {"keys": []}, "`keys` must not be empty"),
        ("VocabLayer", {"keys": "/etc/passwd"}, "`keys` must be an ordered"),
        ("HashLayer", {"num_buckets": 2**64}, "`num_buckets` must fit into int64"),
    ],
)
def test_a_tampered_config_is_named(saved, tmp_path, class_name, values, text):
    strings = class_name in ("VocabLayer", "HashLayer")
    if strings and BACKEND != "tensorflow":
        pytest.skip("strings in a model are TensorFlow's")
    file = saved / ("string.keras" if strings else "numeric.keras")
    with pytest.raises((TypeError, ValueError)) as caught:
        load(with_config(file, class_name, **values), tmp_path)
    assert text in str(caught.value)


def test_a_path_in_the_place_of_keys_is_a_key(tmp_path):
    """Nothing in a config is opened: a vocabulary of one path knows this path as a word."""
    layer = din_layers.VocabLayer.from_config({"keys": ["/etc/passwd"], "mask_value": None})
    assert layer(["/etc/passwd", "root"]).numpy().tolist() == [2, 1]


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


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("class_name", "key"),
    [
        ("AttentionPoolingLayer", "att_activation"),
        ("AttentionPoolingLayer", "kernel_initializer"),
        ("AttentionPoolingLayer", "kernel_regularizer"),
        ("AttentionPoolingLayer", "bias_constraint"),
        ("AttentionPoolingLayer", "hist_mask_value"),
        ("Dice", "alpha_initializer"),
        ("Dice", "dtype"),
    ],
)
def test_nothing_smuggled_in_is_executed(saved, tmp_path, class_name, key, place):
    target = tmp_path / "executed"
    changed = with_config(saved / "numeric.keras", class_name, **{key: hostile(target)[place]})
    with pytest.raises((TypeError, ValueError, AttributeError)):
        load(changed, tmp_path)
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
