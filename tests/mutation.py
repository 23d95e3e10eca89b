"""Mutation testing of the numeric files: does a test fail for every small change of the code?

    pip install -e ".[dev]"
    python tests/mutation.py                        # every change: some hours
    python tests/mutation.py --sample 500           # so many, drawn with a fixed seed
    python tests/mutation.py --report               # the score so far, and what survived

cosmic-ray makes the changes. Each is tested in a copy of the package, in a process forked from one
that has TensorFlow already, by the quick tests of the layers and of their contract. What is
finished is kept in `runs/mutation.jsonl` and not tested again: interrupt it when you like.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "din_layers"
# Not those that only check, read or look up.
OTHERS = "__init__ _backend _checks _hash_layer _id_layer _inputs _old_lists _vocab_layer"
MODULES = sorted({path.stem for path in PACKAGE.glob("*.py")} - set(OTHERS.split()))
RESULTS = ROOT / "runs" / "mutation.jsonl"
TIMEOUT = 1200  # seconds; what loops for ever has been noticed


class Mutant(NamedTuple):
    """One change of one file: the nth place that an operator of cosmic-ray finds there."""

    module: str
    digest: str  # of the file, so that results of older code are not taken
    operator: str  # "" changes nothing
    occurrence: int
    line: int

    def code(self) -> str:
        source = (PACKAGE / f"{self.module}.py").read_text()
        operator = self.operator and get_operator(self.operator)()
        return mutate_code(source, operator, self.occurrence) if operator else source

    def __str__(self) -> str:
        before, after = (one.code().split("\n") for one in (self._replace(operator=""), self))
        place = next(i for i, line in enumerate(before) if line != after[i])
        change = f"{before[place].strip()}\n    {after[place].strip()}"
        return f"{self.module}:{self.line} {self.operator}\n    {change}"


def mutants(module: str) -> Iterator[Mutant]:
    file = PACKAGE / f"{module}.py"
    tree, digest = get_ast_from_path(file), hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    for name in operator_names():
        if get_operator(name).arguments():
            continue  # a family of operators that does nothing unless configured
        operator = get_operator(name)()
        places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
        for occurrence, ((line, _), _) in enumerate(places):
            yield Mutant(module, digest, name, occurrence, line)


class Trial:
    """A mutant under test, in a process and a folder of its own."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.start = time.monotonic()
        self.folder = tempfile.TemporaryDirectory()
        shutil.copytree(PACKAGE, Path(self.folder.name, PACKAGE.name))
        Path(self.folder.name, PACKAGE.name, f"{mutant.module}.py").write_text(mutant.code())
        self.process = os.fork()
        if not self.process:
            _become_pytest(self.folder.name, mutant.module)

    def finished(self) -> dict[str, object] | None:
        """Return the result, or None while the tests run."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        if not done and time.monotonic() - self.start < TIMEOUT:
            return None
        if not done:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        lines = Path(self.folder.name, "log").read_text(errors="replace").splitlines()
        by = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
        self.folder.cleanup()
        return {"mutant": self.mutant, "survived": bool(done) and status == 0, "by": by}


def _become_pytest(folder: str, module: str) -> None:
    """Run the tests in this process, which imports the package from `folder`, and end it."""
    os.setsid()
    os.dup2(os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    # Here, and in the processes that tests start, `import din_layers` finds the mutant.
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder
    sys.path.insert(0, folder)
    # The file's own tests first, where most mutants die.
    folders = [ROOT / "tests/layers", ROOT / "tests/contract"]
    chosen = [*folders[0].glob(f"test{module}.py"), *folders]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    options += ["-m", "not slow", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    code = 1
    try:
        code = int(pytest.main([*options, *map(str, chosen)]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(waiting: Sequence[Mutant]) -> Iterator[dict[str, object]]:
    """Test the mutants, several at a time; yield each result as soon as it is there."""
    trials, waiting = [], list(waiting)
    while waiting or trials:
        while waiting and len(trials) < (os.cpu_count() or 1):
            trials.append(Trial(waiting.pop()))
        time.sleep(0.05)
        for trial in list(trials):
            if result := trial.finished():
                trials.remove(trial)
                yield result


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of the numeric files.")
    parser.add_argument("--sample", type=int, metavar="N", help="test N mutants (default: all)")
    parser.add_argument("--report", action="store_true", help="test nothing, report")
    options = parser.parse_args()
    everything = [mutant for module in MODULES for mutant in mutants(module)]
    chosen = random.Random(0).sample(everything, min(options.sample or 10**9, len(everything)))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.touch()
    results = map(json.loads, RESULTS.read_text().splitlines())
    survived = {Mutant(*result["mutant"]): result["survived"] for result in results}
    waiting = [mutant for mutant in chosen if mutant not in survived]
    if waiting and not options.report:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
        os.environ.update(HYPOTHESIS_PROFILE="mutation", TF_NUM_INTRAOP_THREADS="1")
        importlib.import_module("keras")  # which takes longest: forked processes need not do it
        (unchanged,) = run([Mutant(MODULES[0], "", "", 0, 0)])
        if not unchanged["survived"]:
            sys.exit(f"without any change, the tests fail: {unchanged['by']}")
        with RESULTS.open("a") as file:
            for result in tqdm(run(waiting), total=len(waiting), unit="mutant"):
                print(json.dumps(result), file=file, flush=True)
                survived[result["mutant"]] = result["survived"]
    tested = [mutant for mutant in chosen if mutant in survived]
    survivors = sorted(mutant for mutant in tested if survived[mutant])
    killed = 1 - len(survivors) / max(len(tested), 1)
    print(f"{len(tested)} of {len(everything)} mutants tested, {killed:.1%} killed; survivors:")
    print("\n".join(map(str, survivors)))


if __name__ == "__main__":
    main()
