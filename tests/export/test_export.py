"""Exported models give Keras's numbers, each in its own runtime.

What cannot be exported is pinned with its error, so that the docs say what is true.
"""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from backend import needs_tensorflow
from cases import CASES, DIM

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
    "attend_sequence_raw_dice",
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
    # LiteRT lacks the segment operations of `skip_padding=True` and the loop of RNNs, see below.
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


def test_a_history_without_a_position_is_beyond_both_runtimes(runtime):
    """Keras and a SavedModel give zeros; the others need one position, which may be padding."""
    _, _, run = runtime
    with pytest.raises(Exception, match=r"reshape|Size\(\) must be >= 0"):
        run(inputs_of(2, 0))


# Ragged, skip_padding, strings -----------------------------------------------------------------


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


def test_a_ragged_model_without_a_mask_counts_padding_once_it_is_exported(tmp_path):
    """Keras exports it with dense inputs: only `mask_zero=True` tells the padding apart."""
    model = attention_model(ragged=True, mask_zero=False)
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    rows = tf.RaggedTensor.from_tensor(tf.constant(HISTORY[:1, :3]))
    expected = model([rows, tf.constant(CANDIDATES[:1])])
    np.testing.assert_allclose(served.serve([HISTORY[:1, :3], CANDIDATES[:1]]), expected, rtol=1e-5)
    assert np.abs(served.serve([HISTORY[:1], CANDIDATES[:1]]) - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "error"), [("attend_skip", "FlexSegmentMax"), ("evolve", "FlexTensorListReserve")]
)
def test_skip_padding_and_a_recurrence_are_beyond_litert(tmp_path, name, error):
    """The first can be switched off: the weights are the same."""
    run = export(model_of([name]), tmp_path, "litert")
    with pytest.raises(RuntimeError, match=error):
        run(inputs_of(2, 3))


@pytest.mark.parametrize(
    ("to", "layer", "error"),
    [
        ("litert", din_layers.VocabLayer(["a"]), "FlexHashTableV2"),
        ("litert", din_layers.HashLayer(9), "FlexStringToHashBucketFast"),
        ("onnx", din_layers.VocabLayer(["a"]), "No Op registered for LookupTableFindV2"),
        ("onnx", din_layers.HashLayer(9), "No Op registered for StringToHashBucketFast"),
    ],
)
def test_strings_are_not_for_litert_and_onnx(tmp_path, to, layer, error):
    """The export itself raises nothing; `examples/serving.py` goes around it."""
    strings = keras.Input((None,), dtype="string", name="strings")
    model = keras.Model(strings, layer(strings))
    model(tf.constant([["a", "b"]]))
    with pytest.raises(Exception, match=error):
        export(model, tmp_path, to)({"strings": np.array([["a", "b"]], object)})
