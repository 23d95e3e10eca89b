"""`check_round_trip`: config, clone, weights and `.keras` file, also in a fresh process."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from din_layers._checks import check_number, message
from din_layers.testing._fresh_process import run_fresh
from din_layers.testing._gradients import to_numpy
from din_layers.testing._strategies import Array

_LOAD = """
import importlib, json, sys
import numpy as np
folder = sys.argv[1]
for module in json.loads(sys.argv[2]):
    importlib.import_module(module)
import keras
from keras import ops
def compute(model, step):
    with np.load(folder + "/inputs.npz") as data:
        inputs = list(data.values())
    if any(x.dtype.kind == "U" for x in inputs):
        import tensorflow as tf
        inputs = [tf.constant(x) if x.dtype.kind == "U" else x for x in inputs]
    outputs = model(keras.tree.pack_sequence_as(model.input, inputs), training=False)
    outputs = [ops.convert_to_numpy(ops.cast(x, "float64")) for x in keras.tree.flatten(outputs)]
    np.savez(f"{folder}/outputs{step}.npz", *outputs)
compute(keras.models.load_model(folder + "/model.keras"), ".keras")
with open(folder + "/model.json", encoding="utf-8") as file:
    rebuilt = keras.models.model_from_json(file.read())
rebuilt.load_weights(folder + "/model.weights.h5")
compute(rebuilt, ".weights.h5")
"""


class RoundTripError(AssertionError):
    """A layer or a model is not the same after it was saved and loaded, cloned or rebuilt.

    Attributes:
        step: The step that failed: `config`, `clone_model`, `.keras` or `.weights.h5`.
    """

    __module__ = "din_layers.testing"

    def __init__(self, step: str, text: str) -> None:
        super().__init__(f"{step}: {text}")
        self.step = step


def check_round_trip(
    layer_or_model: keras.Layer | keras.Model,
    inputs: Any,
    *,
    imports: Iterable[str] | None = None,
    tolerance: float = 1e-6,
) -> None:
    """Check that a layer or model gives the same numbers after every round trip.

    The round trips are: its config through JSON and `from_config`; `clone_model`; and a `.keras`
    and a `.weights.h5` file, which a fresh process loads with `safe_mode=True`.

    Args:
        layer_or_model: A layer, or a functional or sequential model.
        inputs: What to call it on: an array, or a list, tuple or dict of arrays.
        imports: The modules that the fresh process imports; they must register all classes. By
            default the packages of the classes of its layers.
        tolerance: The largest relative or absolute difference that counts as equal.

    Raises:
        RoundTripError: The numbers differ, the config is no JSON or changes on its way, or loading
            fails.
        TypeError: `layer_or_model` is neither a layer nor a model with inputs.

    Example:
        >>> layer = din_layers.SequencePoolingLayer("max")
        >>> testing.check_round_trip(layer, np.ones((2, 3, 4), "float32"))
    """
    __tracebackhide__ = True
    check_number("tolerance", tolerance, 0.0, 1.0)
    inputs = keras.tree.map_structure(np.asarray, inputs)
    _check_config(layer_or_model)
    model = _as_model(layer_or_model, inputs)
    expected = _outputs(model, inputs)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    _compare("clone_model", expected, _outputs(clone, inputs), tolerance)
    modules = sorted(_packages(model) if imports is None else imports)
    _check_files(model, inputs, expected, modules, tolerance)


def _compare(
    step: str, expected: list[Array], actual: Iterable[Array], tolerance: float, where: str = ""
) -> None:
    for place, (one, two) in enumerate(zip(expected, actual, strict=True)):
        if not np.allclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True):
            difference = np.abs(one - two).max()
            raise RoundTripError(step, f"output {place} is off by {difference:g}{where}")


def _check_config(layer: keras.Layer) -> None:
    if not isinstance(layer, keras.Layer):
        expected = "must be a Keras layer or model"
        raise TypeError(message("layer_or_model", expected, layer_or_model=layer))
    config = layer.get_config()
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RoundTripError("config", f"get_config() is not JSON: {error}") from error
    again = type(layer).from_config(json.loads(text)).get_config()
    if json.dumps(again) != text:
        changed = [key for key in config if config[key] != again.get(key)]
        raise RoundTripError("config", f"from_config(config).get_config() differs in {changed}")


def _as_model(layer: keras.Layer, inputs: Any) -> keras.Model:
    if not isinstance(layer, keras.Model):
        layer(keras.tree.map_structure(_tensor, inputs))  # as its user does, on data first
        symbolic = keras.tree.map_structure(
            lambda x: keras.Input(x.shape[1:], dtype="string" if x.dtype.kind in "UO" else x.dtype),
            inputs,
        )
        return keras.Model(symbolic, layer(symbolic))
    if not getattr(layer, "inputs", None):
        expected = "must be a functional or sequential model, or a layer"
        raise TypeError(message("layer_or_model", expected, layer_or_model=layer))
    return layer


def _tensor(x: Array) -> Any:
    if x.dtype.kind not in "UO":
        return ops.convert_to_tensor(x)
    import tensorflow as tf  # strings are TensorFlow's

    return tf.constant(x)


def _outputs(model: keras.Model, inputs: Any) -> list[Array]:
    outputs = model(keras.tree.map_structure(_tensor, inputs), training=False)
    return [to_numpy(output).astype("float64") for output in keras.tree.flatten(outputs)]


def _packages(layer: keras.Layer) -> set[str]:
    """Return the packages of the classes of a layer, or of a model's layers, to be imported."""
    inner = layer.layers if isinstance(layer, keras.Model) else []
    packages = {type(layer).__module__.split(".")[0]}.union(*map(_packages, inner))
    return packages - {"keras", "__main__", "builtins"}


def _check_files(
    model: keras.Model, inputs: Any, expected: list[Array], modules: list[str], tolerance: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model.keras"))
        model.save_weights(Path(folder, "model.weights.h5"))
        Path(folder, "model.json").write_text(model.to_json(), encoding="utf-8")
        flat = keras.tree.flatten(inputs)
        arrays = [np.asarray(x, str) if x.dtype.kind == "O" else x for x in flat]
        np.savez(Path(folder, "inputs.npz"), *arrays)
        try:
            run_fresh(_LOAD, folder, json.dumps(modules))
        except RuntimeError as error:
            what = f"a fresh process that imports {modules} fails: {_last_exception(str(error))}"
            raise RoundTripError(".keras", what) from None
        for step in (".keras", ".weights.h5"):
            with np.load(Path(folder, f"outputs{step}.npz")) as outputs:
                _compare(step, expected, outputs.values(), tolerance, " in a fresh process")


def _last_exception(stderr: str) -> str:
    """Return the exception at the end of what a process printed, without its frames."""
    lines = stderr.rsplit("Traceback (most recent call last):", 1)[-1].splitlines()
    return "\n".join(line[:300] for line in lines if line and not line.startswith("  "))
