"""Processes of a batch have nothing of the process that starts them: neither its locks nor modules of its working folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest

from onestage.scale import server
from onestage.scale.team import Team
from onestage.scale.work import Done, Tell
from small_runs import send, start

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


def do_after_a_loss(shard: int, tell: Tell) -> Done:
    """Wait with all shards but the first one until another server has this process than the environment names."""
    while shard and os.getppid() == int(os.environ["LOST_SERVER"]):
        time.sleep(0.01)
    return Done(shard, os.getppid(), {}, {})


def begin_after_a_loss(number: int):
    return do_after_a_loss


def lose_server() -> None:
    """Press Ctrl-C while the server begins, and kill it after the first shard."""
    server.context()
    first = forkserver._forkserver._forkserver_pid
    send(signal.SIGINT, SimpleNamespace(pid=first))
    os.environ["LOST_SERVER"] = str(first)  # which the server does not know
    with Team(begin_after_a_loss, 2, timeout=60.0) as team:
        words = team.run(range(5))
        done = [next(words)]
        send(signal.SIGKILL, SimpleNamespace(pid=first))
        done += words
    second = forkserver._forkserver._forkserver_pid
    assert [word.pictures for word in done] == [first, *[second] * 4] and {word.shard for word in done} == {*range(5)}


@pytest.mark.slow
def test_no_ctrl_c_ends_the_server_and_a_batch_outlives_it(tmp_path: Path) -> None:
    """Processes end with their server, since nothing could end them any more."""
    process = start(lose_server, log=tmp_path / "log")
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "log").read_text()


@pytest.mark.slow
def test_processes_import_no_module_of_the_working_folder_and_not_the_program(tmp_path: Path) -> None:
    """The program is one that would start a batch again wherever it is imported."""
    for name in ("signal", "socket", "selectors", "pickle", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this module is of the working folder')")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "jobs.py").write_text(
        "from onestage.scale.work import Done\ndef begin(number):\n    return lambda shard, tell: Done(shard, 1, {}, {})\n"
    )
    program = tmp_path / "own" / "program.py"
    program.write_text(
        "from jobs import begin\nfrom onestage.scale.team import Team\n"
        "with Team(begin, 1, timeout=60.0) as team:\n    print([word.shard for word in team.run([0, 1])], __file__)\n"
    )
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"[0, 1] {program}\n"), done.stderr


def test_where_no_server_can_be_started_each_process_is_a_new_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    before = os.environ.get("PYTHONSAFEPATH")
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", too_long)
    assert server.context().get_start_method() == "spawn" and os.environ.get("PYTHONSAFEPATH") == before
