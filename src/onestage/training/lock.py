"""One run folder, one run: a lock that the system frees when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self, TextIO

from onestage.errors import ConfigError
from onestage.processes import Distributed

if sys.platform != "win32":
    import fcntl

NAME = "lock"
PATIENCE = 2.0
"""Seconds to wait for the lock: the workers of a killed process may hold it for a moment longer than it lived."""


class FolderLock:
    """The right of one process at a time to write into a folder, as a context manager.

    The file ``lock`` says who has it, once the holder has signed: the number of the process and its machine. Where files
    cannot be locked (Windows, some network folders), each process gets the right.

    left_by: the holder before, if it ended without leaving the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.left_by: str | None = None
        self._file: TextIO | None = None
        self._signed = False

    @contextlib.contextmanager
    def taken_by(self, group: Distributed) -> Iterator[None]:
        """A block in which the first process of a group has the lock. Raise ConfigError in all if it does not get it."""
        with contextlib.ExitStack() as stack:
            group.on_main(partial(_enter, stack, self))
            yield

    def __enter__(self) -> Self:
        """Raise ConfigError if another process has the lock."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+", encoding="utf-8", errors="replace")
        except OSError:  # a folder that takes no files: the first file of the run says so
            return self
        file.seek(0)
        holder = file.read(200)
        try:
            _lock(file)
        except BlockingIOError as error:
            file.close()
            what, fix = "another process is training in this folder", "wait until it ends, stop it, or choose another folder"
            raise ConfigError(what, where=self.path.parent.parent, got=holder or "one that has just begun", fix=fix) from error
        self.left_by, self._file = holder or None, file
        return self

    def sign(self) -> None:
        """Write into the file that this process has the lock."""
        if self._file is not None:
            self._write(f"process {os.getpid()} on {socket.gethostname()}")
            self._signed = True

    def _write(self, text: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
                self._file.truncate(0)
                self._file.write(text)
                self._file.flush()

    def __exit__(self, *_: object) -> None:
        """Leave the lock to others."""
        if self._file is not None:
            if self._signed:
                self._write("")
            _unlock(self._file)
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _enter(stack: contextlib.ExitStack, lock: FolderLock) -> None:
    stack.enter_context(lock)


def _lock(file: TextIO) -> None:
    """Lock an open file. Raise BlockingIOError if another process keeps it locked."""
    if sys.platform == "win32":
        return
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
        except OSError:  # this file system has no locks
            return


def _unlock(file: TextIO) -> None:
    """Forked processes have the file open too, so to close it is not enough."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
