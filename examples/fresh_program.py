"""Runs a program as whoever deploys a model would: in a process that has imported nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys


def run_program(program: str, *arguments: object) -> None:
    """Run Python source with these arguments; raise with what it wrote if it fails."""
    process = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        # The fresh process finds packages where this one does.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"the fresh process failed:\n{process.stderr}")
