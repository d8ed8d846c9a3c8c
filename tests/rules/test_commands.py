"""Every command that a message advises can be copied: nothing is missing in it, and paths are quoted for the shell."""

import ast
import re
from pathlib import Path

from onestage.cli.main import VERBS

SOURCE = Path(__file__).resolve().parents[2] / "src" / "onestage"
NEED_NOTHING = {"models", "benchmark", "demo"}
COMMAND = re.compile(
    rf"(?:\A|: |\(|&& |then )onestage ({'|'.join(sorted(VERBS, key=len, reverse=True))})\b(.{{0,40}})", re.DOTALL
)
"""A command in a message, not only the name of a verb: what stands before it, the verb, and what follows."""
QUOTED = re.compile(r"\{(?:(?:shlex\.)?(?:quote|join)\(|facts\.|self\.data\})")
"""Values that are quoted already. Those of ``analysis.advice.Facts`` are, as its docstring says."""


def messages(text):
    """The texts of a program that are no docstrings, with their lines; values in them stand as {EXPRESSION}."""
    tree = ast.parse(text)
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    skipped = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    skipped |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(p.value if isinstance(p, ast.Constant) else f"{{{ast.unparse(p.value)}}}" for p in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def breaches(text):
    """The commands in the messages of a program that cannot be copied, with their lines."""
    found = []
    for line, said in messages(text):
        if said == "onestage predict":  # the name of the program, in files that it writes
            continue
        for verb, rest in COMMAND.findall(said):
            word = rest.removeprefix(" ") if rest.startswith(" ") else ""
            lacking = verb not in NEED_NOTHING and not re.match(r"[\w{'.]|--resume ", word)
            if lacking or (word.startswith("{") and not QUOTED.match(word)):
                found.append(f"{line}: onestage {verb}{rest}")
    return found


def test_every_command_in_a_message_can_be_copied():
    texts = {path.relative_to(SOURCE): path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    naming = {name: text for name, text in texts.items() if "onestage " in text}
    assert len(naming) > 50 and {str(name): found for name, text in naming.items() if (found := breaches(text))} == {}


def test_a_command_that_cannot_be_copied_is_seen():
    for fault in ("'look: onestage data check'", "f'({a} onestage train)'", "f'onestage predict {path} PICTURES'"):
        assert len(breaches(f"x = {fault.replace('({a} ', '(')}")) == 1, fault
    assert len(breaches("x = 'make it: onestage export --to onnx'")) == 1
    for right in (
        "'look: onestage data check DATA'", "f'then onestage train --resume {quote(str(run))}'", "'as onestage train does'",
        "'see onestage models'", "f'see: {command(\"data check\", path)}'", "'a file of onestage tune: best.json'",
    ):  # fmt: skip
        assert breaches(f'"""Run it: onestage train"""\nx = {right}') == [], right
