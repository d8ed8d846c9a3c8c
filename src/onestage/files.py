"""Files written whole or not at all: a reader, a crash or a full disk never meets half a file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onestage.errors import WeightsError

TEMPORARY = ".onestage-tmp"
"""How the name of every file ends that is still being written; what a crash leaves behind is known by it."""


ABANDONED_AFTER = 3600.0
"""Seconds after which a temporary file belongs to a crash, not to a writer still at work: no write takes that long."""


@contextlib.contextmanager
def atomic_file(path: Path | str, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file open for writing, which stands at ``path`` as soon as the block has ended well. After an error, or Ctrl-C, what
    stood there before is untouched.

    The permissions are those of any new file (0666 less the umask). durable: a power cut right afterwards does not undo it;
    that takes some milliseconds. Raise OSError where the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            yield file
        if durable:
            commit(temporary, path)
        else:
            temporary.replace(path)
    finally:  # after success it is gone, after Ctrl-C or a full disk it must go
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: Path | str, content: str | bytes) -> None:
    """Put text, as UTF-8, or bytes at ``path``, whole or not at all. Raise OSError where the file cannot be written."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_atomically(path: Path | str, data: bytes) -> None:
    """Put ``data`` at ``path``, durably, so that a reader, a crash or a full disk never meets half a file.

    Raise WeightsError if it cannot be written; what was there before is then untouched. Remove what earlier crashes left in
    the same folder.
    """
    path = Path(path)
    remove_leftovers(path.parent)
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
    """Delete the temporary files in ``folder`` that nobody has touched for ``older_than`` seconds."""
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
