"""Where pictures and lists of them lie: in files of this machine, or at addresses such as s3://bucket/key, over fsspec."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from onestage.data.batch_folder import HIDDEN, is_batch
from onestage.data.files import matches
from onestage.errors import ConfigError, DataError, OnestageError, absent
from onestage.predict.live import without_password

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[a-z]+::")
"""How an address that is no path begins."""
UNKNOWN = -1
"""In place of a number of bytes."""
_STAMPS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "updated", "created")
"""What kinds of storage call that by which a changed file is known."""
_DIGEST_BITS = 56
"""Of the number for the state of a file; above them is the place in _STAMPS."""
_FIX = "see whether it is there and whether you may read it"


class Found(NamedTuple):
    """A file. address: its path from the root, or its address. name: below the folder that was asked for, with forward
    slashes. length: bytes, or UNKNOWN. changed: a number that is another one after a change; 0 if nothing tells.
    """

    address: str
    name: str
    length: int
    changed: int


class Store(Protocol):
    """A kind of storage. Errors name the address."""

    def is_folder(self, address: str) -> bool:
        """Whether the address is that of a folder."""
        ...

    def find(self, address: str) -> Found | None:
        """The file at that address, if there is one."""
        ...

    def below(self, folder: str) -> Iterator[Found]:
        """All files in a folder and its subfolders, hidden ones aside, always in the same order."""
        ...

    def matches(self, pattern: str) -> list[str]:
        """The addresses of files and folders that a glob fits, sorted."""
        ...

    def open(self, address: str) -> BinaryIO:
        """The file at that address, to read and seek in."""
        ...


def store_of(address: str) -> Store:
    """The storage that an address belongs to. Raise ConfigError if a package for it is missing."""
    return Remote(address) if is_remote(address) else LOCAL


def is_remote(address: str) -> bool:
    """Whether an address is no path of this machine."""
    return SCHEME.match(address) is not None and not address.startswith("file://")


@dataclass
class Passed:
    """What was passed over: how many links to folders and folders with results, with an example of each."""

    links: int = 0
    link: str = ""
    results: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Local:
    """Files of this machine. skip: the real path of the folder of the results. It is passed over, with all in it, and so are
    the results of other batches: they hold pictures and lists.
    """

    skip: str | None = None
    passed: Passed = field(default_factory=Passed, compare=False)
    _known: dict[tuple[str, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def is_folder(self, address: str) -> bool:
        """Whether the path is that of a folder."""
        return Path(_path(address)).is_dir()

    def find(self, address: str) -> Found | None:
        """The file of that path, if there is one."""
        path = os.path.abspath(_path(address))  # noqa: PTH100  # a link keeps its name
        try:
            found = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise DataError("this file cannot be looked at", where=address, got=error, fix=_FIX) from error
        return Found(path, Path(path).name, found.st_size, found.st_mtime_ns)

    def below(self, folder: str) -> Iterator[Found]:
        """The files of each folder by name, then those of its subfolders. Links to folders are not followed."""
        root = os.path.abspath(_path(folder))  # noqa: PTH100
        if not self._is_ours(root):
            yield from self._below(root, "")

    def _below(self, folder: str, name: str) -> Iterator[Found]:
        files, folders = list[tuple[str, int, int]](), list[str]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                        continue
                    if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  # which never raises
                        self.passed.links, self.passed.link = self.passed.links + 1, self.passed.link or entry.path
                        continue
                    length, changed = _state(entry)
                    files.append((entry.name, length, changed))
        except OSError as error:
            raise DataError("this folder cannot be read", where=folder, got=error.strerror, fix=_FIX) from error
        if HIDDEN in folders and is_batch(Path(folder)):
            self.passed.results.add(folder)
            return
        for file, length, changed in sorted(files):
            yield Found(os.path.join(folder, file), name + file, length, changed)  # noqa: PTH118  # a million times
        for other in sorted(folders):
            path = os.path.join(folder, other)  # noqa: PTH118
            if self.skip is None or os.path.realpath(path) != self.skip:
                yield from self._below(path, f"{name}{other}/")

    def matches(self, pattern: str) -> list[str]:
        """What a glob fits; ** stands for any folders, those behind links too, but not in circles."""
        path = _path(pattern)
        return [match for match in matches(path) if not self._is_passed(match, path)]

    def _is_ours(self, folder: str) -> bool:
        """Whether a folder is that of the results, or in it."""
        return self.skip is not None and f"{os.path.realpath(folder)}{os.sep}".startswith(f"{self.skip}{os.sep}")

    def _is_passed(self, match: str, pattern: str) -> bool:
        """Whether what a glob fits belongs to results of a batch, this one or another one."""
        above = os.path.dirname(match.rstrip(os.sep))  # noqa: PTH120
        if not self._is_result(above, pattern):
            return os.path.isdir(match) and self._is_result(match.rstrip(os.sep), pattern)  # noqa: PTH112
        return True

    def _is_result(self, folder: str, pattern: str) -> bool:
        """Whether a folder, or one above it that the glob does not name in letters, has results of a batch."""
        key = pattern, folder
        if key not in self._known:
            ours, other = self._is_ours(folder), is_batch(Path(folder))
            if other and not ours:
                self.passed.results.add(folder)
            named = pattern.startswith(f"{folder}{os.sep}") or folder in ("", os.sep)
            above = os.path.dirname(folder)  # noqa: PTH120
            self._known[key] = ours or other or (not named and self._is_result(above, pattern))
        return self._known[key]

    def open(self, address: str) -> BinaryIO:
        """The file of that path. Raise DataError if it cannot be opened, or is a pipe or a device."""
        path = Path(_path(address))
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError.no_file(address, "a file")
            return path.open("rb")
        except OSError as error:
            what = absent(path, "this file cannot be read")
            raise DataError(what, where=address, got=error.strerror, fix=_FIX) from error


LOCAL = Local()


def _path(address: str) -> str:
    return address.removeprefix("file://")


def _state(entry: os.DirEntry[str]) -> tuple[int, int]:
    """The bytes and the time of change of a file; UNKNOWN and 0 of one that cannot be looked at, as reading it will say."""
    try:
        found = entry.stat()
    except OSError:
        return UNKNOWN, 0
    return found.st_size, found.st_mtime_ns


class Remote:
    """Files at addresses of one kind of storage. Its settings and keys come from the environment and from fsspec's files."""

    def __init__(self, address: str) -> None:
        """Raise ConfigError if fsspec, or the package for this kind of storage, is missing or cannot be set up."""
        self._files = _filesystem(address if "::" in address else "/".join(address.split("/", 3)[:3]))

    def is_folder(self, address: str) -> bool:
        """Whether the address is that of a folder, or begins that of files."""
        with reached(address):
            return bool(self._files.isdir(self._inside(address)))

    def find(self, address: str) -> Found | None:
        """The file at that address, if there is one."""
        with reached(address):
            try:
                return self._found(self._files.info(self._inside(address)), "")
            except FileNotFoundError:
                return None

    def below(self, folder: str) -> Iterator[Found]:
        """The files of each folder by name, then those of its subfolders."""
        inside = self._inside(folder)
        with reached(folder):
            yield from self._below(inside, inside.rstrip("/") + "/")

    def _below(self, folder: str, root: str) -> Iterator[Found]:
        entries = sorted(self._files.ls(folder, detail=True), key=lambda info: str(info["name"]))
        shown = [info for info in entries if not _last(info).startswith(".") and info["name"].rstrip("/") != folder.rstrip("/")]
        for info in shown:
            if info["type"] != "directory":
                yield self._found(info, root)
        for info in shown:
            if info["type"] == "directory":
                yield from self._below(info["name"], root)

    def matches(self, pattern: str) -> list[str]:
        """What a glob fits; ** stands for any folders."""
        with reached(pattern):
            return sorted(self._files.unstrip_protocol(name) for name in self._files.glob(self._inside(pattern)))

    def open(self, address: str) -> BinaryIO:
        """The file at that address. Raise DataError if it cannot be opened."""
        with reached(address):
            try:
                file: BinaryIO = self._files.open(self._inside(address), "rb")
            except FileNotFoundError as error:
                raise DataError("there is no such file", where=address, fix=_FIX) from error
            return file

    def is_same(self, address: str, length: int, changed: int) -> bool:
        """Whether the file at that address is still the one that was found with this length and this number for its state."""
        with reached(address):
            info = self._files.info(self._inside(address))
        key = _STAMPS[changed >> _DIGEST_BITS]
        return info.get("size") in (None, length) and (info.get(key) is None or _state_of(info, key) == changed)

    def read(self, address: str, start: int, end: int | None) -> bytes:
        """Bytes of the file at that address, from ``start`` up to ``end``. Raise OSError."""
        content: bytes = self._files.cat_file(self._inside(address), start=start or None, end=end)
        return content

    def _inside(self, address: str) -> str:
        inside: str = self._files._strip_protocol(address)
        return inside

    def _found(self, info: dict[str, Any], root: str) -> Found:
        name, length = str(info["name"]), info.get("size")
        key = next((key for key in _STAMPS if info.get(key) is not None), None)
        changed = 0 if key is None else _state_of(info, key)
        below = name.removeprefix(root) if root else _last(info)
        return Found(self._files.unstrip_protocol(name), below, UNKNOWN if length is None else int(length), changed)


