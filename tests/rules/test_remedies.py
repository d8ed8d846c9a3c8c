"""Every error says what is expected or what to do."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
ERRORS = {"ConfigError", "DataError", "WeightsError", "WriteError", "LostError", "UnfitError", "RowError", "KeywordError"}
ERRORS |= {"MismatchError"}


def without_remedy(text):
    """The lines of errors that have neither ``expected`` nor ``fix``."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    made = [call for call in calls if call.func.id in ERRORS]
    return [call.lineno for call in made if not {"expected", "fix", None} & {keyword.arg for keyword in call.keywords}]


def test_every_error_says_what_is_expected_or_what_to_do():
    files = sorted(SOURCE.rglob("*.py"))
    found = [f"{path.relative_to(SOURCE)}:{line}" for path in files for line in without_remedy(path.read_text("utf-8"))]
    assert files and found == []


def test_an_error_without_a_remedy_is_seen():
    assert without_remedy("raise DataError('x', where=path, got=1)") == [1]
    assert (
        without_remedy("raise DataError('x', fix='y')\nraise DataError('x', expected='y')\nraise DataError('x', **parts)") == []
    )
