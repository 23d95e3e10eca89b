"""The examples of more than one device, as a user runs them, on a few users' ratings."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import distributed_din
import keras
import large_tables
import numpy as np
import pytest
import replicas

HAS_JAX = importlib.util.find_spec("jax") is not None
HAS_KERAS_RS = importlib.util.find_spec("keras_rs") is not None
SLICE = ["--limit", "8", "--history", "6", "--epochs", "2"]


def differences(printed):
    """Return title -> (weights, statistics, loss) of the rows that have them."""
    rows = re.findall(r"^(.*?)  +(\S+e\S+) +(\S+e\S+) +(\S+e\S+) +\S+$", printed, re.M)
    return {title.strip(): tuple(map(float, numbers)) for title, *numbers in rows}


@pytest.mark.parametrize(
    "engine",
    [
        "tensorflow",
        pytest.param("jax", marks=pytest.mark.skipif(not HAS_JAX, reason="jax is not installed")),
    ],
)
def test_two_devices_train_the_same_model_as_one(engine, tmp_path, capfd):
    out = tmp_path / "out"
    assert distributed_din.main([*SLICE, "--engine", engine, "--out", str(out)]) == 0
    printed, error = capfd.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == set(distributed_din.FILES)
    assert list(tmp_path.iterdir()) == [out]
    rows = differences(printed)
    if engine == "jax":
        assert max(rows.pop("DataParallel, two processes")) <= distributed_din.TOLERANCE
    else:
        assert max(rows.pop("MirroredStrategy, two devices")) <= distributed_din.TOLERANCE
        # The comparison can fail: without synchronization the two are not the same.
        unsynchronized = rows.pop("the same, Dice(synchronized=False)")
        assert max(unsynchronized) > 10 * distributed_din.TOLERANCE
    assert rows == {}
    assert isinstance(keras.models.load_model(out / "din.keras"), keras.Model)
    assert (out / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_an_error():
    one = distributed_din.Result(np.ones(2), {"0 a": np.zeros(2), "1 d/moving_mean": np.ones(1)}, 0)
    for change, names in (
        ({"loss": np.array([1.0, 1.1])}, "loss"),
        ({"weights": {**one.weights, "0 a": np.array([0, 1e-3])}}, "weights"),
        ({"weights": {**one.weights, "1 d/moving_mean": np.array([np.nan])}}, "statistics"),
    ):
        other = distributed_din.Result(**{**vars(one), **change})
        difference = other.difference(one)
        assert not getattr(difference, names) <= distributed_din.TOLERANCE
        with pytest.raises(RuntimeError, match="MirroredStrategy"):
            distributed_din.check({"mirrored": difference})
    distributed_din.check({"mirrored": one.difference(one)})


def test_a_process_that_fails_ends_the_others_and_is_shown(tmp_path, monkeypatch, capfd):
    """There are no batches to read; the second process waits for ever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "if sys.argv[3] == '0': sys.exit('no batches here')\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(replicas, "__file__", str(program))
    with pytest.raises(distributed_din.ProcessError) as caught:
        distributed_din.train(tmp_path, "data_parallel")
    assert "process 0, exit code 1\nno batches here" in str(caught.value)
    assert "process 1, did not end" in str(caught.value)
    if (tmp_path / "pid").exists():  # it may have been ended before it came so far
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(Path(replicas.__file__).parent)!r})
import replicas, time
replicas.end_with_parent()
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()  # as when the other end is killed
    assert process.wait(timeout=60) == 1


def refused(main, arguments, tmp_path, capsys):
    """Run an example; it must end with 2, one line on standard error, and no file."""
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    return error


@pytest.mark.parametrize(
    ("main", "arguments", "text"),
    [
        (distributed_din.main, ["--engine", "abacus"], "--engine"),
        (distributed_din.main, ["--engine", "tensorflow", "--data", "nowhere"], "nowhere"),
        (distributed_din.main, ["--epochs", "0"], "--epochs"),
        (large_tables.main, ["--limit", "one"], "--limit"),
        (large_tables.main, ["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_and_data_get_one_line(main, arguments, text, tmp_path, capsys):
    assert text in refused(main, arguments, tmp_path, capsys)


def test_jax_that_is_missing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(distributed_din.main, ["--engine", "jax"], tmp_path, capsys)
    assert 'pip install "din-layers[jax]"' in error
    assert "mirrored" in distributed_din.engines("all")
    assert "data_parallel" not in distributed_din.engines("all")


@pytest.mark.skipif(not HAS_KERAS_RS, reason="keras-rs is not installed")
def test_a_table_of_keras_rs_trains_the_same_model(tmp_path, capsys):
    assert large_tables.main([*SLICE, "--out", str(tmp_path)]) == 0
    assert "Largest difference" in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "large_tables.keras")
    assert any("DistributedEmbedding" in type(layer).__name__ for layer in model.layers)
