"""One run folder, one run, and the lock of a dead process is in nobody's way."""

import errno
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import ConfigError
from onestage.training import folder as run_folder
from onestage.training import lock as module
from onestage.training.inventory import Inventory
from onestage.training.lock import NAME, FolderLock
from onestage.training.loop import Training, resume
from small_runs import (
    CONFIG,
    before_step,
    finished,
    run,
    same_bits,
    send,
    signal_here,
    start,
    wait_for_step,
    write_pictures,
)  # fmt: skip


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
    signal_here(signal.SIGKILL)


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


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(module.fcntl, "flock", flock)


def refuse_writing(monkeypatch: pytest.MonkeyPatch, *flags: int) -> None:
    """As for a file of another user: root is never refused."""
    inner = os.open

    def refused(path: Path, flag: int, *rest: int) -> int:
        if Path(path).name == module.NAME and (flag & os.O_ACCMODE) in flags:
            raise PermissionError(errno.EACCES, "Permission denied")
        return inner(path, flag, *rest)

    monkeypatch.setattr(module.os, "open", refused)


def test_the_lock_of_another_user_is_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FolderLock(tmp_path) as lock:
        lock.sign()
        refuse_writing(monkeypatch, os.O_RDWR)
        with pytest.raises(ConfigError, match=f"(?s)another process.*process {os.getpid()} on"), FolderLock(tmp_path):
            pass
    with FolderLock(tmp_path) as lock:
        lock.sign()  # as far as possible
        with pytest.raises(ConfigError, match="another process"), FolderLock(tmp_path):
            pass
    refuse_writing(monkeypatch, os.O_RDWR, os.O_RDONLY)
    with pytest.raises(ConfigError, match=r"(?s)cannot be opened.*delete"), FolderLock(tmp_path):
        pass


def test_a_lock_that_can_be_neither_locked_nor_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / module.NAME).touch()
    without_locks(monkeypatch)
    refuse_writing(monkeypatch, os.O_RDWR)
    with pytest.raises(ConfigError, match="neither locked nor written"), FolderLock(tmp_path):
        pass


def test_who_left_in_order_while_another_waited_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    first = FolderLock(tmp_path).__enter__()
    first.sign()
    monkeypatch.setattr(module.time, "sleep", lambda _: first.__exit__())
    with FolderLock(tmp_path) as second:
        assert second.left_by is None


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ("", True),
        (f"process {os.getppid()} on {HOST}", False),
        (f"process {os.getpid()} on {HOST}", True),  # of a container before this one
        (f"process 999999999 on {HOST}", True),
        ("process 999999999 on another machine", False),
        ("anything else", False),
    ],
    ids=["nobody", "alive", "before this one", "dead", "another machine", "unknown"],  # alike in every process
)
def test_without_locks_the_text_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str, free: bool) -> None:
    without_locks(monkeypatch)
    (tmp_path / module.NAME).write_text(holder)
    if not free:
        with pytest.raises(ConfigError, match=r"(?s)another process is training.*if no process.*delete"), FolderLock(tmp_path):
            pass
        assert (tmp_path / module.NAME).read_text() == holder
        return
    with FolderLock(tmp_path) as lock:
        assert lock.left_by == (holder or None)
        with pytest.raises(ConfigError, match="another process is training"), FolderLock(tmp_path):
            pass
    with FolderLock(tmp_path) as lock:
        assert lock.left_by is None


def test_a_run_whose_folder_is_moved_away_goes_on_in_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it is there then, also what says how to go on, and nobody holds the folder that was moved."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    data, out = write_pictures(tmp_path / "data"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", before_step(5, lambda _: out.rename(tmp_path / "moved")))
        run(data, out)
    assert "was moved away or deleted: from here on there is a new one" in capsys.readouterr().out
    for folder in (out, tmp_path / "moved"):
        assert (folder / "checkpoints" / NAME).read_text() == "" and Inventory.load(folder) is not None
        assert finished(resume(folder)) == folder
    assert same_bits(out, tmp_path / "moved")


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
    send(signal.SIGSTOP, first)
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
