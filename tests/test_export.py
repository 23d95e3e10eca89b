"""Exported models give Keras's numbers, each in its own runtime."""

import keras
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from cases import CASES, DIM

pytestmark = [
    # Keras 3.15 asks NumPy 2 for `np.object` before it calls tf2onnx.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
]

# Other runtimes sum the float32 products of a few dozen terms in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def export(model, folder, to):
    """Export a model to LiteRT or ONNX; return what computes its outputs, in their order."""
    file = folder / ("model.tflite" if to == "litert" else "model.onnx")
    model.export(file, format=to, verbose=False)
    return run_onnx(file) if to == "onnx" else run_litert(file)


def run_litert(file):
    runner = Interpreter(str(file)).get_signature_runner("serving_default")

    def run(inputs):
        outputs = runner(**inputs)
        return [outputs[f"output_{place}"] for place in range(len(outputs))]

    return run


def run_onnx(file):
    session = onnxruntime.InferenceSession(str(file))
    return lambda inputs: session.run(None, inputs)


# The numbers -----------------------------------------------------------------------------------

# Every operation of the sequence layers; all modes would take three times as long to convert.
CASE_NAMES = (
    "pool_mean",
    "pool_max",
    "weigh_sqrtn",
    "attend_scaled",
    "attend_sequence_raw_dice",
)


def model_of(names):
    """Query, keys, weights, ids and lengths -> the output of every case, in one model."""
    query = keras.Input((1, DIM), name="query")
    keys = keras.Input((None, DIM), name="keys")
    weights = keras.Input((None,), name="weights")
    ids = keras.Input((None,), dtype="int32", name="ids")
    lengths = keras.Input((), dtype="int32", name="lengths")
    inputs_of_kind = {
        "pool": [keys, ids, lengths],
        "weigh": [keys, ids, lengths, weights],
        "attend": [query, keys, ids, lengths],
    }
    outputs = [CASES[name].make()(inputs_of_kind[CASES[name].kind]) for name in names]
    return keras.Model([query, keys, weights, ids, lengths], outputs)


def inputs_of(batch, time, padding=0.0):
    """Draw inputs: the second history is empty, the others have holes and are cut by lengths."""
    rng = np.random.default_rng(batch)
    ids = rng.integers(0, 5, (batch, time), "int32")
    ids[1] = 0
    lengths = rng.integers(1, time + 2, batch, "int32")
    valid = (ids != 0) & (np.arange(time) < lengths[:, None])
    keys, weights = rng.normal(size=(batch, time, DIM)), rng.normal(size=(batch, time))
    return {
        "query": rng.normal(size=(batch, 1, DIM)).astype("float32"),
        "keys": np.where(valid[..., None], keys, padding).astype("float32"),
        "weights": np.where(valid, weights, padding).astype("float32"),
        "ids": ids,
        "lengths": lengths,
    }


@pytest.fixture(scope="module", params=["litert", "onnx"])
def runtime(request, tmp_path_factory):
    """The name of a format, a model, and what runs its exported copy."""
    # LiteRT lacks the segment operations of `skip_padding=True`, see below.
    names = (*CASE_NAMES, "attend_skip") if request.param == "onnx" else CASE_NAMES
    model = model_of(names)
    model(inputs_of(2, 3))  # Keras exports no model to ONNX that was never called
    return request.param, model, export(model, tmp_path_factory.mktemp("exported"), request.param)


@pytest.mark.parametrize("size", [(4, 6), (3, 11), (2, 1)])
def test_a_runtime_of_its_own_gives_the_same_numbers(runtime, size):
    """Batch and time are free in the exported model."""
    _, model, run = runtime
    inputs = inputs_of(*size)
    for output, expected in zip(run(inputs), model(inputs), strict=True):
        np.testing.assert_allclose(output, expected, **TOLERANCE)


def test_nan_at_padding_is_inert_in_litert_and_not_in_onnx(runtime):
    """The converter to ONNX writes `where` as a product with 0 and 1, and 0 * NaN is NaN."""
    to, model, run = runtime
    paddings = (1e30, np.nan) if to == "litert" else (1e30,)
    for padding in paddings:
        outputs = run(inputs_of(4, 6, padding))
        for output, expected in zip(outputs, model(inputs_of(4, 6)), strict=True):
            np.testing.assert_allclose(output, expected, **TOLERANCE)
    if to == "onnx":
        assert any(np.isnan(output).any() for output in run(inputs_of(4, 6, np.nan)))
