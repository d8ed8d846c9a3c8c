"""Work in a process that does nothing more: its memory and speed are those of this work, and its crash ends nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from onestage.analysis.plain import from_plain, to_plain
from onestage.cli.cell import Answer, Order, Refusal
from onestage.errors import ConfigError, DataError, OnestageError, WeightsError, WriteError, printable, shortened
from onestage.files import temporary_folder

PROGRAM = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from onestage.cli.cell import main
sys.exit(main(sys.argv[2:]))
"""
"""It finds the modules where the program that asks finds them, and not in the folder where it runs."""
KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, WeightsError, WriteError)}
"""Errors that are raised again as what they were. Others become a WeightsError."""
LAST = 4000
"""Bytes at the end of what a process printed that are looked at for a reason."""


def ask(order: Order, *, timeout: float) -> Answer:
    """Do an order in a new process. If the process crashes, or takes more than ``timeout`` seconds, the answer says so."""
    with temporary_folder(Path(order.folder) / "answer") as folder:
        result, said = folder / "answer.json", folder / "said.txt"
        with said.open("wb") as errors, _running(result, errors.fileno()) as process:
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it has crashed already
                process.stdin.write(json.dumps(to_plain(order)).encode() + b"\n")
                process.stdin.flush()
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                return _failed(f"it took more than {timeout:g} s, and was ended", "--cell-timeout SECONDS")
        if code == 0 and result.is_file():
            return from_plain(Answer, json.loads(result.read_text(encoding="utf-8")))
        return _failed(_how_it_ended(code, said), "run the model alone: onestage predict MODEL PICTURES")


def raised(refusal: Refusal) -> OnestageError:
    """The error that the other process had."""
    kind = KINDS.get(refusal.kind, WeightsError)
    where, got, expected, fix = refusal.where, refusal.got, refusal.expected, refusal.fix
    return kind(refusal.what, where=where, got=got, expected=expected, fix=fix)


@contextlib.contextmanager
def _running(result: Path, errors: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the block. It ends with the block, and so do all that it began."""
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path), str(result)]
    apart = os.name == "posix"  # Ctrl-C is for the program that asked
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=apart)
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            if process.poll() != 0 and os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            elif process.returncode != 0:
                process.kill()
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        process.wait()


def _failed(reason: str, fix: str) -> Answer:
    return Answer(Refusal("WeightsError", reason, fix=fix))


def _how_it_ended(code: int, said: Path) -> str:
    """Why a process gave no answer: the signal that ended it, or the last line that it printed."""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            why = ", as by the system when memory runs out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{why}"
    lines = said.read_bytes()[-LAST:].decode(errors="replace").strip().splitlines()
    return shortened(printable(lines[-1] if lines else f"its process ended with status {code}"))
