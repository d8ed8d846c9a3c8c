"""Every error says what is expected or what to do."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
ERRORS = {"ConfigError", "DataError", "WeightsError", "WriteError", "LostError", "UnfitError", "RowError", "KeywordError"}
ERRORS |= {"MismatchError"}


def without_remedy(text):
    """The lines of errors that have neither ``expected`` nor ``fix``: calls of classes, and of variables that are raised."""
    nodes = list(ast.walk(ast.parse(text)))
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    variables |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    raised = [node.exc for node in nodes if isinstance(node, ast.Raise)]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    made = [call for call in calls if name_of(call) in ERRORS or (call in raised and name_of(call) in variables)]
    return [call.lineno for call in made if not {"expected", "fix", None} & {keyword.arg for keyword in call.keywords}]


def name_of(call):
    """The name of what is called, without what stands before a dot."""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def test_every_error_says_what_is_expected_or_what_to_do():
    files = sorted(SOURCE.rglob("*.py"))
    found = [f"{path.relative_to(SOURCE)}:{line}" for path in files for line in without_remedy(path.read_text("utf-8"))]
    assert files and found == []


def test_an_error_without_a_remedy_is_seen():
    for fault in ("DataError('x', where=path, got=1)", "errors.DataError('x')"):
        assert without_remedy(f"raise {fault}") == [1]
    assert without_remedy("kind = DataError if a else WeightsError\nraise kind('x')") == [2]
    assert without_remedy("def refuse(kind):\n    raise kind('x', got=1)") == [2]
    assert without_remedy("def made():\n    pass\nraise made('x')") == []  # the function makes the error
    assert (
        without_remedy("raise DataError('x', fix='y')\nraise DataError('x', expected='y')\nraise DataError('x', **parts)") == []
    )
