"""The tasks of a contributor: `nox -l` lists them, `nox -s check test` runs two.

Each session makes an environment of its own; `nox -R -s test` takes the one of last time as it is.
In an environment that has everything (`pip install -e ".[dev]"`), `nox --no-venv --no-install -s
test` makes none. What follows `--` goes to the program that the session runs: `nox -s test --
tests/layers -k dice`.
"""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["check", "test"]

# The full product of cases, few examples of each; JAX compiles each, fast rather than well.
BRIEF = {"HYPOTHESIS_PROFILE": "brief", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
BACKENDS = {
    "tensorflow": ("-e", ".[test]"),
    "jax": ("-e", ".[test,jax]"),
    "torch": ("-e", ".[test]", "torch==2.13.0"),  # of which there is a build for processors
}
# What the tests of the layers need, without the examples.
FEW = ("-e", ".[testing]", "pytest", "pytest-xdist", "pandas", "scikit-learn")

USE_THE_WHEEL = """
import importlib.metadata, pathlib
import din_layers
import numpy as np
folder = pathlib.Path(din_layers.__file__).parent
assert folder.parent.samefile("installed"), folder
assert (folder / "py.typed").exists()
assert din_layers.__version__ == importlib.metadata.version("din-layers")
pooling = din_layers.SequencePoolingLayer()
assert pooling(np.ones((2, 3, 4), "float32"), lengths=np.array([0, 2])).numpy().sum() == 4
print(din_layers.__version__, folder)
"""

# Unchanged stay the files that check, read or look up, and what is another backend's.
MUTATION = """
[cosmic-ray]
module-path = "din_layers"
excluded-modules = [
    "din_layers/__init__.py", "din_layers/testing/*", "din_layers/_backend.py",
    "din_layers/_checks.py", "din_layers/_*inputs.py", "din_layers/_old_lists.py",
    "din_layers/_numeric_layer.py", "din_layers/_id_layer.py", "din_layers/_hash_layer.py",
    "din_layers/_vocab_layer.py",
]
timeout = 1200
test-command = "python -m pytest -qx -p no:cacheprovider tests/layers tests/contract"
distributor.name = "local"
"""
DRAW = """
import random, sys
from cosmic_ray.work_db import use_db
with use_db("session.sqlite") as changes:
    drawn = random.sample(list(changes.work_items), int(sys.argv[1]))
    changes.clear()
    changes.add_work_items(drawn)
"""


@nox.session
def check(session: nox.Session) -> None:
    """Lint, format and types, in seconds."""
    session.install("ruff", "mypy", "hypothesis", "numpy")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def test(session: nox.Session) -> None:
    """Plain pytest: what everyone runs before a commit."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("backend", [nox.param(name, id=name) for name in BACKENDS])
def full(session: nox.Session, backend: str) -> None:
    """All tests, the slow ones too, on one backend: `nox -s "full(jax)"`."""
    session.install(*BACKENDS[backend])
    args = session.posargs or ("-m", "slow or not slow")
    session.run("pytest", "-q", *args, env={"KERAS_BACKEND": backend, **BRIEF})


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The contract and the layers on the oldest versions that are supported."""
    session.install(*FEW, "keras==3.12.0", "tensorflow==2.16.1", "numpy==1.26.0")
    # Not the golden files: Keras does not promise that older versions read what newer ones wrote.
    args = session.posargs or ("tests/contract", "tests/layers", "tests/saving/test_saving.py")
    session.run("pytest", "-q", *args, env=BRIEF)


@nox.session(python=["3.12", "3.13"])
def newer(session: nox.Session) -> None:
    """All layers, built, saved and loaded, on newer Pythons: `nox -s newer-3.13`."""
    session.install(*FEW)
    # Not the contract, whose numbers do not depend on Python.
    args = session.posargs or ("tests/saving",)
    session.run("pytest", "-q", *args, env=BRIEF)


@nox.session
def nightly(session: nox.Session) -> None:
    """Plain pytest on the next Keras. Not part of CI: it may fail, and says what is coming."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pip", "uninstall", "--yes", "keras")
    session.install("--pre", "keras-nightly")
    session.run("pytest", "-q", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Does a test fail for each of 120 small changes of the code? `-- 500` for more, one a minute.

    It changes a copy of the last commit. Interrupted, it goes on with `nox -R -s mutation`.
    """
    session.install("-e", ".[test]", "cosmic-ray")
    copy = Path(session.create_tmp(), "copy").resolve()
    if not copy.exists():
        session.run("git", "clone", "--quiet", ".", str(copy), external=True)
    session.chdir(copy)
    env = {"PYTHONPATH": str(copy), "HYPOTHESIS_PROFILE": "mutation"}
    if not Path("session.sqlite").exists():
        Path("mutation.toml").write_text(MUTATION, encoding="utf-8")
        session.run("cosmic-ray", "baseline", "mutation.toml", env=env)
        session.run("cosmic-ray", "init", "mutation.toml", "session.sqlite")
        session.run("python", "-c", DRAW, *(session.posargs or ["120"]))
    session.run("cosmic-ray", "exec", "mutation.toml", "session.sqlite", env=env)
    session.run("cr-report", "--surviving-only", "--show-diff", "session.sqlite")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build wheel and sdist, check their metadata, use the wheel outside the checkout."""
    session.install("build", "twine", "tensorflow", "keras")
    dist = Path(session.create_tmp(), "dist")
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), ".", silent=True)
    built = [str(path) for path in sorted(dist.iterdir())]
    session.run("twine", "check", "--strict", *built)
    session.chdir(dist)
    (wheel,) = (path for path in built if path.endswith(".whl"))
    # Beside the checkout, which may be installed as well.
    session.run("python", "-m", "pip", "install", "-q", "--no-deps", "-t", "installed", wheel)
    env = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": "installed"}
    session.run("python", "-c", USE_THE_WHEEL, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; a broken link is an error."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def studies(session: nox.Session) -> None:
    """Run studies on a few users; by default that of README's first command."""
    session.install("-e", ".[examples]")
    for study in session.posargs or ["din"]:
        out = f"{session.create_tmp()}/{study}"
        few = ("--limit", "40", "--epochs", "1", "--seeds", "1")
        session.run("python", "examples/studies", study, *few, "--out", out)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the speed and write benchmarks/results.md: `nox -s bench -- --only attention`."""
    session.install("-e", ".[examples]")
    session.run("python", "benchmarks/run.py", *session.posargs)