def _state_of(info: dict[str, Any], key: str) -> int:
    """The number for the state of a file: which stamp it is, and a digest of it. Storage may give a time in one form in a list,
    and in another one alone.
    """
    state = info[key]
    if isinstance(state, str):
        state = state.strip('"')
        with suppress(ValueError):
            state = datetime.fromisoformat(state)
    if isinstance(state, datetime):
        state = state.timestamp()
    text = f"{float(state):.6f}" if isinstance(state, int | float) else str(state)
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (1 << _DIGEST_BITS)
    return _STAMPS.index(key) << _DIGEST_BITS | digest


def _last(info: dict[str, Any]) -> str:
    """The last part of a name."""
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _filesystem(address: str) -> Any:
    """The file system of fsspec for an address, made again in each process: some kinds refuse to work in a fork."""
    return _of_process(address, os.getpid())


@lru_cache(maxsize=64)
def _of_process(address: str, process: int) -> Any:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        what, fix = "addresses are read by a package that is not installed", "pip install 'onestage[remote]'"
        raise ConfigError(what, where=address, got="no fsspec", fix=fix) from error
    try:
        return url_to_fs(address)[0]
    except ImportError as error:
        what, fix = "the package for this kind of storage is not installed", f"pip install it: {error}"
        raise ConfigError(what, where=address, got=error, fix=fix) from error
    except (ValueError, TypeError, OSError) as error:
        what, fix = "this address is not understood", "correct it, or copy the files to this machine"
        raise ConfigError(what, where=address, got=error, fix=fix) from error


@contextmanager
def reached(address: str) -> Iterator[None]:
    """Turn any error of a kind of storage into a DataError that names the address: each package has classes for them."""
    try:
        yield
    except OnestageError:
        raise
    except Exception as error:
        what, got = "this address cannot be read", without_password(f"{type(error).__name__}: {error}")
        fix = "see whether it is there, and whether this machine has the right to read it"
        code = "missing" if isinstance(error, FileNotFoundError) else "unreachable"
        raise DataError(what, where=masked(address), got=got, fix=fix, code=code) from error


def masked(address: str) -> str:
    """The address with *** for the password of a user, and for keys in its query; a path is left as it is."""
    return without_password(address, in_path=False) if is_remote(address) else address
