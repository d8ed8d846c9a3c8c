"""The files among which a data set is found, and how the names of files and folders are compared."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from onestage.data.files import PICTURE_SUFFIXES, UNREAD_SUFFIXES
from onestage.data.split_words import split_name

ROLES = frozenset(
    """
    images image imgs img jpegimages pictures picture pics pic photos photo frames
    labels label lbls lbl annotations annotation annots annot annos anno anns ann xmls xml txts txt bboxes bbox boxes
    """.split()  # noqa: SIM905  # a list with a word on each line is harder to read
)
"""The words for a folder of pictures or of annotations, in lower case."""

Parts = tuple[str, ...]
"""The folders of a path, without capitals, in Unicode's normal form C."""


def folded(text: str) -> str:
    """A name without capitals and in normal form C, so that two spellings of one name are equal."""
    return unicodedata.normalize("NFC", text).casefold()


def _words(folder: str) -> list[str]:
    """The words in the name of a folder: trainImages -> train, images."""
    return re.split(r"[\s_.-]+", folded(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFC", folder))))


@lru_cache(maxsize=65_536)
def without_role(folder: str) -> str:
    """The name of a folder without the words for its role: Images -> "", train_labels -> train."""
    words = _words(folder)
    return "_".join(word for word in words if word not in ROLES) if ROLES & {*words} else folded(folder)


@dataclass(frozen=True)
class Tree:
    """The files among which a data set is found.

    top: the folder that was searched; nothing outside it is read. files: all files in it, at any depth. chosen: the file that
    the user named, if it was no folder.
    """

    top: Path
    files: tuple[Path, ...]
    chosen: Path | None = None

    @property
    def root(self) -> Path:
        """The folder that messages start from."""
        return self.top if self.chosen is None else self.chosen.parent

    @property
    def offered(self) -> tuple[Path, ...]:
        """The files that may be annotations: the one that was named, or all."""
        return self.files if self.chosen is None else (self.chosen,)

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """All files that are pictures by their suffix."""
        return self.with_suffix(PICTURE_SUFFIXES)

    @cached_property
    def unread_by_name(self) -> ByName:
        """The pictures in formats that are not read, by their names."""
        return ByName(self, self.with_suffix(UNREAD_SUFFIXES))

    def with_suffix(self, suffixes: Iterable[str]) -> tuple[Path, ...]:
        """All files with one of these suffixes, in lower case with a dot."""
        wanted = frozenset(suffixes)
        return tuple(file for file in self.files if file.suffix.lower() in wanted)

    def short(self, path: Path) -> str:
        """A path as messages write it: relative to the searched folder."""
        return path.relative_to(self.top).as_posix() if path.is_relative_to(self.top) else str(path)

    @cached_property
    def _folders(self) -> dict[Path, Parts]:
        return {}

    def parts(self, folder: Path) -> Parts:
        """The folders from the searched one down to ``folder``, folded."""
        if folder not in self._folders:
            inner = folder.is_relative_to(self.top)
            self._folders[folder] = tuple(map(folded, folder.relative_to(self.top).parts)) if inner else ("..",)
        return self._folders[folder]

    @cached_property
    def pictures_by_name(self) -> ByName:
        """The pictures by their names."""
        return ByName(self, self.pictures)

    @cached_property
    def subfolders(self) -> Mapping[Parts, list[Path]]:
        """Every folder that holds a file at some depth, by its folded parts."""
        found: dict[Parts, list[Path]] = defaultdict(list)
        for folder in dict.fromkeys(above for file in self.files for above in file.parents if above.is_relative_to(self.top)):
            found[self.parts(folder)].append(folder)
        return found


def surroundings(file: Path) -> Path:
    """The folder of a data set of which the user named one annotation file: above folders that say their role only."""
    folder = file.parent
    while not without_role(folder.name) and folder.name:
        folder = folder.parent
    return folder


def labels_may_be_above(folder: Path, tree: Tree) -> str:
    """What to do if no labels lie in a folder: those of a folder with the name of a split, or of a role, may lie beside it."""
    above, name = folder.parent if folder.name else folder.resolve().parent, folder.resolve().name
    if tree.pictures and (split_name(name) or not without_role(name)):
        return (
            f"if the labels lie beside this folder, name the one above it, {above}; or arrange the files in one of these ways"
        )
    return "name the folder that holds both pictures and labels, or arrange the files in one of these ways"


class Located(NamedTuple):
    """A file, and the folders from the searched one down to it."""

    folders: Parts
    file: Path


_Index = Mapping[tuple[Parts, str], Sequence[Located]]


class ByName:
    """Files by their folded names, or by these names without the suffix, and by the last folders above them.

    depth: folders above the deepest file.
    """

    def __init__(self, tree: Tree, files: Iterable[Path]) -> None:
        self._files = [Located(tree.parts(file.parent), file) for file in files]
        self.depth = max((len(located.folders) for located in self._files), default=0)
        self._indices: dict[tuple[int, bool], _Index] = {}

    def named(self, name: str, below: Parts = ()) -> Sequence[Located]:
        """The files with this name whose last folders are ``below``. If no file has this name in any folder, those with this
        name before their suffix.
        """
        key = folded(name)
        with_suffix = ((), key) in self._index(0, with_suffix=True)
        return self._index(len(below), with_suffix=with_suffix).get((below, key), ())

    def _index(self, depth: int, *, with_suffix: bool) -> _Index:
        """The files by their last ``depth`` folders and their name; made when it is first needed."""
        if (depth, with_suffix) not in self._indices:
            found: dict[tuple[Parts, str], list[Located]] = defaultdict(list)
            for located in self._files:
                if len(located.folders) >= depth:
                    name = located.file.name if with_suffix else located.file.stem
                    found[located.folders[len(located.folders) - depth :], folded(name)].append(located)
            self._indices[depth, with_suffix] = dict(found)
        return self._indices[depth, with_suffix]
