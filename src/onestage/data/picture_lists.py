"""YOLO's lists of pictures: train.txt, val.txt and test.txt, the path of one picture on each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from onestage.data.dataset import Problem
from onestage.data.files import PICTURE_SUFFIXES, Sources, head, read_list
from onestage.data.pairing import Named, is_outside
from onestage.data.split_words import SPLITS, split_name
from onestage.data.text import quoted, unquoted
from onestage.data.tree import Tree
from onestage.errors import DataError


class PictureList(NamedTuple):
    """What a list says. pictures: each once; one that is not there stays. moved: the paths of other machines that were found
    inside the data set. absent: a problem for each picture that is not there.
    """

    file: Path
    pictures: tuple[Path, ...]
    moved: Mapping[str, Path]
    absent: Mapping[Path, Problem]


def read_pictures(tree: Tree, file: Path, base: Path) -> PictureList:
    """Read a list. base: the folder that the names start from, or the list's. Raise DataError for a path that leads outside."""
    named = Named(tree, file, base=base, is_list=True)
    pictures, absent = [], {}
    for number, written in enumerate(read_list(file), start=1):
        line = written if named.fits(written) else unquoted(written)
        if named.fits(line):
            pictures.append(named.find(line))
        elif is_outside(line) and line.strip():
            fix = "write the paths relative to the list"
            what = "this list names a file outside the data set"
            raise DataError(what, where=f"{file}:{number}", got=quoted(line), fix=fix)
        elif line.strip():
            picture = file.parent / line.strip()
            pictures.append(picture)
            absent[picture] = Problem.of(f"{tree.short(file)}:{number}", named.missing(line.strip()))
    return PictureList(file, tuple(dict.fromkeys(pictures)), named.moved, absent)


def lists_of_splits(tree: Tree) -> dict[str, PictureList]:
    """The lists such as train.txt and val.txt, at any place. Raise DataError if a split has several."""
    found: dict[str, PictureList] = {}
    for file in texts(tree):
        split = split_name(file.stem)
        if split and _names_pictures(file):
            if split in found:
                got = f"{tree.short(found[split].file)}, {tree.short(file)}"
                raise DataError(f"several lists name the pictures of {split}", where=tree.top, got=got, fix="leave one of them")
            found[split] = read_pictures(tree, file, file.parent)
    return found


def _names_pictures(file: Path) -> bool:
    """Whether the first line of a text file is the name of a picture."""
    first = next((unquoted(line) for line in head(file, 2000).splitlines() if line.strip()), "")
    return first.lower().endswith(tuple(PICTURE_SUFFIXES))


def texts(tree: Tree) -> tuple[Path, ...]:
    """The files that may be lists or labels."""
    return tree.with_suffix([".txt"])


def in_order(pictures: Sequence[Path], splits: Sources) -> Sources:
    """All pictures, and those of the splits in the usual order."""
    return {"": tuple(pictures)} | {split: splits[split] for split in SPLITS if split in splits}
