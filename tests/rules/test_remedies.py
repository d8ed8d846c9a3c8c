"""Every error says what is expected or what to do."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
ERRORS = {"ConfigError", "DataError", "WeightsError", "WriteError", "LostError", "UnfitError", "RowError", "KeywordError"}
ERRORS |= {"MismatchError", "ProblemsError", "GoneError"}


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


def named_twice(text):
    """The settings that one text of a program names as options, and as Python does too: the command line would reword these."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        said = "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
        options = re.findall(r"--([a-z][a-z-]*)", re.sub(r"\bonestage [a-z]+ .*", "", said))
        found |= {option for option in options if re.search(rf"\b{option.replace('-', '_')}=", said)}
    return sorted(found)


def test_a_remedy_names_a_setting_once():
    texts = {path.name: path.read_text("utf-8") for path in SOURCE.rglob("*.py") if "cli" not in path.parts}
    naming = {name: text for name, text in texts.items() if "--" in text}  # to parse the others would take seconds
    assert len(naming) > 50 and {name: found for name, text in naming.items() if (found := named_twice(text))} == {}
    assert named_twice("x = f'{a}: --on-bad skip, in Python on_bad=1'") == ["on-bad"]
    assert named_twice("x = '--on-bad skip: ' 'on_bad=1'") == ["on-bad"]
    for right in ("--bad skip, on_bad=1", "leave size= out: onestage train DATA --size 3x4"):
        assert named_twice(f"x = {right!r}") == []
