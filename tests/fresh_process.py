"""Runs a program in a process that has imported nothing yet."""

import os
import subprocess
import sys


def run_fresh(program, *args, **environment):
    """Run Python source with `sys.argv[1:] == args` and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
