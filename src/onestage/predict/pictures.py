"""Which pictures files, folders and globs name, and what each is called in the results."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from onestage.data.files import PICTURE_SUFFIXES, matches
from onestage.data.stems import flat_stems
from onestage.errors import DataError, absent, first_ten
from onestage.predict.films import SUFFIXES as FILM_SUFFIXES

WRITTEN_AS_NAMED = {".jpg", ".jpeg", ".png"}
"""Formats of annotated copies. Copies of pictures in any other format are JPEGs, with .jpg after the whole name."""

SOFTWARE = "onestage predict"
"""What annotated copies name in their EXIF data as the program that made them. Only such a picture may be replaced."""

_BEGINNING = 512  # bytes; Pillow writes EXIF data before the pixels


@dataclass(frozen=True)
class PictureFile:
    """One picture: its path, its id in the results, and what files about it are called.

    name: of its copies: a path below the folder of such copies, with forward slashes, that no other picture has. stem: of files
    in one folder for all pictures, such as labels: a plain name without a suffix, that no other picture has on any system.
    """

    path: Path
    image_id: int | str
    name: str = ""
    stem: str = ""


def name_pictures(paths: Sequence[Path]) -> list[PictureFile]:
    """The pictures with their ids and the names of their files."""
    names = names_of(paths)
    return [PictureFile(*row) for row in zip(paths, ids_of(names), copy_names(names), flat_stems(names), strict=True)]


def find_pictures(given: Sequence[str], *, results: Path) -> list[Path]:
    """The pictures that files, folders and globs name, each once, in that order.

    A folder means all pictures in it and in its subfolders, except hidden ones and those in the folder ``results``, where
    annotated copies go. A file that is named itself is taken whatever its name is. Raise DataError if an argument names no
    picture.
    """
    found: dict[Path, Path] = {}
    without: list[str] = []
    for text in given:
        paths = list(_expand(text, os.path.realpath(results)))
        if not paths:
            without.append(text)
        for path in paths:
            found.setdefault(absolute(path), path)
    fix = "name files, folders or globs that have pictures"
    if len(without) == 1:
        raise DataError(_why_none(without[0]), where=without[0], fix=fix)
    if without:
        raise DataError("nothing to look at\n" + first_ten([f"{text}: {_why_none(text)}" for text in without]), fix=fix)
    return list(found.values())


def _expand(text: str, results: str) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        yield from _below(path, results)
    elif path.exists():
        yield path
    else:
        for match in map(Path, matches(text)):
            if match.is_dir():
                yield from _below(match, results)
            elif _is_picture(match.name):
                yield match


def _below(folder: Path, results: str) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.realpath(Path(parent, f)) != results)
        yield from (Path(parent, name) for name in sorted(files) if _is_picture(name))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def absolute(path: Path) -> Path:
    """The path from the root, without "..". Unlike ``resolve()`` it does not follow links.

    Raise DataError if the current folder was deleted.
    """
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100
    except FileNotFoundError as error:
        raise DataError("the current folder was deleted", where=path, fix="go to a folder that is there: cd") from error


def _why_none(text: str) -> str:
    if Path(text).is_dir():
        names = next(os.walk(text), (text, [], []))[2]
        films = sorted(name for name in names if Path(name).suffix.lower() in FILM_SUFFIXES)
        more = f", but films, such as {films[0]}: name these themselves" if films else ""
        return f"no pictures in this folder ({', '.join(sorted(PICTURE_SUFFIXES))}){more}"
    return "no picture matches" if glob.has_magic(text) else absent(text)


def names_of(paths: Sequence[Path]) -> list[str]:
    """A unique name for each picture: its path from the folder that holds them all, with forward slashes."""
    full = [absolute(path) for path in paths]
    common = os.path.commonpath([path.parent for path in full])
    return [path.relative_to(common).as_posix() for path in full]


def ids_of(names: Sequence[str]) -> list[int | str]:
    """Image ids for COCO results: numbers if every name is a number (as COCO's 000000000139.jpg), or else the names."""
    stems = [Path(name).stem for name in names]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    return list(numbers) if len(set(numbers)) == len(names) else list(names)


def copy_names(names: Sequence[str]) -> list[str]:
    """The names of the pictures' copies, no two the same: that of the picture, with .jpg added if its format is not written."""
    taken = {name for name in names if _keeps_format(name)}
    copies: list[str] = []
    for name in names:
        copy = name
        while not _keeps_format(name) and (copy == name or copy in taken):
            copy += ".jpg"
        taken.add(copy)
        copies.append(copy)
    return copies


def check_copies(pictures: Sequence[PictureFile], folder: Path) -> None:
    """Raise DataError if a copy in this folder would replace one of the pictures, by whatever links, or any file but an earlier
    copy.
    """
    originals = {os.path.realpath(picture.path) for picture in pictures}
    copies = [folder / picture.name for picture in pictures]
    replaced = [str(copy) for copy in copies if os.path.realpath(copy) in originals or not may_replace(copy)]
    if replaced:
        what, got = "annotated copies would replace pictures that are no such copies", ", ".join(replaced[:3])
        raise DataError(what, where=folder, got=got, fix="choose another folder: --out annotated")


def may_replace(path: Path) -> bool:
    """Whether no file is at this path, or one whose EXIF data, at its beginning, name ``SOFTWARE``. At a path that no file can
    have, writing says why.
    """
    try:
        with path.open("rb") if path.is_file() else nullcontext() as file:
            return file is None or SOFTWARE.encode() in file.read(_BEGINNING)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG


def _keeps_format(name: str) -> bool:
    return Path(name).suffix.lower() in WRITTEN_AS_NAMED
