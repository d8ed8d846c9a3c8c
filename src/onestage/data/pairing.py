"""Which file belongs to which: the one place where every format pairs its pictures and its annotations.

Two questions are answered here. ``Named``: which file does an annotation or a list mean by a name? ``pair``: which picture and
which annotation file of one name belong together? Policy:
- A name counts as it is written. Only where no file has it so, capitals and Unicode's normal forms do not count.
- Names of folders that only say "pictures here" or "labels here" (``ROLES``) are no part of a place, in any spelling:
  Images/train, train_images and train lie at one place, and so do the annotations of labels/train.
- A path with a drive or from / is never opened: it belongs to another machine. Where its end names a file inside the data set,
  that file is meant, and ``Named.moved`` says so.
- One file is an answer only if no other file fits as well. Several are an error that lists them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from onestage.data.files import CONVERT, PICTURE_SUFFIXES, inside
from onestage.data.split_words import split_name
from onestage.data.text import listed, quoted
from onestage.data.tree import ByName, Located, Parts, Tree, folded, without_role
from onestage.errors import DataError, PictureError


@lru_cache(maxsize=65_536)
def _is_plain(folder: str) -> bool:
    """Whether the name of a folder says its role or its split, and nothing else."""
    return not (rest := without_role(folder)) or bool(split_name(rest) and re.fullmatch(r"[^\W\d_]+[\d-]*", rest))


@lru_cache(maxsize=65_536)
def _nearest_split(folders: Parts) -> str | None:
    """The split in the name of the last of these folders that has one."""
    return next(filter(None, map(split_name, reversed(folders))), None)


@dataclass(frozen=True)
class Stated:
    """A path as a file states it, taken apart. foreign: it starts at the top of another machine."""

    folders: Parts
    name: str
    foreign: bool

    @classmethod
    def of(cls, text: str) -> Stated | None:
        """None for what is no path inside a data set: a URL, NUL, a path with ``..``, or nothing."""
        clean = text.replace("\\", "/")
        top = re.match("(?:[A-Za-z]:)?/+", clean)
        below = inside(clean[top.end() :] if top else clean)
        if below is None:
            return None
        *folders, name = below.split("/")
        return cls(tuple(map(folded, folders)), name, top is not None)


def unread_picture(tree: Tree, name: str) -> DataError | None:
    """The error for a picture of this name, with its suffix or without, in a format that is not read; None if there is none."""
    found = tree.unread_by_name.named(name)
    if not found:
        return None
    got, expected = tree.short(found[0].file), ", ".join(sorted(PICTURE_SUFFIXES))
    return PictureError("the picture is in a format that is not read", got=got, expected=expected, fix=CONVERT)


def is_outside(name: str) -> bool:
    """Whether a name leads outside the data set: a URL, ``..``, or a path of another machine."""
    stated = Stated.of(name.strip())
    return stated is None or stated.foreign


class Named:
    """The files that one annotation file, or one list, means by the names in it.

    among: the files that may be meant, the pictures if left out. base: the folder that the names start from, if that is known.
    is_list: it lists a split, so its names may begin one folder above the data set, or lie in a folder of another split.
    moved: the paths of other machines that were found inside the data set, with the files that are meant.
    """

    def __init__(
        self, tree: Tree, file: Path, *, among: ByName | None = None, base: Path | None = None, is_list: bool = False
    ) -> None:
        self.tree, self.file, self.is_list = tree, file, is_list
        self.among = tree.pictures_by_name if among is None else among
        self.beside = tree.parts(file.parent)
        self.base = self._base(file.parent) if base is None else tree.parts(base)
        self.split = split_name(file.stem) or _nearest_split(self.beside)
        self.moved: dict[str, Path] = {}
        self._found: dict[str, list[Path]] = {}
        self._places: dict[Parts, int | None] = {}

    def _base(self, folder: Path) -> Parts:
        """The folder of the data set that an annotation file is part of: above those named after a role or split."""
        while folder != self.tree.top and folder.is_relative_to(self.tree.top) and _is_plain(folder.name):
            folder = folder.parent
        return self.tree.parts(folder)

    def fits(self, name: str) -> bool:
        """Whether there is a file with this name, or several."""
        return bool(self._best(name))

    def is_near(self, name: str) -> bool:
        """Whether a file with this name lies where pictures usually do, or one folder down from the data set's."""
        most = len(self.base) + len(stated.folders) + 1 if (stated := Stated.of(name.strip())) else 0
        return any(self._place(folders) in (0, 1, 2) or len(folders) <= most for folders in self._folders_of(name))

    def find(self, name: str) -> Path:
        """The file with this name; a picture's suffix may be missing.

        Raise DataError if there is none, if several fit, or if the name leads outside the data set.
        """
        found = self._best(name)
        if len(found) > 1:
            got = ", ".join(map(self.tree.short, found[:5])) + (" ..." if len(found) > 5 else "")
            what = f"several files fit the name {quoted(name)}"
            raise DataError(
                what,
                where=self.tree.short(self.file),
                got=got,
                fix="write the folder in front of the name, or leave one of them",
            )
        if not found:
            raise self.missing(name)
        if is_outside(name):
            self.moved[name.strip()] = found[0]
        return found[0]

    def _folders_of(self, name: str) -> list[Parts]:
        return [self.tree.parts(file.parent) for file in self._best(name)]

    def _best(self, name: str) -> list[Path]:
        """The files that fit best; blanks around the name count only if a file has them too."""
        if name not in self._found:
            stated = map(Stated.of, dict.fromkeys((name, name.strip())))
            self._found[name] = next(filter(None, (self._fitting(path) for path in stated if path)), [])
        return self._found[name]

    def missing(self, name: str) -> DataError:
        """The error if there is no picture with this name."""
        if is_outside(name):
            what = f"refused: the picture's path {quoted(name)} leads outside the data set"
            return DataError(what, fix="write the path from the data set's folder")
        stated = Stated.of(name.strip())
        shown, folder = quoted(name).replace("\\\\", "\\"), self.tree.top.name or self.tree.top
        if stated and (near := self.among.named(stated.name)):
            what, fix = f"{folder}/ has no picture at the place {shown}", "correct the path, or move the picture"
            return PictureError(what, got=listed((self.tree.short(file) for _, file in near), 3), fix=fix)
        if stated and (unread := unread_picture(self.tree, stated.name)):
            return unread
        return PictureError(
            f"there is no picture {shown} in {folder}/", fix="put it there, correct the name, or remove the entry"
        )

    def _fitting(self, stated: Stated) -> list[Path]:
        """The files that may be meant and fit best: by how much of the path they share, then by place, then by spelling."""
        count = len(stated.folders)
        for same in range(min(count, self.among.depth), -1, -1):
            dropped, kept = stated.folders[: count - same], stated.folders[count - same :]
            if not dropped or self._may_drop(stated, dropped, same):
                placed = [*self._placed(self.among.named(stated.name, kept), dropped, same)]
                best = min((place for place, _ in placed), default=None)
                spelt = [(_closest(stated.name, file), file) for place, file in placed if place == best]
                if spelt:
                    least = min(spelling for spelling, _ in spelt)
                    return [file for spelling, file in spelt if spelling == least]
        return []

    def _placed(self, among: Iterable[Located], dropped: Parts, same: int) -> Iterator[tuple[int, Path]]:
        """Those of the files that share the last ``same`` folders of a path, and no more of them, each with its place."""
        for folders, file in among:
            above = folders[: len(folders) - same]
            if dropped and above[-1:] == dropped[-1:]:
                continue
            place = self._place(above)
            if place is not None and (place <= 2 or not dropped):
                yield place, file

    def _place(self, above: Parts) -> int | None:
        """As ``_judged``, which looks at each folder once."""
        if above not in self._places:
            self._places[above] = self._judged(above)
        return self._places[above]

    def _judged(self, above: Parts) -> int | None:
        """How well the folders above a stated path fit this file, 0 best. None if they are of another split."""
        split = _nearest_split(above)
        if self.split and split and split != self.split and "trainval" not in (split, self.split):
            return 5 if self.is_list else None
        if not self._is_usual(above):
            return 3 if above[: len(self.base)] == self.base else 4
        if any(folded(self.file.stem).endswith(folder) for folder in above):
            return 0
        return 1 if split and split == self.split else 2

    def _is_usual(self, above: Parts) -> bool:
        """Whether pictures usually lie here: below the file's folder or the set's, in folders that say their role or split."""
        starts = [start for start in (self.beside, self.base, ()) if above[: len(start)] == start]
        return any(all(map(_is_plain, above[len(start) :])) for start in starts)

    def _may_drop(self, stated: Stated, dropped: Parts, same: int) -> bool:
        """Whether the path may begin in a folder that is not there: on another machine, or above the data set."""
        above = self._above
        return stated.foreign or above[-len(dropped) :] == dropped or (self.is_list and (same > 0 or dropped[-1] in above[-1:]))

    @cached_property
    def _above(self) -> Parts:
        """The folders from the top of the machine down to the searched one."""
        return tuple(map(folded, self.tree.top.absolute().parts))


