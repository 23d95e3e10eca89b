"""What JAX and PyTorch export gives their numbers, with batch and time free."""

import keras
import numpy as np
import onnxruntime
import pytest
from helpers.backend import BACKEND
from helpers.layers import CASES, DIM
from keras import ops

import din_layers

FORMATS = {"jax": ["tf_saved_model"], "torch": ["onnx", "torch"]}.get(BACKEND, [])
# The exporters warn of themselves; that of PyTorch to ONNX which knows free axes is the older one.
pytestmark = pytest.mark.filterwarnings("ignore")


def model_of(case, time):
    history = keras.Input((time,), dtype="int32", name="history")
    candidate = keras.Input((1,), dtype="int32", name="candidate")
    events = keras.layers.Embedding(9, DIM, mask_zero=True)(history)
    weights = keras.layers.Dense(1, activation="sigmoid")(events)[..., 0]
    query = keras.layers.Embedding(9, DIM)(candidate)
    inputs, ids = case.nest((case.inputs(events, weights, query), history))
    return keras.Model([history, candidate], case.unnest(case.make()(inputs, ids=ids)))


def exported(model, folder, to, **kwargs):
    """Export a model; return what runs it on arrays."""
    if to == "tf_saved_model":
        import tensorflow as tf

        model.export(folder, verbose=False, **kwargs)
        served = tf.saved_model.load(str(folder))
        return lambda inputs: served.serve(inputs)
    if to == "onnx":
        file = folder / "model.onnx"
        model.export(file, format=to, verbose=False)
        session = onnxruntime.InferenceSession(str(file))
        names = [x.name for x in session.get_inputs()]  # those that the model needs
        return lambda inputs: session.run(None, {x: inputs["hc".index(x[0])] for x in names})[0]
    import torch

    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = [([{0: batch, 1: time}, {0: batch}],)]
    file = folder / "model.pt2"
    model.export(file, format=to, verbose=False, dynamic_shapes=shapes)
    program = torch.export.load(file).module()
    return lambda inputs: program([torch.tensor(x) for x in inputs])


# Keras's RNNs are beyond `torch.export` with a free batch.
PAIRS = [(name, to) for name in CASES for to in FORMATS if to != "torch" or not CASES[name].ordered]


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_an_exported_model_gives_the_same_numbers(name, to, tmp_path):
    case = CASES[name]
    # Keras takes the steps of an RNN one by one on PyTorch: it exports as many as it sees.
    time = 5 if case.ordered and BACKEND == "torch" else None
    model = model_of(case, time)
    model([np.ones((1, 5), "int32"), np.ones((1, 1), "int32")])  # ONNX wants it called
    run = exported(model, tmp_path, to)
    rng = np.random.default_rng(1)
    for batch, positions in ((3, time or 4), (2, time or 20), (4, time or 2)):
        history = rng.integers(0, 9, (batch, positions), "int32")
        history[1] = 0
        inputs = [history, np.arange(1, batch + 1, dtype="int32")[:, None]]
        output, expected = (ops.convert_to_numpy(f(inputs)) for f in (run, model))
        # Other runtimes sum the float32 products of a few dozen terms in another order.
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="which gives every free axis a name of its own")
def test_jax_must_be_told_which_free_axes_are_one(tmp_path):
    keys, ids = keras.Input((None, DIM)), keras.Input((None,), dtype="int32")
    model = keras.Model([keys, ids], din_layers.SequencePoolingLayer("max")(keys, ids=ids))
    with pytest.raises(ValueError, match=r"`ids` must have shape .* with the `time` of `sequence`"):
        exported(model, tmp_path, "tf_saved_model")
    shapes = {"polymorphic_shapes": [[f"(batch, time, {DIM})", "(batch, time)"]]}
    run = exported(model, tmp_path, "tf_saved_model", jax2tf_kwargs=shapes)
    inputs = [np.ones((2, 4, DIM), "float32"), np.array([[1, 0, 2, 0], [0] * 4], "int32")]
    np.testing.assert_array_equal(run(inputs), model(inputs))
