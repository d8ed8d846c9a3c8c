"""No test sends a signal to the process that runs the tests: what goes wrong there ends them all, and nobody hears why."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
HELPERS = "small_runs.py"
"""Where ``signal_here`` is, which works only in a process that a test began, and ``send``."""
PROGRAMS = TESTS / "old"
"""Its programs run in other processes."""
FILES = sorted(p for p in TESTS.rglob("*.py") if p.name != HELPERS and PROGRAMS not in p.parents and p != Path(__file__))

MENTIONED = re.compile(r"os\.kill|raise_signal|pthread_kill|abort\(")
TO_ITSELF = re.compile(
    r"\bos\.kill(pg)?\b.*\bgetp(id|gid|grp)\b"
    r"|\bos\.kill(pg)?\((0,|.* or 0\b)"  # process 0 stands for all processes of the group
    r"|\b(raise_signal|pthread_kill|abort)\("
)
"""A call that signals the process that makes it, or may."""


def breaches(text: str) -> list[str]:
    if not MENTIONED.search(text):  # most files, and parsing takes long
        return []
    calls = (ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return [call for call in calls if TO_ITSELF.search(call)]


def test_no_test_signals_the_process_that_runs_it() -> None:
    found = {path.relative_to(TESTS).as_posix(): calls for path in FILES if (calls := breaches(path.read_text("utf-8")))}
    assert not found, "use signal_here or send of small_runs"


@pytest.mark.parametrize(
    "line",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        "at_step(patch, 5, lambda _: os.kill(os.getpid(), 2))",
        "threading.Timer(1, os.kill, (os.getpid(), 2))",
        "os.kill(process.pid or 0, signal.SIGTERM)",
        "os.kill(0, 15)",
        "os.killpg(os.getpgrp(), 15)",
        "signal.raise_signal(2)",
        "os.abort()",
    ],
)
def test_a_breach_is_seen(line: str) -> None:
    assert breaches(line)


@pytest.mark.parametrize(
    "line", ["os.kill(pid, signal.SIGKILL)", "signal_here(2)", "send(2, process)", "os.killpg(process.pid, 15)"]
)
def test_signals_to_other_processes_pass(line: str) -> None:
    assert not breaches(line)
