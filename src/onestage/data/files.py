"""What the readers share about files: listing a folder, names of splits, and reading text safely."""

import codecs
import errno
import glob
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from onestage.data.split_words import SPLITS, split_name
from onestage.data.text import lines_of
from onestage.errors import DataError, OnestageError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jxl", ".jp2", ".tga", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg"})
"""Of pictures in formats that are not read."""

CONVERT = "convert it to JPEG or PNG, upright, with the size that its labels were made for"
CONVERT_ALL = "convert the pictures to JPEG or PNG, upright, with the sizes that their labels were made for"
"""What to do about one picture, and about all pictures, in a format that is not read."""

MAX_BYTES: Mapping[str, int] = {
    ".json": 2 * 1024**3,
    ".csv": 2 * 1024**3,
    ".txt": 256 * 1024**2,
    ".names": 1024**2,
    ".xml": 16 * 1024**2,
    ".yaml": 1_000_000,
    ".yml": 1_000_000,
}
"""The largest file of each kind that is read, by its suffix. COCO train2017's annotations have 450 MB."""

Sources = Mapping[str, tuple[Path, ...]]
"""The annotation files of each split, and of the whole set under ``""``."""

READ_FIX = "see whether it is there and whether you may read it"

_OVERLAP = 128
"""Characters of the word that ``pieces`` are searched for, at most."""

_ANY_FOLDERS = re.compile(rf"(?<![^/{re.escape(os.sep)}])\*\*(?:$|[/{re.escape(os.sep)}])")
"""The ** of a glob, which is no part of a name."""
_LFS = b"version https://git-lfs"
_LEFT_BY_SYSTEMS = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"})
_PASSED_OVER = frozenset({"__macosx", "__pycache__"})


def matches(pattern: str) -> list[str]:
    """The files and folders that a glob fits, sorted. ** stands for any folders that are not hidden, those behind links too,
    each once on the way down: links may lead in circles.
    """
    found = _ANY_FOLDERS.search(pattern)
    if found is None:
        return sorted(glob.glob(pattern))  # noqa: PTH207  # Path.glob knows no absolute patterns
    root, rest = pattern[: found.start()], pattern[found.end() :] or "*"
    roots = glob.glob(root) if glob.has_magic(root) else [root]  # noqa: PTH207
    folders = {folder for place in roots for folder in _folders(place)}
    return sorted({match for folder in folders for match in matches(glob.escape(folder) + rest)})


