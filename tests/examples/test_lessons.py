"""Every lesson runs as a reader runs it: from top to bottom, without arguments and warnings.

What a lesson claims it asserts itself. `run_lesson.py` adds that no model of it counts padding.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.backend import needs_tensorflow

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "examples").glob("*.py"))

# What other packages do of themselves. Python compares the beginning of the message.
KNOWN_WARNINGS = (
    # Keras 3.15 saving a variable of TensorFlow 2.21 under NumPy 2.
    "ignore:__array__ implementation:DeprecationWarning",
    # Keras 3.15 asks NumPy 2 for `np.object` before it calls tf2onnx.
    "ignore:In the future `np.object`:FutureWarning",
    # PyTorch 2.13, when Keras makes an optimizer.
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    # An RNN of Keras 3.16 that hands no mask on.
    "ignore:Layer 'gru:UserWarning",
)


@pytest.mark.slow
@needs_tensorflow  # each chooses the backend itself where it shows another one
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_lesson_runs(lesson, tmp_path):
    run(lesson, tmp_path)


@pytest.mark.slow
def test_two_devices_may_be_compared_with_one_of_another_backend(tmp_path):
    pytest.importorskip("torch")
    run(ROOT / "examples" / "two_devices.py", tmp_path, KERAS_BACKEND="torch")


def run(lesson, folder, **environment):
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_lesson.py"), lesson],
        cwd=folder,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
            ),
            "PYTHONWARNINGS": ",".join(["error", *KNOWN_WARNINGS]),  # of its processes, too
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()


def test_all_lessons_are_in_the_table():
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\S+)`\]\((\S+)\) \|", table, re.MULTILINE)
    assert sorted(listed) == [(path.name, path.name) for path in LESSONS]
