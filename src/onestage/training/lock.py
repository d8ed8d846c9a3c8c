"""One run folder, one run: a lock that the system frees when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, cast

from onestage.errors import ConfigError
from onestage.processes import Distributed

if sys.platform == "win32":
    import ctypes
else:
    import fcntl

NAME = "lock"
PATIENCE = 2.0
"""Seconds to wait for the lock: the workers of a killed process may hold it for a moment longer than it lived."""


_ours: set[str] = set()
"""The files by which this process has folders for itself, where files cannot be locked."""


class FolderLock:
    """The right of one process at a time to write into a folder, as a context manager.

    The file ``lock`` says who has it, once the holder has signed: the number of the process and its machine. Where files
    cannot be locked (Windows, some network folders), this text alone is the lock, from the beginning: the holder has it until
    its process has ended, or, on another machine, until the file is deleted.

    left_by: the holder before, if it ended without leaving the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.left_by: str | None = None
        self._file: BinaryIO | None = None
        self._signed = False

    @contextlib.contextmanager
    def taken_by(self, group: Distributed) -> Iterator[None]:
        """A block in which the first process of a group has the lock. Raise ConfigError in all if it does not get it."""
        with contextlib.ExitStack() as stack:
            group.on_main(partial(_enter, stack, self))
            yield

    def __enter__(self) -> Self:
        """Raise ConfigError if another process has the lock, or if the file is there and cannot be locked."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = _opened(self.path)
        except OSError as error:
            if not os.path.lexists(self.path):  # a folder that takes no files: the first file of the run says so
                return self
            raise self._refusal("the lock of this folder cannot be opened", error.strerror, self._delete) from error
        try:
            self._take(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        if os.path.realpath(self.path) in _ours:
            self.sign()
        return self

    def _take(self, file: BinaryIO) -> None:
        """Lock the open file and see who had it before."""
        try:
            locked = _lock(file)
        except BlockingIOError as error:
            raise self._taken(_holder(file), "wait until it ends, stop it, or choose another folder") from error
        holder = _holder(file)  # now: while this process waited, the other one may have ended in order
        if not locked:
            if not file.writable():
                raise self._refusal("the lock of this folder can be neither locked nor written", holder, self._delete)
            if holder and _may_run(holder, self.path):
                raise self._taken(holder, self._delete)
            _ours.add(os.path.realpath(self.path))
        self.left_by = holder or None

    def _taken(self, holder: str, fix: str) -> ConfigError:
        return self._refusal("another process is training in this folder", holder or "one that has just begun", fix)

    def _refusal(self, what: str, got: str | None, fix: str) -> ConfigError:
        return ConfigError(what, where=self.path.parent.parent, got=got, fix=fix)

    @property
    def _delete(self) -> str:
        return f"choose another folder; if no process is training in this one, delete {self.path}"

    def sign(self) -> None:
        """Write into the file that this process has the lock. A file of another user may take no text; its lock holds."""
        if self._file is not None:
            self._write(f"process {os.getpid()} on {socket.gethostname()}")
            self._signed = True

    def renewed(self) -> bool:
        """If the folder was moved away or deleted, take the lock of a new one of its name. Return whether that was so.

        Raise ConfigError if another process has that by now.
        """
        if self._file is None:
            return False
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                return False
        self.__exit__()
        self.__enter__()
        self.sign()
        return True

    def _write(self, text: str) -> None:
        if self._file is not None and self._file.writable():
            with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
                self._file.seek(0)
                self._file.truncate()
                self._file.write(text.encode())

    def __exit__(self, *_: object) -> None:
        """Leave the lock to others."""
        if self._file is not None:
            if self._signed:
                self._write("")
            _ours.discard(os.path.realpath(self.path))
            _unlock(self._file)
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def is_taken(folder: Path) -> bool:
    """Whether a process has the lock of a folder at this moment."""
    try:
        file = (folder / NAME).open("rb")
    except OSError:
        return False
    with file:
        try:
            locked = _lock(file, patience=0.0)
        except BlockingIOError:
            return True
        if locked:
            _unlock(file)
            return False
        holder = _holder(file)
        return bool(holder) and _may_run(holder, folder / NAME)


def _enter(stack: contextlib.ExitStack, lock: FolderLock) -> None:
    stack.enter_context(lock)


def _opened(path: Path) -> BinaryIO:
    """The file, made if it is not there; for reading only if it takes no text. Raise OSError."""
    try:
        return cast(BinaryIO, io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+"))
    except OSError:
        return cast(BinaryIO, io.FileIO(os.open(path, os.O_RDONLY)))


def _holder(file: BinaryIO) -> str:
    """What the file says of its holder; nothing if it left the lock."""
    file.seek(0)
    return file.read(200).decode(errors="replace").strip("\0 \n")


def _may_run(holder: str, path: Path) -> bool:
    """Whether a holder may still be at work. Of another machine's processes nothing is known."""
    found = re.fullmatch(r"process ([0-9]{1,9}) on (.*)", holder)
    if found is None or found[2] != socket.gethostname():
        return True
    number = int(found[1])
    if number == os.getpid():  # in containers, the next process often has the number of the last
        return os.path.realpath(path) in _ours
    return _is_running(number)


def _lock(file: BinaryIO, *, patience: float | None = None) -> bool:
    """Lock an open file. Return False if such files cannot be locked. Raise BlockingIOError if another process has it.

    patience: seconds to wait for that process; by default PATIENCE.
    """
    if sys.platform == "win32":
        return False
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
        except OSError:  # this file system has no locks
            return False


def _unlock(file: BinaryIO) -> None:
    """Forked processes have the file open too, so to close it is not enough."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_running(number: int) -> bool:
    """Whether a process of this machine has that number."""
    if sys.platform == "win32":
        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, number)  # the right to ask for little
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # one of another user
        return True
    return True
