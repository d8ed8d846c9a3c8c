"""The rules for words in CONTRIBUTING.md: docstrings in the imperative, and no words that hide their subject."""

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
INDIRECT = re.compile(
    r"\b(?:its|their|your|'s) own\b|\bof one's own\b|\b(?:elsewhere|otherwise than|but for|somebody|nobody|whoever|anew)\b",
    re.I,
)


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


@pytest.mark.parametrize("place", ["src", "docs", "benchmarks", "README.md", "CONTRIBUTING.md"])
def test_words_name_their_subject(place):
    path = ROOT / place
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".py", ".md"))
    assert files
    lines = [(file, number, line) for file in files for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)]
    found = [f"{file.relative_to(ROOT)}:{number}: {line.strip()}" for file, number, line in lines if INDIRECT.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["in its own file", "the recipe's own", "told elsewhere", "all but for the last", "Nobody reads it"]
)
def test_an_indirect_word_is_seen(text):
    assert INDIRECT.search(text)
