"""Files written whole or not at all: a reader, a crash or a full disk never meets half a file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from onestage.errors import WeightsError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What a JSON file holds."""

BEST, LAST = "best.safetensors", "last.safetensors"
"""A run folder's models: the one of the best validation AP, and the newest. Training writes them, and ``load`` reads them."""

TEMPORARY = ".onestage-tmp"
"""The end of the name of every file that is still being written. Files left over from a crash are recognised by it."""


ABANDONED_AFTER = 3600.0
"""Seconds after which a temporary file belongs to a crash, not to a writer still at work: no write takes that long."""


@contextlib.contextmanager
def atomic_file(path: Path | str, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file open for writing. It is at ``path`` as soon as the block has ended without an error. After an error, or Ctrl-C,
    the earlier file is unchanged.

    A link is followed: the file at its end is replaced. A file keeps its permissions; a new one has 0666 less the umask. A pipe
    or a device is written into, and so is a file in a folder that takes no new files; neither can be whole or not at all.

    durable: a power cut right afterwards does not undo it. That takes some milliseconds, and a folder that takes new files.
    Raise OSError if the file cannot be written.
    """
    path = Path(path)
    mode = path.stat().st_mode if path.exists() else None
    if mode is None or stat.S_ISREG(mode):
        end = Path(os.path.realpath(path))
        if mode is None or durable or os.access(end.parent, os.W_OK):
            with _replacing(end, mode, durable=durable) as file:
                yield file
            return
    with path.open("wb") as file:
        yield file


@contextlib.contextmanager
def _replacing(path: Path, mode: int | None, *, durable: bool) -> Iterator[BinaryIO]:
    """A new file that takes the place of the one at ``path`` in the end, with that one's ``mode``, if there is one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            yield file
        if durable:
            commit(temporary, path)
        else:
            temporary.replace(path)
    finally:  # after success it is gone, after Ctrl-C or a full disk it must go
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: Path | str, content: str | bytes) -> None:
    """Put text, as UTF-8, or bytes at ``path``, whole or not at all. Raise OSError if the file cannot be written."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_atomically(path: Path | str, data: bytes) -> None:
    """Put ``data`` at ``path``, durably, so that a reader, a crash or a full disk never meets half a file.

    Raise WeightsError if it cannot be written; what was there before is then untouched. Remove what earlier crashes left in
    the same folder.
    """
    path = Path(path)
    remove_leftovers(Path(os.path.realpath(path)).parent)
    try:
        with atomic_file(path, durable=True) as file:
            file.write(data)
    except OSError as error:
        raise _cannot_write(path, error, len(data)) from error


def commit(temporary: Path, path: Path) -> None:
    """Move a finished file of the same folder to its final name, durably: contents first, then the name. Raise OSError."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's list of names durable: a new name survives a power cut only then. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, older_than: float = ABANDONED_AFTER) -> None:
    """Delete the temporary files in ``folder`` that have not changed for ``older_than`` seconds."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # another process may do the same
            if time.time() - leftover.stat().st_mtime >= older_than:
                leftover.unlink()


def _cannot_write(path: Path, error: OSError, size: int) -> WeightsError:
    fixes = {
        errno.ENOSPC: f"free at least {size / 1e6:.1f} MB on that disk",
        errno.EDQUOT: f"free at least {size / 1e6:.1f} MB of your quota",
        errno.ENOENT: "make the folder first",
        errno.EISDIR: "name a file, not a folder",
    }
    return WeightsError(
        "the file could not be written; what was there before is untouched",
        where=path,
        got=error.strerror or error,
        fix=fixes.get(error.errno or 0, "choose a folder that you may write to"),
    )
