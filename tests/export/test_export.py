"""Exported models give Keras's numbers, each in its own runtime."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from helpers.backend import needs_tensorflow
from helpers.layers import CASES, DIM

import din_layers
from din_layers.testing._fresh_process import run_fresh

pytestmark = [
    needs_tensorflow,
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
    "pool_tags_max",
    "weigh_sqrtn",
    "attend_scaled",
    "attend_sequence_None",
    "attend_dice",
)


def model_of(names):
    """Query, keys, weights, ids and lengths -> the output of every case, in one model."""
    query = keras.Input((1, DIM), name="query")
    keys = keras.Input((None, DIM), name="keys")
    weights = keras.Input((None,), name="weights")
    ids = keras.Input((None,), dtype="int32", name="ids")
    lengths = keras.Input((), dtype="int32", name="lengths")
    outputs = []
    for case in (CASES[name] for name in names):
        inputs, told = case.nest(
            (case.inputs(keys, weights, query), {"ids": ids, "lengths": lengths})
        )
        outputs.append(case.unnest(case.make()(inputs, **told)))
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
    # LiteRT lacks the segment operations of `skip_padding=True` and the loop of RNNs.
    names = (*CASE_NAMES, "attend_skip", "evolve") if request.param == "onnx" else CASE_NAMES
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


def test_padding_is_inert_in_a_runtime_of_its_own(runtime):
    """But NaN in ONNX, for which the converter writes `where` as a product with 0 and 1."""
    to, model, run = runtime
    paddings = (1e30, np.nan) if to == "litert" else (1e30,)
    for padding in paddings:
        outputs = run(inputs_of(4, 6, padding))
        for output, expected in zip(outputs, model(inputs_of(4, 6)), strict=True):
            np.testing.assert_allclose(output, expected, **TOLERANCE)


# Ragged, skip_padding ---------------------------------------------------------------------------


def attention_model(ragged=False, mask_zero=True, **attention):
    """Ids of a history and of candidates -> DIN's attention."""
    history = keras.Input((None,), dtype="int32", name="history", ragged=ragged)
    candidates = keras.Input((None,), dtype="int32", name="candidates")
    embedding = keras.layers.Embedding(9, DIM, mask_zero=mask_zero)
    attend = din_layers.AttentionPoolingLayer((5,), **attention)
    return keras.Model([history, candidates], attend([embedding(candidates), embedding(history)]))


HISTORY = np.array([[3, 5, 2, 0], [0, 0, 0, 0], [0, 4, 0, 1]], "int32")
CANDIDATES = np.array([[1, 2], [3, 4], [5, 8]], "int32")

# Imports TensorFlow and nothing else that knows the layers.
FRESH = """
import sys
import numpy as np, tensorflow as tf
folder = sys.argv[1]
data = np.load(folder + "/data.npz")
history, candidates = data["history"], data["candidates"]

def check(outputs, name):
    np.testing.assert_allclose(outputs, data["expected"], rtol=1e-5, atol=1e-6, err_msg=name)

for name in ("padded", "skip_padding", "ragged"):
    model = tf.saved_model.load(f"{folder}/{name}")
    check(model.serve([history, candidates]), name)
    assert not np.any(model.serve([history[:, :0], candidates])), name
model, valid = tf.saved_model.load(f"{folder}/values_and_lengths"), history != 0
check(model.serve(history[valid], valid.sum(1), candidates), "values and lengths")
assert "din_layers" not in sys.modules
print("same")
"""


def test_a_saved_model_needs_tensorflow_only(tmp_path):
    """Padded, `skip_padding=True`, ragged with dense inputs, and ragged with its own."""
    models = {
        "padded": attention_model(),
        "skip_padding": attention_model(skip_padding=True),
        "ragged": attention_model(ragged=True),
    }
    for name, model in models.items():
        model.set_weights(models["padded"].get_weights())
        model.export(tmp_path / name, verbose=False)
    ragged, archive = models["ragged"], keras.export.ExportArchive()

    def serve(values, lengths, candidates):
        history = tf.RaggedTensor.from_row_lengths(values, lengths)
        return ragged([history, candidates], training=False)

    archive.track(ragged)
    signature = [
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, None], tf.int32),
    ]
    archive.add_endpoint("serve", serve, input_signature=signature)
    archive.write_out(tmp_path / "values_and_lengths", verbose=False)

    expected = models["padded"]([HISTORY, CANDIDATES])
    assert np.any(expected)
    data = {"history": HISTORY, "candidates": CANDIDATES, "expected": expected}
    np.savez(tmp_path / "data.npz", **data)
    assert run_fresh(FRESH, tmp_path).endswith("same\n")
