"""What MkDocs needs to know of this repository: pages from outside docs/, and our docstrings."""

import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

# Docstrings that are completed at run time are imported. This backend comes with the package;
# Keras's NumPy backend, which starts faster, wants JAX and SciPy.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent
# Files that are read in the repository as well, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "benchmarks.md",
    "examples/README.md": "examples.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\(docs/([^)]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_IMAGE.sub(r"![\1](\2)", text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages.

    What exists but is no page, such as a script, is named without a link. A link to nothing stays
    as it is, and `mkdocs build --strict` fails.
    """
    sources = {page: source for source, page in PAGES.items()}
    name = page.file.src_path
    folder = (ROOT / sources.get(name, f"docs/{name}")).parent

    def to_page(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        target = (folder / link).resolve()
        if not target.exists():
            return match[0]
        path = target.relative_to(ROOT.resolve()).as_posix()
        if path in PAGES:
            return f"[{text}]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})"
        return text

    return _LINK.sub(to_page, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a reference whose docstrings were not completed."""
    if "{validity}" in output:
        raise PluginError(f"{page.file.src_path} has a docstring with {{validity}} in it")
    return output


class Docstrings(griffe.Extension):
    """Gives griffe our docstrings as they are at run time, with its own names of the sections."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Complete one docstring."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if "{validity}" in text:  # filled in when the class is made
            made = getattr(importlib.import_module(obj.module.path), obj.name)
            text = inspect.cleandoc(made.__doc__)
        text = re.sub("^Call arguments:$", "Other Args: Call arguments", text, flags=re.MULTILINE)
        obj.docstring.value = re.sub("^Example:$", "Examples: Example", text, flags=re.MULTILINE)
