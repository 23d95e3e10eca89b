"""Score one request with an exported model: the server's side of `serve_candidates.py`.

    python examples/score_exported.py RUNTIME MODEL REQUEST ANSWER REPEATS

imports NumPy and the runtime, and nothing of Keras or `din_layers`. REQUEST (.npz) holds the inputs
of the model for one user: the candidates (1, candidates) first, then what makes up the history,
(1, history) each. They are scored in two ways, REPEATS times each, in turn:

    once    as they are: the candidates share the history
    tiled   as a model without an axis for candidates needs them: one row for each candidate, with
            the history in every row

ANSWER (.npz) gets the scores, the seconds and the size of the inputs of both ways, and which
packages the process has imported.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Score = Callable[[Arrays], Any]  # the inputs by name -> scores

WARM_UP = 10  # the first requests of a new shape find nothing in memory


def saved_model(path: str) -> Score:
    """Load a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def score(inputs: Arrays) -> Any:
        # The signature lives as long as the object that it was loaded with.
        return loaded.signatures["serving_default"](**inputs)["output_0"].numpy()

    return score


def litert(path: str) -> Score:
    """Load a LiteRT model."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner("serving_default")
    return lambda inputs: runner(**inputs)["output_0"]


def onnx(path: str) -> Score:
    """Load an ONNX model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda inputs: session.run(None, inputs)[0]


RUNTIMES = {"SavedModel": saved_model, "LiteRT": litert, "ONNX": onnx}


def as_tensors(runtime: str, inputs: Arrays) -> Arrays:
    """Make what the runtime takes, so that the clock runs for the model alone."""
    if runtime != "SavedModel":
        return inputs
    import tensorflow as tf

    return {name: tf.constant(values) for name, values in inputs.items()}


def tiled(request: Arrays) -> Arrays:
    """One row for each candidate, with the history in every row."""
    (name, candidates), *history = request.items()
    count = candidates.shape[1]
    return {name: candidates.T, **{key: np.repeat(values, count, 0) for key, values in history}}


def size(inputs: Arrays) -> int:
    """Count the bytes of a request; a character of an id is one byte."""
    return sum(
        int(np.strings.str_len(values).sum()) if values.dtype.kind == "U" else values.nbytes
        for values in inputs.values()
    )


def main() -> None:
    runtime, model, request_file, answer_file, repeats = sys.argv[1:]
    with np.load(request_file) as file:
        request = dict(file)
    ways = {"once": request, "tiled": tiled(request)}
    inputs = {way: as_tensors(runtime, asked) for way, asked in ways.items()}
    # A model for each way: LiteRT lays out its memory anew where shapes change.
    score = {way: RUNTIMES[runtime](model) for way in ways}
    scores, seconds = {}, {way: [] for way in ways}
    for repeat in range(WARM_UP + int(repeats)):
        for way in ways:
            start = time.perf_counter()
            scores[way] = score[way](inputs[way])
            if repeat >= WARM_UP:
                seconds[way].append(time.perf_counter() - start)
    imported = {"din_layers", "keras", "tensorflow"} & set(sys.modules)
    np.savez(
        answer_file,
        imported=sorted(imported),
        **{f"{way}_scores": scores[way].ravel() for way in ways},
        **{f"{way}_seconds": seconds[way] for way in ways},
        **{f"{way}_bytes": size(ways[way]) for way in ways},
    )


if __name__ == "__main__":
    main()
