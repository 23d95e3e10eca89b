"""Serve a model: export it, and score 500 candidates for one user in three runtimes.

SavedModel contains the strings of the catalogue and their lookup. LiteRT and ONNX support no
strings, so they get the numeric model behind the lookup. None of the three needs this package.

    pip install -e ".[examples,export]" && python examples/serving.py
"""

import logging
import os
import subprocess
import sys
import warnings

import keras
import numpy as np

import din_layers

os.makedirs("runs/serving", exist_ok=True)
os.chdir("runs/serving")  # all files go there
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# A model of ids: films with their ratings, and candidates on an axis of their own. We train it
# briefly on made-up histories with one candidate each. The same model serves 500.
FILMS, TIME, CANDIDATES = 9_000, 50, 500
movie = keras.Input((None,), dtype="int32", name="movie")
history = keras.Input((None,), dtype="int32", name="history")
stars = keras.Input((None,), dtype="int32", name="stars")
films = keras.layers.Embedding(FILMS + 2, 16, mask_zero=True)
query = films(movie)
keys = keras.layers.Add()([films(history), keras.layers.Embedding(11, 16)(stars)])
# The ids say what is an event: `Add` hands no mask on, because the stars have none.
interest = din_layers.AttentionPoolingLayer((80, 40), "dice")([query, keys], ids=history)
x = din_layers.Dice()(keras.layers.Dense(80)(keras.layers.Concatenate()([interest, query])))
probability = keras.layers.Dense(1, activation="sigmoid")(x)  # (batch, candidates, 1)
numeric = keras.Model([movie, history, stars], probability)
numeric.compile("adam", "binary_crossentropy")
valid = np.arange(TIME) < rng.integers(1, TIME + 1, (2560, 1))
inputs = {
    "movie": rng.integers(2, FILMS + 2, (2560, 1)),
    "history": rng.integers(2, FILMS + 2, (2560, TIME)) * valid,
    "stars": rng.integers(1, 11, (2560, TIME)) * valid,
}
numeric.fit(inputs, rng.integers(0, 2, (2560, 1, 1)), batch_size=256, verbose=0)

# The lookup in front of it turns the film ids of the catalogue, which are strings, into 2, 3, ...
catalogue = np.array([f"tt{number:05}" for number in range(FILMS)])
lookup = din_layers.VocabLayer(catalogue, mask_value="")
texts = [keras.Input((None,), dtype="string", name=name) for name in ("movie", "history")]
strings = keras.Model([*texts, stars], numeric([lookup(texts[0]), lookup(texts[1]), stars]))

# One request: 500 films for one user with 50 ratings, the history given once.
places = rng.choice(FILMS, CANDIDATES + TIME, replace=False)
by_id = {
    "movie": places[None, :CANDIDATES].astype("int32") + 2,
    "history": places[None, CANDIDATES:].astype("int32") + 2,
    "stars": rng.integers(1, 11, (1, TIME)).astype("int32"),
}
np.savez("ids.npz", **by_id)
by_text = {name: catalogue[by_id[name] - 2] for name in ("movie", "history")}
np.savez("texts.npz", **by_text, stars=by_id["stars"])
expected = numeric.predict(by_id, verbose=0).ravel()

# Export. Batch, history and candidates may still have any size.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
strings.export("of_strings", verbose=False)
numeric.export("of_ids", verbose=False)
numeric.export("din.tflite", format="litert", verbose=False)
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras 3.15's
    numeric.export("din.onnx", format="onnx", verbose=False)

# The server's side, in a process that cannot import this package. It scores the request as it is,
# and then as a model without a candidate axis needs it: one row per candidate, each with history.
SERVER = """
import sys, time
sys.modules["din_layers"] = None  # importing it would be an error
import numpy as np
runtime = sys.argv[1]
request = dict(np.load("texts.npz" if runtime == "of_strings" else "ids.npz"))
rows = {name: np.repeat(x, request["movie"].size, 0) for name, x in request.items()}
answer = {}
for way, asked in {"once": request, "tiled": {**rows, "movie": request["movie"].T}}.items():
    if runtime == "LiteRT":
        from ai_edge_litert.interpreter import Interpreter
        runner = Interpreter("din.tflite", num_threads=2).get_signature_runner("serving_default")
        score = lambda: runner(**asked)["output_0"]
    elif runtime == "ONNX":
        import onnxruntime
        session = onnxruntime.InferenceSession("din.onnx")
        score = lambda: session.run(None, asked)[0]
    else:
        import tensorflow as tf
        saved = tf.saved_model.load(runtime.removesuffix(", XLA"))
        named = saved.signatures["serving_default"]
        run = tf.function(lambda x: named(**x)["output_0"], jit_compile=runtime.endswith("XLA"))
        asked = {name: tf.constant(x) for name, x in asked.items()}
        score = lambda: run(asked).numpy()
    seconds = []
    for _ in range(10 + 100):  # the first ten find nothing in memory
        begin = time.perf_counter()
        answer[way] = score().ravel()
        seconds.append(time.perf_counter() - begin)
    answer[way + "_ms"] = 1000 * np.median(seconds[10:])
np.savez(runtime, **answer)
"""
SAVED = ("of_strings", "of_ids", "of_ids, XLA")  # XLA compiles no strings
once, tiled = 4 * (CANDIDATES + 2 * TIME), 4 * CANDIDATES * (1 + 2 * TIME)
print(f"a request of ids has {once} bytes with the history once, {tiled} tiled\n")
print(f"{'':23} {'once':>8} {'tiled':>9}  tiled / once  largest difference from Keras")
for runtime in (*SAVED, "LiteRT", "ONNX"):
    subprocess.run([sys.executable, "-c", SERVER, runtime], check=True)
    answer = np.load(f"{runtime}.npz")
    apart = max(np.abs(answer[way] - expected).max() for way in ("once", "tiled"))
    once, tiled = answer["once_ms"], answer["tiled_ms"]
    name = "SavedModel " * (runtime in SAVED) + runtime
    print(f"{name:23} {once:5.1f} ms {tiled:6.1f} ms {tiled / once:13.2f} {apart:30.1e}")
    assert apart < 1e-5  # float32; each runtime sums in its own order
