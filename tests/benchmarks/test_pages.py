"""The pages of speed are what the file of results gives, and nobody edits them by hand."""

import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report import Section, Table, read, update

RESULTS = read(pages.RESULTS)


def test_nobody_edits_the_pages_by_hand():
    """`python benchmarks/pages.py` makes them."""
    assert pages.SPEED.read_text("utf-8") == pages.speed(RESULTS)
    readme = pages.README.read_text("utf-8")
    assert readme == pages.with_table(readme, pages.short(RESULTS))


def test_readme_without_its_marks_is_an_error():
    with pytest.raises(ValueError, match=r"README\.md must have the lines"):
        pages.with_table(f"text {pages.BEGIN} text", "table")


words = st.text(st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="|#"))
words = words.filter(bool)


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    row = st.lists(words, min_size=width, max_size=width)
    return Table(draw(words), draw(row), draw(st.lists(row, min_size=1, max_size=3)))


@given(of=st.lists(tables(), min_size=1, max_size=3), made=words, others=st.booleans())
def test_what_is_written_is_read(of, made, others, tmp_path_factory):
    file = tmp_path_factory.mktemp("written") / "results.md"
    heading, other = "calls on JAX: what it is", "memory on JAX: what it is"
    if others:
        update(file, other, f"## {other}\n\n{of[-1]}\n\n{made}\n", [heading, other])
    text = "\n\n".join([f"## {heading}", *map(str, of), made])
    update(file, heading, text + "\n", [heading, other])
    found = read(file)
    assert found["calls", "JAX"] == Section(of, made)
    assert set(found) == {("calls", "JAX")} | ({("memory", "JAX")} if others else set())
