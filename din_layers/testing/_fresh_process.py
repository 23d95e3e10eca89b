"""Runs Python code in a process of its own, which finds packages where this one does."""

import os
import subprocess
import sys

import keras


def run_fresh(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a fresh Python process; return what it prints, raise if it fails."""
    inherited = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "KERAS_BACKEND": keras.backend.backend(),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a fresh process failed:\n{done.stderr}")
    return done.stdout