def _folders(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """A folder and those below it that are not hidden, as paths that end with a slash; "" is the current one. above: the real
    paths of those that it is in.
    """
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(real):  # noqa: PTH112  # Path.is_dir raises where a folder above may not be entered
        return
    yield folder
    with suppress(OSError):  # it is gone, or not for us
        for name in sorted(os.listdir(real)):  # noqa: PTH208
            if not name.startswith("."):
                yield from _folders(f"{folder}{name}/", (*above, real))


def split_above(path: Path, root: Path) -> str | None:
    """The split in the name of the nearest folder above ``path`` and below ``root``; None if no name has one."""
    folders = reversed(path.relative_to(root).parent.parts)
    return next((name for name in map(split_name, folders) if name), None)


def by_split(files: Iterable[Path], splits: Iterable[str | None]) -> Sources:
    """``Sources`` of files whose splits are known, in the usual order of splits."""
    pairs = list(zip(files, splits, strict=True))
    sources = {split: tuple(file for file, belongs in pairs if belongs == split) for split in SPLITS}
    return {"": tuple(file for file, _ in pairs)} | {split: chosen for split, chosen in sources.items() if chosen}


class FilePerSplit:
    """Base of the layouts that hold a whole split in one file. sources: the files that were found."""

    sources: Sources

    @property
    def missing(self) -> Mapping[str, DataError]:
        """Nothing in these formats states a split apart from its files."""
        return {}

    @property
    def label_files(self) -> frozenset[Path]:
        """The files that are read for some split."""
        return frozenset(self.sources[""])


def one_per_split(root: Path, files: Sequence[Path]) -> Sources:
    """``Sources`` of a format that holds a whole split in one file. Raise DataError if the split of a file is unclear."""
    splits = [split_name(file.stem) or split_above(file, root) for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(str(file.relative_to(root)) for file in files[:10])
        what = "several annotation files, and their names do not say which split each one is"
        raise DataError(
            what,
            where=root,
            got=names,
            fix="call them, or their folders, train, val and test, or name one of the files instead of the folder",
        )
    return by_split(files, splits)


def walk(root: Path, *, locked: bool = False) -> list[Path]:
    """Every file in a folder, at any depth, sorted within its folder. Hidden folders are left out, and so is what operating
    systems leave behind: ._a.jpg, .DS_Store, Thumbs.db, __MACOSX/. A link to a folder above itself is not followed.

    locked: pass over folders that may not be read. Raise OSError for them otherwise.
    """
    return [*_walk(root, frozenset(), locked=locked)]


def _walk(folder: Path, above: frozenset[str], *, locked: bool) -> Iterator[Path]:
    """The files in a folder, then those in its folders. above: the real paths of the folders that lead here."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except PermissionError:
        if not locked:
            raise
        return
    for entry in entries:
        if not entry.name.startswith("._") and entry.name.lower() not in _LEFT_BY_SYSTEMS and _says(entry.is_file):
            yield folder / entry.name
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in _PASSED_OVER and _says(entry.is_dir):
            yield from _walk(folder / entry.name, above | {real}, locked=locked)


def _says(look: Callable[[], bool]) -> bool:
    """What an entry of a folder says of itself. A link that leads back to itself is no file and no folder."""
    try:
        return look()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; False also for a name that no folder can have."""
    return _has_kind(path, stat.S_ISDIR)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file of this name; False also for a name that no file can have."""
    return _has_kind(path, stat.S_ISREG)


def is_picture_there(path: str) -> bool:
    """Whether there is a file of this path, or one that may hold a picture of this path, such as a tar."""
    return is_regular(Path(path)) or any(map(is_regular, Path(path).parents))


def is_there(path: Path) -> bool:
    """Whether anything has this name."""
    return _has_kind(path, lambda _mode: True)


def _has_kind(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def inside(name: str) -> str | None:
    """A path that an annotation gives, with plain slashes. None unless it stays below its folder: no absolute path, drive,
    ``..``, URL or NUL.

    Symbolic links are followed: the owner of the folder placed them, not the annotation.
    """
    clean = name.replace("\\", "/")
    parts = [part for part in clean.split("/") if part not in ("", ".")]
    foreign = clean.startswith("/") or "://" in clean or "\0" in clean or re.match("[A-Za-z]:", clean)
    return None if foreign or not parts or ".." in parts else "/".join(parts)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raise DataError if it cannot be read, is no regular file, or exceeds the limit of its suffix."""
    with _reading(path):
        _check_size(path)
        return path.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of the system inside the block, or bytes that are no text, into a DataError that names the file."""
    try:
        yield
    except OnestageError:
        raise
    except UnicodeDecodeError as error:
        got = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise DataError("this file is not UTF-8 text", where=path, got=got, fix="save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError("this file cannot be read", where=path, got=getattr(error, "strerror", error), fix=READ_FIX) from error


def _check_size(path: Path) -> None:
    """Raise DataError if a file is no regular one, or exceeds the limit of its suffix; OSError if it is not there."""
    limit = MAX_BYTES.get(path.suffix.lower(), max(MAX_BYTES.values()))
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError.no_file(path, "a file of annotations, of classes or a list")
    if found.st_size > limit:
        got, expected = f"{found.st_size:,} bytes", f"at most {limit:,}"
        fix = "divide the data set, or name the file that is meant"
        raise DataError("this file is too large", where=path, got=got, expected=expected, fix=fix)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 or UTF-16, with or without byte order mark, to be read piece by piece; line ends stay as they are.

    Raise DataError as ``read_text`` does, here or in the block.
    """
    with _reading(path):
        _check_size(path)
        with path.open("rb") as file:
            start = file.peek(400)
            if start.startswith(_LFS):
                raise _pointer(path)
            with io.TextIOWrapper(file, _encoding(start), newline="") as text:
                yield text


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without byte order mark; line ends stay as they are.

    Raise DataError as ``read_bytes`` does, and if the file is no such text.
    """
    content = read_bytes(path)
    with _reading(path):
        text = content.decode(_encoding(content))
    if text.startswith(_LFS.decode()):
        raise _pointer(path)
    return text


def _pointer(path: Path) -> DataError:
    """The error for a file that git-lfs has not fetched."""
    return DataError("this is a git-lfs pointer, not the file itself", where=path, fix="run: git lfs pull")


def read_list(path: Path) -> list[str]:
    """The lines of a list of names, without their line ends. A list that is neither UTF-8 nor UTF-16 is read in cp1252, the
    usual encoding of older Windows programs. Raise DataError as ``read_text`` does.
    """
    try:
        return lines_of(read_text(path))
    except DataError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError) or error.__cause__.encoding != "utf-8":
            raise
        try:
            return lines_of(read_bytes(path).decode("cp1252"))
        except UnicodeDecodeError:
            raise error from None


def _encoding(start: bytes) -> str:
    """The encoding that the first bytes of a file show. UTF-16 without a byte order mark has a NUL beside most letters."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    high, low = ((half := start[first:400:2]).count(0) * 2 > len(half) for first in (0, 1))
    return "utf-16-be" if high and not low else "utf-16-le" if low and not high else "utf-8-sig"


def pieces(path: Path, size: int = 2**20) -> Iterator[str]:
    """A file in pieces that overlap, to search it for a short word; no more than one piece is in memory. Raise DataError if the
    file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data, tail = file.read(size), ""
            decoder = codecs.getincrementaldecoder(_encoding(data))(errors="replace")
            while data:
                text = tail + decoder.decode(data)
                yield text
                data, tail = file.read(size), text[-_OVERLAP:]
    except OSError as error:
        raise DataError("this file cannot be read", where=path, got=error.strerror, fix=READ_FIX) from error


def head(path: Path, size: int = 65536) -> str:
    """The first characters of a file, to guess what it is; bytes that are no text are replaced. Raise DataError if the
    file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(size)
            return start.decode(_encoding(start), errors="replace")
    except OSError as error:
        raise DataError("this file cannot be read", where=path, got=error.strerror, fix=READ_FIX) from error
