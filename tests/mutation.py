"""Mutation testing of the numeric files: does a test fail for every small change of the code?

    pip install -e ".[dev]"
    python tests/mutation.py                        # every change: about three hours
    python tests/mutation.py --sample 500           # so many, drawn with a fixed seed
    python tests/mutation.py --only _dice --jobs 2
    python tests/mutation.py --report               # the score so far, and what survived

cosmic-ray makes the changes; each is tested in a copy of the package, in a process forked from one
that has TensorFlow already: first by the tests of its file, where most die, then by laws. What
is finished is kept in `--out` and not tested again: interrupt it when you like. The changes that
survive, and why, are in `docs/mutation.md`.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "din_layers"
# The laws about numbers; those about padding take several times as long.
LAWS = [
    f"test_laws.py::test_{law}"
    for law in (
        "a_row_is_the_float64_result_on_its_valid_events",
        "skipping_the_padding_changes_nothing",
        "many_queries_are_as_many_calls",
        "an_overflowing_number_of_steps_is_still_a_length",
        "sources_agree_on_gradients",
        "symbolic_outputs_match_real_ones",
    )
]
# By file the tests that look at it most closely.
TESTS = {
    "_attention_pooling_layer": ["test_attention_pooling_layer.py", *LAWS],
    "_augru": ["test_augru.py", *LAWS],
    "_dice": ["test_dice.py", *LAWS],
    "_gauc": ["test_gauc.py"],
    "_history": [
        "test_sequence_pooling_layer.py",
        "test_weighted_sequence_layer.py",
        "test_attention_pooling_layer.py",
        *LAWS,
    ],
    "_local_activation_unit": ["test_attention_pooling_layer.py", *LAWS],
    "_mini_batch_aware_l2": ["test_mini_batch_aware_l2.py"],
    "_sequence_pooling_layer": ["test_sequence_pooling_layer.py", *LAWS],
    "_weighted_sequence_layer": ["test_weighted_sequence_layer.py", *LAWS],
}
TIMEOUT = 1200  # seconds; what loops for ever has been noticed
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the nth place that an operator of cosmic-ray finds there."""

    module: str
    source: str  # a digest, so that results of older code are not taken
    operator: str
    occurrence: int
    line: int

    def code(self) -> str:
        """Return the changed file."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        if self.operator == UNCHANGED:
            return _file(self.module).read_text()
        changed: str = mutate_code(
            _file(self.module).read_text(), get_operator(self.operator)(), self.occurrence
        )
        return changed

    def difference(self) -> str:
        """Return the first line that differs, before and after."""
        lines = zip(
            _file(self.module).read_text().splitlines(), self.code().splitlines(), strict=False
        )
        before, after = next((a, b) for a, b in lines if a != b)
        return f"    {before.strip()}\n    {after.strip()}"


def _file(module: str) -> Path:
    return PACKAGE / f"{module}.py"


def mutants(module: str) -> Iterator[Mutant]:
    """Yield all changes of a file."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast_from_path(_file(module))
    digest = hashlib.sha256(_file(module).read_bytes()).hexdigest()[:12]
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
        self.log = Path(self.folder.name, "log")
        self.process = os.fork()
        if not self.process:
            _become_pytest(self.folder.name, self.log, TESTS[mutant.module])

    def finished(self) -> dict[str, Any] | None:
        """Return the result, or None while the tests run."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        seconds = time.monotonic() - self.start
        if not done and seconds < TIMEOUT:
            return None
        if not done:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        lines = self.log.read_text(errors="replace").splitlines()
        by = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
        self.folder.cleanup()
        return {
            **asdict(self.mutant),
            "survived": bool(done) and status == 0,
            "by": by,
            "seconds": round(seconds, 1),
        }


def _become_pytest(folder: str, log: Path, files: Sequence[str]) -> None:
    """Run the tests in this process, which imports the package from `folder`, and end it."""
    import pytest

    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    # Here, and in the processes that tests start, `import din_layers` finds the mutant.
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder
    sys.path.insert(0, folder)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    options += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    code = 1
    try:
        code = int(pytest.main([*options, *(f"{ROOT}/tests/{file}" for file in files)]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def check_unchanged(modules: set[str]) -> None:
    """Exit unless the tests of every file pass: else a failure would say nothing of a change."""
    for module in sorted(modules):
        trial = Trial(Mutant(module, "", UNCHANGED, 0, 0))
        while (result := trial.finished()) is None:
            time.sleep(0.05)
        if not result["survived"]:
            sys.exit(f"without any change, the tests of {module} fail: {result['by']}")


def run(waiting: list[Mutant], jobs: int, out: Path) -> None:
    """Test the mutants, several at a time; write each result as soon as it is there."""
    from tqdm import tqdm

    trials: list[Trial] = []
    with out.open("a") as file, tqdm(total=len(waiting), unit="mutant", mininterval=10) as bar:
        while waiting or trials:
            while waiting and len(trials) < jobs:
                trials.append(Trial(waiting.pop()))
            time.sleep(0.05)
            for trial in list(trials):
                if result := trial.finished():
                    trials.remove(trial)
                    print(json.dumps(result), file=file, flush=True)
                    bar.update()


def report(results: Sequence[dict[str, Any]], total: int) -> str:
    """Return the score and the survivors."""
    survivors = [result for result in results if result["survived"]]
    killed = len(results) - len(survivors)
    lines = [f"{len(results)} of {total} mutants tested, {killed} killed"]
    lines += [f"{killed / len(results):.1%}"] if results else []
    fields = Mutant.__dataclass_fields__
    for result in sorted(survivors, key=lambda r: (r["module"], r["line"])):
        mutant = Mutant(**{name: result[name] for name in fields})
        lines += [f"{mutant.module}:{mutant.line} {mutant.operator}", mutant.difference()]
    return "\n".join(lines)


def main() -> None:
    """Test what was not tested before, then report."""
    parser = argparse.ArgumentParser(description="Mutation testing of the numeric files.")
    parser.add_argument("--only", nargs="+", choices=TESTS, default=list(TESTS), metavar="FILE")
    parser.add_argument("--sample", type=int, metavar="N", help="test N mutants (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutation.jsonl")
    parser.add_argument("--report", action="store_true", help="test nothing, report")
    options = parser.parse_args()

    everything = [mutant for module in options.only for mutant in mutants(module)]
    chosen = random.Random(0).sample(everything, min(options.sample or 10**9, len(everything)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.touch()
    results = [json.loads(line) for line in options.out.read_text().splitlines()]
    fields = Mutant.__dataclass_fields__
    finished = {Mutant(**{name: result[name] for name in fields}) for result in results}
    if not options.report:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
        os.environ.update(HYPOTHESIS_PROFILE="mutation", TF_NUM_INTRAOP_THREADS="1")
        import keras  # noqa: F401 the forked processes need not import it, which takes longest

        waiting = [mutant for mutant in chosen if mutant not in finished]
        check_unchanged({mutant.module for mutant in waiting})
        run(waiting, options.jobs, options.out)
        results = [json.loads(line) for line in options.out.read_text().splitlines()]
    keys = {tuple(asdict(mutant).values()) for mutant in chosen}
    results = [r for r in results if tuple(r[name] for name in fields) in keys]
    print(report(results, len(everything)))


if __name__ == "__main__":
    main()
