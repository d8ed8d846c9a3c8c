"""Processes of a batch have nothing of the process that starts them: neither its locks nor modules of its working folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onestage.scale import server
from onestage.scale.team import Team
from onestage.scale.work import Done, Tell

LOCK = threading.Lock()


def do(shard: int, tell: Tell) -> Done:
    with LOCK:
        return Done(shard, os.getppid(), {}, {})


def begin(number: int):
    return do


def test_a_lock_that_is_held_here_stops_no_process() -> None:
    """As any thread may hold one, such as of a runtime."""
    with LOCK, Team(begin, 2, timeout=30.0) as team:
        done = [word for word in team.run([0, 1, 2]) if isinstance(word, Done)]
    assert sorted(word.shard for word in done) == [0, 1, 2] and os.getpid() not in {word.pictures for word in done}


def test_no_module_of_the_working_folder_is_imported(tmp_path: Path) -> None:
    for name in ("signal", "socket", "selectors", "pickle", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this module is of the working folder')")
    (tmp_path / "own").mkdir()
    program = tmp_path / "own" / "program.py"
    program.write_text(
        "from onestage.scale.server import context\n"
        "def work():\n    print('it works')\n"
        "if __name__ == '__main__':\n"
        "    found = context()\n"
        "    process = found.Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    raise SystemExit(process.exitcode)\n"
    )
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "it works\n"), done.stderr


def test_where_no_server_can_be_started_each_process_is_a_new_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    before = os.environ.get("PYTHONSAFEPATH")
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", too_long)
    assert server.context().get_start_method() == "spawn" and os.environ.get("PYTHONSAFEPATH") == before
