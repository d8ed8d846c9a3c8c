"""One run folder, one run, and the lock of a dead process is in nobody's way."""

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import ConfigError
from onestage.training import lock as module
from onestage.training.lock import FolderLock
from onestage.training.loop import resume
from small_runs import CONFIG, run, start, wait_for_step, write_pictures


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)


def test_the_second_one_is_told_who_has_the_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        lock.sign()
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on {socket.gethostname()}"), FolderLock(tmp_path):
            pass
    with FolderLock(tmp_path) as after:
        assert after.left_by is None


def hold(folder: Path) -> None:
    lock = FolderLock(folder).__enter__()
    lock.sign()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_holder_is_named_and_in_nobodys_way(tmp_path: Path) -> None:
    process = start(hold, tmp_path)
    process.join(60)
    with FolderLock(tmp_path) as lock:
        assert lock.left_by == f"process {process.pid} on {socket.gethostname()}"


def test_a_folder_that_takes_no_files_is_for_others_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with FolderLock(tmp_path / "file" / "run") as lock:
        lock.sign()
        assert lock.left_by is None


def test_two_runs_do_not_share_a_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second is refused and changes nothing. Once the first is killed, its run goes on, and that is said."""
    data, out = write_pictures(tmp_path / "data"), tmp_path / "run"
    config = replace(CONFIG, checkpoint_minutes=0.0, epochs=40, workers=1)
    first = start(run, data, out, config)
    wait_for_step(out, 2, first)
    os.kill(first.pid or 0, signal.SIGSTOP)
    with pytest.raises(ConfigError, match=f"(?s)another process is training.*process {first.pid} on"):
        resume(out)
    with pytest.raises(ConfigError, match="another process is training"):
        run(data, out, config)
    first.kill()
    first.join(60)
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    plan = (out / "config.json").read_text()
    (out / "config.json").write_text(plan.replace('"epochs": 40', '"epochs": 2'))
    resume(out)
    assert f"took the folder over from process {first.pid} on" in capsys.readouterr().out
