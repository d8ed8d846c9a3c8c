"""What the readers share about files: listing a folder, names of splits, paths in annotations, and reading text safely."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from onestage.data.text import quoted
from onestage.errors import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
SPLITS = ("train", "val", "trainval", "test")
_SPLIT_OF_WORD = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {s: s for s in SPLITS}

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

DEPTH = 3
"""How many folders below the named one are searched: SET/BCCD/train/Annotations/x.xml is the deepest layout known."""


def split_name(text: str) -> str | None:
    """The split in the name of a file or folder: train2017 -> train, bananas_val -> val. None if there is none, or two."""
    words = re.findall("[a-z]+", text.lower())
    found = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return found.pop() if len(found) == 1 else None


def split_above(path: Path, root: Path) -> str | None:
    """The split in the name of the nearest folder above ``path`` and below ``root``; None if no name has one."""
    folders = reversed(path.relative_to(root).parent.parts)
    return next((name for name in map(split_name, folders) if name), None)


def by_split(files: Iterable[Path], splits: Iterable[str | None]) -> Sources:
    """``Sources`` of files whose splits are known, in the usual order of splits."""
    pairs = list(zip(files, splits, strict=True))
    sources = {split: tuple(file for file, belongs in pairs if belongs == split) for split in SPLITS}
    return {"": tuple(file for file, _ in pairs)} | {split: chosen for split, chosen in sources.items() if chosen}


def one_per_split(root: Path, files: list[Path]) -> Sources:
    """``Sources`` of a format that holds a whole split in one file. Raise DataError if the split of a file is unclear."""
    splits = [split_name(file.stem) or split_above(file, root) for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(str(file.relative_to(root)) for file in files[:10])
        what = "several annotation files, and their names do not say which split each one is"
        raise DataError(what, where=root, got=names, fix="name one of the files instead of the folder")
    return by_split(files, splits)


def walk(root: Path, depth: int = DEPTH) -> list[Path]:
    """Every file at most ``depth`` folders down, sorted within its folder; hidden folders are left out."""
    with os.scandir(root) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    files = [root / entry.name for entry in entries if entry.is_file()]
    if depth:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith((".", "__")):
                files += walk(root / entry.name, depth - 1)
    return files


def file_names(folder: str) -> list[str]:
    """The names of the regular files directly in a folder, sorted; none if it does not exist."""
    if not is_folder(Path(folder)):
        return []
    with os.scandir(folder) as scan:
        return sorted(entry.name for entry in scan if entry.is_file())


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; False also for a name that no folder can have."""
    return _has_kind(path, stat.S_ISDIR)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file of this name; False also for a name that no file can have."""
    return _has_kind(path, stat.S_ISREG)


def is_there(path: Path) -> bool:
    """Whether anything has this name."""
    return _has_kind(path, lambda _mode: True)


def _has_kind(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted; none if it does not exist."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def picture_folders(annotations: Path, split: str | None) -> list[Path]:
    """Where the pictures of an annotation file may lie, the best guess first.

    That is a folder with the name of its split, then ``images``, then the folder of the file.
    """
    base = annotations.parent.parent if annotations.parent.name.lower() == "annotations" else annotations.parent
    below = [*subfolders(base), *subfolders(base / "images")]
    same_split = [folder for folder in below if split and split_name(folder.name) == split]
    exact = [folder for folder in same_split if annotations.stem.endswith(folder.name)]
    rest = [folder for folder in below if split is None or split_name(folder.name) is None]
    return list(dict.fromkeys([*exact, *same_split, base / "images", base, annotations.parent, *rest]))


def inside(name: str) -> str | None:
    """A path that an annotation gives, with plain slashes. None unless it stays below its folder: no absolute path, drive,
    ``..``, URL or NUL.

    Symbolic links are followed: the owner of the folder placed them, not the annotation.
    """
    clean = name.strip().replace("\\", "/")
    parts = [part for part in clean.split("/") if part not in ("", ".")]
    foreign = clean.startswith("/") or "://" in clean or "\0" in clean or re.match("[A-Za-z]:", clean)
    return None if foreign or not parts or ".." in parts else "/".join(parts)


class Pictures:
    """Find the pictures that annotations name, in a list of folders. List each folder once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(folders)
        self._listed: dict[str, dict[str, str]] = {}

    def _names(self, folder: str) -> dict[str, str]:
        """The regular files of a folder by their names, and pictures by the name without suffix too."""
        if folder not in self._listed:
            names = file_names(folder)
            split = {name: name.rpartition(".") for name in names}
            pictures = {stem: name for name, (stem, dot, suffix) in split.items() if dot + suffix.lower() in PICTURE_SUFFIXES}
            self._listed[folder] = pictures | {name: name for name in names}
        return self._listed[folder]

    def find(self, name: str) -> str | None:
        """The path of the file with this name; a picture's suffix may be missing. None if there is no such file, or if the
        name leads outside.
        """
        below = inside(name)
        for root in self.folders if below else ():
            folder, _, file = f"{root}/{below}".rpartition("/")
            found = self._names(folder).get(file)
            if found:
                return f"{folder}/{found}"
        return None

    def missing(self, name: str) -> DataError:
        """The reason why ``find`` returned None."""
        if inside(name) is None:
            return DataError(f"refused: the picture's path {quoted(name)} leads outside the data set")
        searched = [f"{folder.name}/" for folder in self.folders if folder.is_dir()]
        return DataError(f"there is no picture {quoted(name)} (looked in {', '.join(searched[:5]) or 'no folder'})")


def pictures_beside(annotations: Path, root: Path) -> Pictures:
    """The pictures of one annotation file of a data set: the names of file and folders show its split."""
    return Pictures(picture_folders(annotations, split_name(annotations.stem) or split_above(annotations, root)))


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raise DataError if it cannot be read, is no regular file, or exceeds the limit of its suffix."""
    limit = MAX_BYTES.get(path.suffix.lower(), max(MAX_BYTES.values()))
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError("this is not a regular file", where=path)
        if found.st_size > limit:
            got, expected = f"{found.st_size:,} bytes", f"at most {limit:,}"
            raise DataError("this file is too large", where=path, got=got, expected=expected)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, DataError):
            raise
        raise DataError("this file cannot be read", where=path, got=getattr(error, "strerror", error)) from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark; line ends stay as they are.

    Raise DataError as ``read_bytes`` does, and if the file is no UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise DataError("this file is not UTF-8 text", where=path, got=got, fix="save it as UTF-8") from error
    if text.startswith("version https://git-lfs"):
        raise DataError("this is a git-lfs pointer, not the file itself", where=path, fix="run: git lfs pull")
    return text


def pieces(path: Path, size: int = 2**24) -> Iterator[str]:
    """A file in pieces that overlap, to search it for a short word; no more than one piece is in memory. Raise DataError if the
    file cannot be read.
    """
    try:
        with path.open("rb") as file:
            tail = b""
            while data := file.read(size):
                yield (tail + data).decode("utf-8", errors="replace")
                tail = data[-64:]
    except OSError as error:
        raise DataError("this file cannot be read", where=path, got=error.strerror) from error


def head(path: Path, size: int = 65536) -> str:
    """The first characters of a file, to guess what it is; bytes that are not UTF-8 are replaced. Raise DataError if the
    file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError("this file cannot be read", where=path, got=error.strerror) from error
