"""Files written whole or not at all: a reader, a crash or a full disk never meets half a file."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import platform
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

from onestage.errors import ConfigError, OnestageError, WeightsError, WriteError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What a JSON file holds."""

BEST, LAST = "best.safetensors", "last.safetensors"
"""A run folder's models: the one of the best validation AP, and the newest. Training writes them, and ``load`` reads them."""

TEMPORARY = ".onestage-tmp"
"""The end of the name of every file that is still being written. Files left over from a crash are recognised by it."""


FIXES = {
    0: "choose another name",
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.ENOENT: "make the folder first",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "a file of this name is in the way: choose another name",
    errno.ENOTDIR: "a file has the name of a folder in this path: choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about an error of the system by its number; 0 stands for a path that no system takes."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""The numbers of errors that say, wherever they come from, that a disk takes no more."""

PART = ".part"
"""The end of the name of a file that is written for hours, until it is whole: its writer may be killed and go on."""

LONGEST = 200
"""Bytes of a name that the name of its temporary file begins with: most systems take 255 in all."""


ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a temporary file belongs to a crash, where nothing says whether its writer lives: an export to int8
measures for hours.
"""
CLAIMED_AFTER = 2.0
"""Seconds after which the writer of a new temporary file has claimed it, however slow the machine."""


def cache_folder(kind: str) -> Path:
    """Where files of this kind are kept between programs, such as "weights"; it need not exist yet. Whatever is in it can be
    deleted: it is fetched or made again when it is needed.

    It is ``$ONESTAGE_HOME/kind``, else ``$XDG_CACHE_HOME/onestage/kind``, else ``~/.cache/onestage/kind``. Raise WriteError if
    this user has no home folder, as in some containers.
    """
    try:
        if home := os.environ.get("ONESTAGE_HOME"):
            return Path(home).expanduser() / kind
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onestage" / kind
    except RuntimeError as error:
        what, fix = "there is no home folder to keep files in", "ONESTAGE_HOME=FOLDER in the environment"
        raise WriteError(what, where=home, fix=fix) from error


@contextlib.contextmanager
def atomic_file(path: Path | str, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file open for writing. It is at ``path`` as soon as the block has ended without an error. After an error, or Ctrl-C,
    the earlier file is unchanged.

    A link is followed: the file at its end is replaced. A file keeps its permissions; a new one has 0666 less the umask. A pipe
    or a device is written into, and so is a file in a folder that takes no new files; neither can be whole or not at all.

    durable: a power cut right afterwards does not undo it. That takes some milliseconds, and a folder that takes new files.
    Raise WriteError, which names ``path``, if the file cannot be written: here, from any ``write``, or at the end of the block.
    """
    path = Path(path)
    with writing(path):
        mode = path.stat().st_mode if path.exists() else None
        end = Path(os.path.realpath(path))
        replaces = mode is None or (stat.S_ISREG(mode) and (durable or os.access(end.parent, os.W_OK)))
    with _replacing(end, mode, durable=durable) if replaces else _Unbuffered.opened(path, "wb", path) as file:
        yield file


@contextlib.contextmanager
def _replacing(path: Path, mode: int | None, *, durable: bool) -> Iterator[BinaryIO]:
    """A new file that takes the place of the one at ``path`` in the end, with that one's ``mode``, if there is one."""
    temporary = path.with_name(f"{_beginning(path)}{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with contextlib.ExitStack() as claim:
            with _Unbuffered.opened(temporary, "xb", path) as file:
                _claim(file.fileno())
                if fcntl is not None:  # with a second descriptor the claim lasts until the file has its name
                    claim.callback(os.close, os.dup(file.fileno()))
                if mode is not None:
                    temporary.chmod(stat.S_IMODE(mode))
                yield file
            with writing(path):
                if durable:
                    commit(temporary, path)
                else:
                    temporary.replace(path)
    finally:  # after success it is gone, after Ctrl-C or a full disk it must go
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _beginning(path: Path) -> str:
    """How the name of a temporary file for ``path`` begins. With the whole of a long name it would be too long."""
    return f".{os.fsencode(path.name)[:LONGEST].decode(errors='ignore')}.{_machine()}."


@functools.cache
def _machine() -> str:
    """Eight digits that stand for this machine, or container, from its start to its end."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # only Linux has it
        start = ""
    return hashlib.sha256(f"{platform.node()} {start}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, on the same disk, for what takes that name later. It is gone at the end of the block; what
    a killed process left there goes when the next one begins. Raise WriteError, which names ``path``, if none can be made.
    An error of the block whose place is in the folder, which is gone by then, names ``path`` too.
    """
    remove_leftovers(path.parent)
    with writing(path):
        folder = Path(tempfile.mkdtemp(prefix=_beginning(path), suffix=TEMPORARY, dir=path.parent))
    try:
        with _claimed(folder):
            yield folder
    except OnestageError as error:
        if str(folder) in str(error.where):
            error.where = path
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Claim a temporary folder for the block."""
    descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            _claim(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _claim(descriptor: int) -> None:
    """Tell other processes that an open temporary file or folder is in use. The system forgets it when this process ends."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_claimed(path: Path) -> bool | None:
    """Whether a process that lives has claimed a temporary file or folder; None if nothing says so. On a shared disk a machine
    may see only the claims of its processes, so it judges only the names that they gave.
    """
    if fcntl is None or path.name.removesuffix(TEMPORARY).split(".")[-2:-1] != [_machine()]:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """The block has the folder to itself among all such blocks of this machine: two writers would mix their files. It is made,
    and goes again if it stays empty. The system frees it when this process ends, however it ends.

    Raise ConfigError if another block has it. Where folders cannot be locked (Windows, some network disks), or this one cannot
    be made, nothing is checked.
    """
    made = [part for part in (folder, *folder.parents) if not os.path.lexists(part)]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        with contextlib.suppress(OSError, WriteError):  # who writes into it says what is wrong
            descriptor = os.open(make_folder(folder), os.O_RDONLY)
            stack.callback(os.close, descriptor)
            _lock_soon(descriptor, folder)
        yield


def _lock_soon(descriptor: int, folder: Path) -> None:
    """Lock an open folder. Raise ConfigError if another process keeps it: one that was killed may for a moment."""
    if fcntl is None:
        return
    end = time.monotonic() + CLAIMED_AFTER
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                what, fix = "another process is writing into this folder", "wait until it ends, or choose another folder"
                raise ConfigError(what, where=folder, fix=fix) from error
            time.sleep(0.05)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of the folders that are empty, the innermost first."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


class _Unbuffered(io.FileIO):
    """A file whose errors name another one: that which it is written for."""

    def __init__(self, at: Path, mode: Literal["wb", "xb", "ab"], path: Path) -> None:
        self._path = path
        with writing(path):
            super().__init__(at, mode)

    @classmethod
    def opened(cls, at: Path, mode: Literal["wb", "xb", "ab"], path: Path) -> io.BufferedWriter:
        """The new file at ``at`` with a buffer. Its errors name ``path``."""
        return io.BufferedWriter(cls(at, mode, path))

    def write(self, data: Buffer, /) -> int:
        """Write as many of the bytes as the system takes. Return how many."""
        with writing(self._path):
            return super().write(data)

    def close(self) -> None:
        """Close the file. Some file systems say only now that their disk is full."""
        with writing(self._path):
            super().close()


class GrowingFile:
    """A file that is written for hours. Until it is whole, what it holds is at ``path`` with PART after the name, and a file of
    an earlier run stays at ``path``.

    So a killed writer can go on: ``sync`` gives the bytes that are on the disk, and a new writer's ``go_on`` cuts off all after
    them. Nothing is on the disk before the first of ``write``, ``sync`` and ``finish``. Every method raises WriteError, which
    names ``path``, if the system takes no more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART)
        self._file: BinaryIO | None = None

    def write(self, content: bytes) -> None:
        """Write the bytes after all others."""
        self._opened().write(content)

    def flush(self) -> None:
        """Let other programs see everything so far."""
        self._opened().flush()

    def sync(self) -> int:
        """Put everything on the disk. Return the number of bytes so far."""
        file = self._opened()
        with writing(self.path):
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def go_on(self, size: int) -> None:
        """Go on after the first ``size`` bytes that an earlier writer left, finished or not. Raise WriteError if they are not
        there.
        """
        with writing(self.path):
            if not self.part.exists() and self.path.exists():
                self.path.replace(self.part)
            there = self.part.stat().st_size if self.part.exists() else 0
            if there < size:
                what, fix = "a part of an earlier run is not there any more", "start again without --resume"
                raise WriteError(what, where=self.part, got=f"{there:,} bytes", expected=f"{size:,} or more", fix=fix)
            os.truncate(self.part, size) if there else self.part.touch()
        self._file = _Unbuffered.opened(self.part, "ab", self.path)

    def finish(self) -> None:
        """Give the file its name. What comes afterwards would begin a new one."""
        self.sync()
        self.close()
        with writing(self.path):
            self.part.replace(self.path)

    def close(self) -> None:
        """Let go of the file as it is, so that another writer can go on."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = _Unbuffered.opened(self.part, "wb", self.path)
        return self._file


def write_file(path: Path | str, content: str | bytes) -> None:
    """Put text, as UTF-8, or bytes at ``path``, whole or not at all. Raise WriteError if the file cannot be written."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def place_file(source: Path, path: Path, *, link: bool) -> None:
    """Put a copy of the file ``source`` at ``path``, whole or not at all; or a link to it. Raise WriteError if that fails."""
    if not link:
        with atomic_file(path) as file, writing(path), source.open("rb") as opened:
            shutil.copyfileobj(opened, file, 1 << 20)
        return
    with writing(path):
        temporary = path.with_name(f"{_beginning(path)}{secrets.token_hex(4)}{TEMPORARY}")
        temporary.symlink_to(source.absolute())
        temporary.replace(path)


def write_atomically(path: Path | str, data: bytes | Iterable[bytes]) -> None:
    """Put ``data``, perhaps in pieces, at ``path``, durably: a reader, a crash or a full disk never meets half a file.

    Raise WeightsError if it cannot be written; what was there before is then untouched. Remove what earlier crashes left in
    the same folder.
    """
    path = Path(path)
    try:
        with writing(path):
            remove_leftovers(Path(os.path.realpath(path)).parent)
        with atomic_file(path, durable=True) as file:
            file.writelines([data] if isinstance(data, bytes) else data)
    except WriteError as error:
        raise WeightsError.of(error, path) from error


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open to read its bytes: to look whether it may be replaced. Raise OSError for anything else, such as a
    pipe, which would wait for a writer for ever.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "this is no regular file", str(path))
    return path.open("rb")


def given_path(path: Path | str, argument: str) -> Path:
    """The path that a user gave for an argument of a public function.

    Raise ConfigError, which names the argument, unless a file or folder can have that name.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{argument} is a path", got=repr(path), expected="a str or Path")
    if not os.fspath(path):
        raise ConfigError(f"{argument} is an empty path", fix="name a file or folder; a dot stands for the current folder")
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return Path(path)  # there is none, or it cannot be looked at: who reads or writes it says so
        got, fix = (error.strerror, FIXES[errno.ENAMETOOLONG]) if isinstance(error, OSError) else (error, FIXES[0])
        raise ConfigError(f"{argument} is a path that the system does not take", where=path, got=got, fix=fix) from error
    return Path(path)


def make_folder(folder: Path | str) -> Path:
    """Make the folder, and those above it, unless it is there. Return its path. Raise WriteError if that is not possible."""
    folder = Path(folder)
    with writing(folder, "the folder cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    """Delete the temporary files and folders in ``folder`` whose writer has ended. Where nothing says whether it has, as for
    those of another machine, these are those that have not changed for ``older_than`` seconds.
    """
    for leftover in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # another process may do the same
            claimed = _is_claimed(leftover)
            least = older_than if claimed is None else min(older_than, CLAIMED_AFTER)
            if not claimed and time.time() - leftover.stat().st_mtime >= least:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextlib.contextmanager
def writing(path: Path, what: str = "the file could not be written; what was there before is untouched") -> Iterator[None]:
    """Turn an error of the system inside the block into a WriteError that names ``path`` and says what to do."""
    try:
        yield
    except OnestageError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a path that no system takes
        number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        fix = FIXES.get(number or 0, "choose a folder that you may write to")
        if number == errno.ENOENT and path.parent.is_dir():  # as /proc, or a current folder that was deleted
            fix = "choose another folder: this one takes no files"
        raise WriteError(what, where=path, got=reason or error, fix=fix) from error
