"""The rules for docstrings in CONTRIBUTING.md: what a function does is said in the imperative."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIRD_PERSON = (
    "Builds Checks Computes Counts Deletes Draws Finds Gathers Gives Joins Keeps Leaves Makes Moves Prints Raises Reads "
    "Removes Returns Runs Saves Says Shows Tells Trains Turns Waits Writes Yields"
)
SENTENCE = re.compile(rf"(?:\A|[.:]\s+|\n\s*\n\s*)(?:{'|'.join(THIRD_PERSON.split())})\b[^.]*")
RETURN_FIRST = re.compile(r"\AReturn\b[^.]*")


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """The docstring of every function and class in a file's text, with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (docstring := ast.get_docstring(node)):
            yield node.lineno, docstring


def breaches(text: str) -> list[str]:
    """What the rules say against the docstrings in a file's text, a line each."""
    return [
        f"{line}: {match[0].strip()}"
        for line, docstring in docstrings(text)
        for rule in (SENTENCE, RETURN_FIRST)
        for match in rule.finditer(docstring)
    ]


@pytest.mark.parametrize("folder", ["src", "docs", "benchmarks"])
def test_docstrings_are_in_the_imperative(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [f"{path.relative_to(ROOT)}:{breach}" for path in files for breach in breaches(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "docstring",
    [
        "Returns the sum.",
        "Return the sum.",
        "The sum. Raises DataError if there is none.",
        "The sum.\n\n    Raises DataError if there is none.\n    ",
        "Write a file. Returns its path.",
    ],
)
def test_a_breach_is_seen(docstring):
    assert breaches(f'def f():\n    """{docstring}"""')


@pytest.mark.parametrize(
    "docstring", ["The sum. Raise DataError if there is none.", "Write a file. Return its path.", "Who says what."]
)
def test_the_imperative_and_a_noun_phrase_pass(docstring):
    assert not breaches(f'def f():\n    """{docstring}"""')
