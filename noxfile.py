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