def _spelling(a: str, b: str) -> int:
    """How much the spelling of two names differs: not, in the normal form only, or in capitals too."""
    return 0 if a == b else 1 if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b) else 2


def _closest(name: str, file: Path) -> int:
    """How much the spelling of a name differs from a file's, with its suffix or without."""
    return min(_spelling(name, file.name), _spelling(name, file.stem))


@dataclass(frozen=True)
class Pairs:
    """Pictures and annotation files that belong together: for each one, the partners that fit best. One is an answer."""

    labels: Mapping[Path, Sequence[Path]]
    pictures: Mapping[Path, Sequence[Path]]


def pair(tree: Tree, pictures: Iterable[Path], labels: Iterable[Path]) -> Pairs:
    """Pair pictures and annotation files that have one name, before the suffix, and lie at one place.

    A partner in the same folder, or in one that differs in the words for its role only, goes before others. A picture without
    a partner so fits annotations that have its name with the suffix: a.jpg.txt belongs to a.jpg, or to one of a.jpg and
    a.jpg.jpg. If no file finds a partner so, folders of other names are tried: see ``_by_folders``.
    """
    pictures, labels = list(pictures), list(labels)
    by_key: dict[tuple[Parts, str], list[Path]] = defaultdict(list)
    keys = _Keys(tree)
    for label in labels:
        by_key[keys.of(label)].append(label)
    edges = [(picture, label, keys.rank(picture, label)) for picture in pictures for label in by_key.get(keys.of(picture), ())]
    paired = {picture for picture, *_ in edges}
    lone = ((picture, (keys.of(picture)[0], folded(picture.name))) for picture in pictures if picture not in paired)
    edges += [
        (picture, label, keys.rank(picture, label, picture.name)) for picture, key in lone for label in by_key.get(key, ())
    ]
    return _best(edges or _by_folders(tree, pictures, labels))


