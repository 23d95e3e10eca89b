"""The code in README, docs and docstrings does what it says; nothing in them is missing."""

import doctest
import importlib.metadata
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.padding import check_models

import din_layers
from din_layers import testing

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "blocks"), [("README.md", 4), ("docs/recipes.md", 14)])
def test_the_code_of_a_page_runs(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == blocks
    names = {}  # one for all: a reader goes on from block to block
    for block in code:
        exec(compile(block, page, "exec"), names)
    assert check_models(names.values()) > 0


def test_the_readme_has_two_commands_and_every_public_class():
    """CI takes the second command from there, by its end."""
    assert '    pip install -e ".[examples]" && python examples/studies din\n' in README
    assert '    pip install -e ".[test]" && pytest\n' in README
    for name in din_layers.custom_objects:
        assert f"| `{name}`" in README


def test_the_page_about_testing_shows_what_is_printed(capsys):
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "testing.md", "exec"), {})
    shown = "".join(
        f"    {line}\n" if line else "\n" for line in capsys.readouterr().out.splitlines()
    )
    assert shown in page


def test_every_invariant_has_its_heading_in_the_contract():
    """And says there what it is, before the next one."""
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^### `(\w+)`\n\n(.+?)(?=\n#|\Z)", page, re.DOTALL | re.MULTILINE))
    assert list(parts) == list(testing.INVARIANTS)


def test_the_reference_has_every_public_name():
    text = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("layers.md", "kit.md"))
    made = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    of_kit = [name for name in testing.__all__ if callable(getattr(testing, name))]
    public = [*din_layers.custom_objects, *(f"testing.{name}" for name in of_kit)]
    assert sorted(made) == sorted(f"din_layers.{name}" for name in public)


DOCUMENTED = {
    **din_layers.custom_objects,
    **dict(inspect.getmembers(testing, inspect.isfunction)),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_the_docstring(name):
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    names = {"np": np, "keras": keras, "tf": tf, "din_layers": din_layers, "testing": testing}
    test = parser.get_doctest(inspect.getdoc(DOCUMENTED[name]), names, name, None, 0)
    assert test.examples
    assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", din_layers.custom_objects)
def test_the_docstring_has_every_argument(name):
    layer = din_layers.custom_objects[name]
    for argument in set(inspect.signature(layer.__init__).parameters) - {"self", "kwargs"}:
        assert f"    {argument}: " in inspect.getdoc(layer), argument


def test_versions_and_names_agree():
    assert importlib.metadata.version("din-layers") == din_layers.__version__
    assert f"## [{din_layers.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert set(din_layers.custom_objects) | {"custom_objects", "__version__"} == set(
        din_layers.__all__
    )
