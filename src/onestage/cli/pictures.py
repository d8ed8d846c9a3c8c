"""Which pictures a command line means, and what they are called in the results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from onestage.data.files import PICTURE_SUFFIXES
from onestage.errors import DataError, first_ten

WRITTEN_AS_NAMED = {".jpg", ".jpeg", ".png"}
"""Annotated copies of other formats are JPEGs, with .jpg after the whole name."""


def find_pictures(given: Sequence[str], *, results: Path) -> list[Path]:
    """The pictures that files, folders and globs name, each once, in that order.

    A folder stands for all pictures in it and below, but for hidden ones and those in the folder ``results``, where annotated
    copies go. A file named itself is taken whatever it is called. DataError if an argument leads to no picture.
    """
    found: dict[Path, Path] = {}
    astray: list[str] = []
    for text in given:
        paths = list(_expand(text, absolute(results)))
        if not paths:
            astray.append(f"{text}: {_why_none(text)}")
        for path in paths:
            found.setdefault(absolute(path), path)
    if astray:
        raise DataError("nothing to look at\n" + first_ten(astray))
    return list(found.values())


def _expand(text: str, results: Path) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        yield from _below(path, results)
    elif path.exists():
        yield path
    else:
        for match in sorted(map(Path, glob.glob(text, recursive=True))):  # noqa: PTH207  # Path.glob knows no absolute patterns
            if match.is_dir():
                yield from _below(match, results)
            elif _is_picture(match.name):
                yield match


def _below(folder: Path, results: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and absolute(Path(parent, f)) != results)
        yield from (Path(parent, name) for name in sorted(files) if _is_picture(name))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def absolute(path: Path) -> Path:
    """The path from the root, without "..". Unlike ``resolve()`` it keeps a link's own name."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _why_none(text: str) -> str:
    if Path(text).is_dir():
        return f"no pictures in this folder ({', '.join(sorted(PICTURE_SUFFIXES))})"
    return "no picture matches" if glob.has_magic(text) else "there is no such file or folder"


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each picture, no two the same: its path from the folder that holds them all, with forward slashes."""
    full = [absolute(path) for path in paths]
    common = os.path.commonpath([path.parent for path in full])
    return [path.relative_to(common).as_posix() for path in full]


def ids_of(names: Sequence[str]) -> list[int | str]:
    """Image ids for COCO results: numbers, if every name is a number (as COCO's own 000000000139.jpg), or else the names."""
    stems = [Path(name).stem for name in names]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    return list(numbers) if len(set(numbers)) == len(names) else list(names)


def copies_of(names: Sequence[str], paths: Sequence[Path], out: Path) -> list[Path]:
    """Where the annotated copies of pictures go in the folder ``out``: named as they are, .jpg added to formats that are not
    written; no two the same.

    DataError where one would replace its picture, or another one.
    """
    kept = {name for name in names if Path(name).suffix.lower() in WRITTEN_AS_NAMED}
    taken = set(kept)
    copies: list[Path] = []
    for name in names:
        copy = name if name in kept else f"{name}.jpg"
        while name not in kept and copy in taken:
            copy += ".jpg"
        taken.add(copy)
        copies.append(out / copy)
    originals = {absolute(path) for path in paths}
    if replaced := [str(copy) for copy in copies if absolute(copy) in originals]:
        fix = "choose another folder: --out annotated"
        raise DataError("annotated copies would replace pictures", where=out, got=", ".join(replaced[:3]), fix=fix)
    return copies