class _Keys:
    """The place of each folder, worked out once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._places: dict[Path, Parts] = {}

    def of(self, file: Path) -> tuple[Parts, str]:
        """What a picture and its annotations have in common: the place, and the name without its suffix."""
        folder = file.parent
        if folder not in self._places:
            inner = folder.relative_to(self.tree.top).parts if folder.is_relative_to(self.tree.top) else ("..",)
            self._places[folder] = tuple(filter(None, map(without_role, inner)))
        return self._places[folder], folded(file.stem)

    def rank(self, picture: Path, label: Path, name: str | None = None) -> tuple[int, int]:
        """How well two files of one place fit, the smallest best: by their folders, then by the spelling of their names. name:
        of the picture, as the annotations have it; without its suffix if left out.
        """
        ours, theirs = self.tree.parts(picture.parent), self.tree.parts(label.parent)
        close = ours == theirs or (
            len(ours) == len(theirs)
            and all(a == b or without_role(a) == without_role(b) for a, b in zip(ours, theirs, strict=True))
        )
        return int(not close), _spelling(name or picture.stem, label.stem)


_Edge = tuple[Path, Path, tuple[int, int]]


def _best(edges: Sequence[_Edge]) -> Pairs:
    """The pairs that are among the best of both partners."""
    least: dict[Path, tuple[int, int]] = {}
    for picture, label, rank in edges:
        for file in (picture, label):
            least[file] = min(least.get(file, rank), rank)
    of_picture: dict[Path, list[Path]] = defaultdict(list)
    of_label: dict[Path, list[Path]] = defaultdict(list)
    for picture, label, rank in edges:
        if rank <= least[picture] and rank <= least[label]:
            of_picture[picture].append(label)
            of_label[label].append(picture)
    return Pairs(dict(of_picture), dict(of_label))


def _by_folders(tree: Tree, pictures: Sequence[Path], labels: Sequence[Path]) -> list[_Edge]:
    """Pairs across folders whose names say nothing: Fotos/a.jpg and Kisten/a.txt.

    The two folders differ in one name, or one lies directly in the other, and they share the name of a file. Raise
    DataError if a folder has several such partners.
    """
    ours, theirs = _stems_by_folder(pictures), _stems_by_folder(labels)
    fitting = [
        (folder, other)
        for folder in ours
        for other in theirs
        if _one_apart(tree.parts(folder), tree.parts(other)) and ours[folder].keys() & theirs[other].keys()
    ]
    _refuse_rivals(tree, fitting)
    return [edge for folder, other in fitting for edge in _edges(ours[folder], theirs[other])]


def _refuse_rivals(tree: Tree, fitting: Sequence[tuple[Path, Path]]) -> None:
    """Raise DataError if a folder of pictures, or one of labels, has several partners."""
    for folder, other in fitting:
        rivals = [pair for pair in fitting if folder in pair or other in pair]
        if len(rivals) > 1:
            what = f"it is not clear which folder holds the labels of {tree.short(folder)}/"
            got = "; ".join(f"{tree.short(a)}/ with {tree.short(b)}/" for a, b in rivals)
            raise DataError(what, where=tree.top, got=got, fix="name the folders images and labels")


def _edges(pictures: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]) -> list[_Edge]:
    """The pairs of two folders; their files by the name without suffix."""
    pairs = ((picture, label) for stem, found in pictures.items() for picture in found for label in labels.get(stem, ()))
    return [(picture, label, (0, 0)) for picture, label in pairs]


def _stems_by_folder(files: Iterable[Path]) -> dict[Path, dict[str, list[Path]]]:
    found: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        found[file.parent][folded(file.stem)].append(file)
    return found


def _one_apart(a: Parts, b: Parts) -> bool:
    """Whether two places differ in one folder, and not in their split."""
    if _nearest_split(a) != _nearest_split(b):
        return False
    short, long = sorted((a, b), key=len)
    if len(short) == len(long):
        return sum(x != y for x, y in zip(a, b, strict=True)) == 1
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long))) and len(long) == len(short) + 1
