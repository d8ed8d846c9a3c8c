"""Ctrl-C before a verb begins."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from onestage import processes
from onestage.cli import early
from small_runs import signal_here, start

ROOT = Path(__file__).resolve().parents[3]


class _Interrupting:
    """Looks for modules before all others, and sends a signal when one is looked for."""

    def __init__(self, module: str, number: int) -> None:
        self.module, self.number = module, number

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == self.module:
            signal_here(self.number)


def run_interrupted(module: str, number: int = signal.SIGINT, words: str = "models") -> None:
    """Run the program, and send it a signal when it imports a module."""
    sys.modules.pop("onestage.cli.main", None)
    sys.modules.pop(module, None)
    sys.meta_path.insert(0, _Interrupting(module, number))
    sys.argv = ["onestage", *words.split()]
    from onestage.__main__ import main

    sys.exit(main())


IN_BATCH = ("onestage.scale.batch", "batch none -o none --model none --engine ray")


@pytest.mark.parametrize(
    ("module", "words", "number"),
    [
        *((name, "models", signal.SIGINT) for name in ("onestage.cli.main", "rich.table", "tyro", "onestage.cli.models")),
        *(("tyro", "models", number) for number in (signal.SIGTERM, signal.SIGHUP)),
        *((*IN_BATCH, number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_while_modules_are_imported_ends_without_a_traceback(module: str, words: str, number, tmp_path: Path) -> None:
    process = start(run_interrupted, module, number, words, log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 130 and (tmp_path / "log").read_text() == "error: interrupted\n"


def test_one_of_several_processes_tells_it(tmp_path: Path) -> None:
    for said in ("error: interrupted\n", ""):
        log = tmp_path / f"log{len(said)}"
        process = start(run_interrupted, "tyro", log=log, ONESTAGE_TOLD=str(tmp_path / "told"))
        process.join(60)
        assert process.exitcode == 130 and log.read_text() == said
    assert early.TOLD == processes.TOLD


def call_verb() -> None:
    """Call a verb in a program, which goes on after Ctrl-C."""
    from onestage.cli.main import main

    sys.modules.pop(IN_BATCH[0], None)
    sys.meta_path.insert(0, _Interrupting(IN_BATCH[0], signal.SIGINT))
    os.write(1, f"{main(IN_BATCH[1].split())} goes on".encode())


def test_a_program_that_calls_a_verb_is_not_ended(tmp_path: Path) -> None:
    process = start(call_verb, log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "log").read_text() == "error: interrupted\n130 goes on"


def run_verb() -> None:
    """Run a verb that tells what Ctrl-C calls in it, and tell what it calls afterwards."""
    import onestage.cli.models as verb
    from onestage.__main__ import main

    def models() -> int:
        os.write(1, f"{signal.getsignal(signal.SIGINT) == signal.default_int_handler} ".encode())
        return 0

    verb.models = models  # type: ignore[assignment]
    sys.argv = ["onestage", "models"]
    assert main() == 0
    os.write(1, signal.getsignal(signal.SIGINT).name.encode())  # type: ignore[union-attr]


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_verb_is_interrupted_as_usual(debug: str, tmp_path: Path) -> None:
    process = start(run_verb, log=tmp_path / "log", ONESTAGE_DEBUG=debug)
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "log").read_text() == "True SIG_DFL"


def tell_handler(ignored: bool) -> None:
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    early.begin()
    os.write(1, str(signal.getsignal(signal.SIGINT) == early.end).encode())
    early.stop()


@pytest.mark.parametrize(("ignored", "debug", "ends"), [(False, "", "True"), (True, "", "False"), (False, "1", "False")])
def test_who_ignores_ctrl_c_or_wants_a_traceback_keeps_it(ignored: bool, debug: str, ends: str, tmp_path: Path) -> None:
    process = start(tell_handler, ignored, log=tmp_path / "log", ONESTAGE_DEBUG=debug)
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "log").read_text() == ends


def test_the_program_hears_ctrl_c_before_it_imports_what_takes_time() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"onestage": "onestage.__main__:main"}
    code = "import re, sys; before = {*sys.modules}; import onestage.__main__; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light = {"importlib", "importlib._bootstrap", "importlib._bootstrap_external", "signal", "warnings", "_warnings"}
    own = {"onestage", "onestage.__main__", "onestage.cli", "onestage.cli.early"}
    assert {*done.stdout.split()} <= light | own
