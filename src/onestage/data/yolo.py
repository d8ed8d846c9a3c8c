"""YOLO: one text file for each picture, a line ``class centre_x centre_y width height`` for each object, in 0-1.

The format: https://docs.ultralytics.com/datasets/detect/, and darknet's before it. Policy:
- pairing.py finds the labels of a picture: labels/train/a.txt for images/train/a.jpg, or a.txt beside the picture.
- By the format's rules, a picture without a label file, or with an empty one, has no objects. A label file without a picture
  is a problem.
- What the lines state, ``yolo_lines`` tells. Six columns are a problem: the sixth may be a score or a track. Labels have none.
- Names come from data.yaml, classes.txt or obj.names. All YAML is read as text, so the classes ``no``, ``on`` and ``012`` keep
  their names; aliases and duplicate keys are refused.
- Splits are those of data.yaml, or the lists train.txt, val.txt, test.txt at any place, or folders of these names, with labels
  or without. One that data.yaml names and that is not there is in ``missing``.
- A path of another machine in data.yaml is never opened; the folder or list inside the data set that fits its end is meant. A
  leading ``../`` is ignored: the exporters that write it do not mean the folder above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from onestage import boxes as box_ops
from onestage.data.data_yaml import YamlSplits, check_keys, class_names, describes_data
from onestage.data.dataset import Problem
from onestage.data.files import Sources, by_split, head, read_bytes, read_list, split_above
from onestage.data.labels import SHOWN, StoredClasses
from onestage.data.pairing import Pairs, pair, unread_picture
from onestage.data.picture_lists import in_order, lists_of_splits, texts
from onestage.data.plain_yaml import read_yaml
from onestage.data.split_words import split_name
from onestage.data.table import PictureFile, Table
from onestage.data.text import listed, misspelt, quoted
from onestage.data.tree import Parts, Tree, folded
from onestage.data.yolo_lines import Content, KeyPoints, fill, is_named, key_point_columns, read_file, stated_key_points
from onestage.errors import DataError, PictureError

LAYOUT = "YOLO: data.yaml, or images/train/ and labels/train/ with classes.txt, or pictures and .txt files in one folder"

_LABELS = re.compile(r"\s*\d+(\.0*)?([\s,;]+[-+\d.eE]+){4}")  # commas and semicolons are wrong, and yolo_lines says so
_COMMENTS = re.compile(r"\A(?:[^\S\r\n]*(?:#[^\r\n]*)?(?:[\r\n]|\Z))+")
_NUMBERS = re.compile(r"\s*[-+]?\d\S*?([^\S\r\n]|[,;])+[-+.,]?\d")

_OTHER_NAMES = frozenset(
    """
    class labels names categories clases clase categorias klassen klasse classi classe klasy klasser luokat kelas siniflar
    sınıflar třídy tridy класс классы класи 类别 類別 クラス 클래스
    """.split()  # noqa: SIM905  # as in ``ROLES`` of tree.py
)
"""Names of files that may be meant for classes.txt, in lower case."""


@dataclass(frozen=True)
class YoloSet:
    """A YOLO data set found on disk.

    sources: the pictures of each split. names: None if nothing gives them. moved: the paths of other machines that were found
    inside the data set, by the file that states them. missing: the splits that data.yaml names and that are not here.
    key_points: as data.yaml states them. notes: what to know of data.yaml. absent: a problem for each picture on a list that is
    not there.
    """

    sure: ClassVar[bool] = True
    tree: Tree = field(repr=False)
    sources: Sources
    names: tuple[str, ...] | None = None
    moved: Mapping[Path, Mapping[str, Path]] = field(default_factory=dict)
    missing: Mapping[str, DataError] = field(default_factory=dict)
    key_points: KeyPoints | None = None
    notes: tuple[Problem, ...] = ()
    absent: Mapping[Path, Problem] = field(default_factory=dict)
    _contents: dict[Path, Content] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def label_files(self) -> frozenset[Path]:
        """The files that are read for some split."""
        splits = [pictures for split, pictures in self.sources.items() if split] or [self.sources[""]]
        return frozenset(file for pictures in splits for picture in pictures for file in self._pairs.labels.get(picture, ()))

    @cached_property
    def _pairs(self) -> Pairs:
        return pair(self.tree, self.sources[""], texts(self.tree))

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        table.to_xyxy, table.relative = box_ops.from_cxcywh, True
        table.classes = StoredClasses.by_number(self.names) if self.names else None
        for file, moved in self.moved.items():
            table.moved(file, moved)
        table.notes.extend(self.notes)
        labelled = []
        for picture in self.sources[split]:
            if picture in self.absent:
                table.problems.append(self.absent[picture])
                continue
            try:
                label_file = self._label_file(picture)
            except DataError as error:
                table.problem(table.name(picture), error)
                continue
            row = table.add(PictureFile(str(picture), table.name(picture.with_suffix(""))))
            if label_file:
                labelled.append((row, table.name(label_file), self._content(label_file)))
        fill(table, labelled, self._columns)
        self._report_orphans(table, {file.parent for p in self.sources[split] for file in self._pairs.labels.get(p, ())})

    def _content(self, file: Path) -> Content:
        if file not in self._contents:
            self._contents[file] = read_file(file, Table(self.tree.root).name(file))
        return self._contents[file]

    @cached_property
    def _columns(self) -> int | None:
        """The columns of each line of key points, for all splits alike; None for outlines."""
        if self.key_points:
            return 5 + self.key_points.amount * self.key_points.numbers
        divided = {picture for split, pictures in self.sources.items() if split for picture in pictures}
        rest = {"": tuple(picture for picture in self.sources[""] if picture not in divided)}
        return key_point_columns({split: self._readable(pictures) for split, pictures in ({**self.sources} | rest).items()})

    def _readable(self, pictures: Sequence[Path]) -> Iterator[Content]:
        """The content of the label files of these pictures, without those that are unclear."""
        for picture in pictures:
            with suppress(DataError):
                if file := self._label_file(picture):
                    yield self._content(file)

    def _label_file(self, picture: Path) -> Path | None:
        """The labels of a picture; None if it has none. Raise DataError if several files fit, or several pictures."""
        found = [*self._pairs.labels.get(picture, ())]
        if len(found) > 1:
            found = [file for file in found if _may_hold_labels(file)] or found[:1]
        if len({read_bytes(file) for file in found}) > 1:
            got = ", ".join(map(self.tree.short, found))
            raise DataError("several files may hold the labels of this picture", got=got, fix="leave one of them")
        pictures = self._pairs.pictures[found[0]] if found else ()
        if len(pictures) > 1:
            what = f"{self.tree.short(found[0])} may be the labels of several pictures"
            raise DataError(
                what, got=", ".join(map(self.tree.short, pictures)), fix="leave one of them, or list it in data.yaml"
            )
        return found[0] if found else None

    def _report_orphans(self, table: Table, folders: set[Path]) -> None:
        """A problem for each file of labels in these folders that belongs to no picture."""
        lost = [file for file in texts(self.tree) if file.parent in folders and file not in self._pairs.pictures]
        known = pair(self.tree, self.tree.pictures, lost).pictures if lost else {}
        for file in lost:
            if file not in known and holds_labels(file):
                what, fix = "there is no picture for these labels", "put the picture of the same name there, or remove the file"
                table.problem(table.name(file), unread_picture(self.tree, file.stem) or PictureError(what, fix=fix))


def find(tree: Tree) -> YoloSet | None:
    """The YOLO data set among these files, or None. A single YAML file means the data set that it describes."""
    data_files = [file for file in tree.offered if file.suffix.lower() in (".yaml", ".yml") and describes_data(file)]
    if len(data_files) > 1:
        got = ", ".join(map(tree.short, data_files))
        raise DataError("several YAML files describe a data set here", where=tree.top, got=got, fix="name the one meant")
    if data_files:
        return _find_by_yaml(tree, data_files[0])
    return _find_by_labels(tree) if tree.chosen is None else None


def holds_labels(file: Path) -> bool:
    """Whether a file looks like labels in this format: its first line, comments aside, is an object."""
    return file.suffix.lower() == ".txt" and bool(_LABELS.match(_start(file)))


def misread(tree: Tree) -> DataError | None:
    """Why the first file beside a picture whose lines have the names of classes is no data set; None if there is none."""
    pairs = pair(tree, tree.pictures, texts(tree)).pictures
    file = next((file for file in pairs if is_named(next(iter(_start(file).splitlines()), ""))), None)
    if file is None:
        return None
    line, names = _start(file).splitlines()[0], None
    with suppress(DataError):
        names = _agreed_names(tree)
    numbers = f": {', '.join(f'{number} for {name}' for number, name in enumerate(names[:SHOWN]))}" if names else ""
    return DataError(
        "the first column of these labels is a name; YOLO has the number of the class there",
        where=file,
        got=quoted(line),
        expected="class, centre x, centre y, width, height",
        fix=f"write the number of each class, its line in classes.txt, counted from 0{numbers}",
    )


def _may_hold_labels(file: Path) -> bool:
    """Whether one of several files may be a picture's labels: it is empty or begins with two numbers, good or bad."""
    start = _start(file)
    return not start.strip() or bool(_NUMBERS.match(start))


def _start(file: Path) -> str:
    """The first characters of a file, without empty lines and comments before the first object."""
    return _COMMENTS.sub("", head(file, 2000))


def _find_by_yaml(tree: Tree, data_file: Path) -> YoloSet:
    """The data set that data.yaml describes. Raise DataError if a list of names contradicts its order of classes."""
    content = read_yaml(data_file)
    check_keys(data_file, content)
    names = class_names(data_file, content)
    notes = _other_names(tree, data_file, names)
    splits = YamlSplits(tree, data_file, content)
    sources, key_points = splits.read(), stated_key_points(content, data_file)
    return YoloSet(
        tree,
        sources,
        names,
        splits.moved,
        splits.missing,
        key_points=key_points,
        notes=(*notes, *splits.notes),
        absent=splits.absent,
    )


def _other_names(tree: Tree, data_file: Path, names: Sequence[str]) -> list[Problem]:
    """A note for each list of names that differs from data.yaml. Raise DataError if it gives one name another number."""
    notes = []
    number_of = {name: number for number, name in enumerate(names)}
    for file in _name_files(tree):
        other = _written_names(file)
        if any(number_of.get(name, number) != number for number, name in enumerate(other)):
            raise _other_order(tree, data_file, names, file, other)
        if other != tuple(names):
            what = f"this list of names differs from {data_file.name}, which counts"
            notes.append(Problem(tree.short(file), what, got=listed(other), expected=listed(names)))
    return notes


def _find_by_labels(tree: Tree) -> YoloSet | None:
    """The data set without data.yaml: all pictures in folders of pictures with labels, and in such folders of other splits."""
    folders = _picture_folders(tree, pair(tree, tree.pictures, texts(tree)))
    pictures = tuple(picture for picture in tree.pictures if picture.parent in folders)
    if not pictures:
        return None
    names = _agreed_names(tree)
    if lists := lists_of_splits(tree):
        sources = in_order(pictures, {split: found.pictures for split, found in lists.items()})
        moved = {found.file: found.moved for found in lists.values()}
        absent = {picture: problem for found in lists.values() for picture, problem in found.absent.items()}
        return YoloSet(tree, sources, names, moved, absent=absent)
    return YoloSet(tree, by_split(pictures, [split_above(picture, tree.root) for picture in pictures]), names)


def _picture_folders(tree: Tree, pairs: Pairs) -> set[Path]:
    """The folders where some picture has labels. If there are any: also those where labels are empty, and those that differ
    from one of them in the split only.
    """
    folders = {picture.parent for file, found in pairs.pictures.items() if holds_labels(file) for picture in found}
    if folders:
        folders |= {picture.parent for file, found in pairs.pictures.items() if not _start(file).strip() for picture in found}
    places = {_around_split(tree.parts(folder)) for folder in folders} - {None}
    return folders | {other for other in {p.parent for p in tree.pictures} if _around_split(tree.parts(other)) in places}


def _around_split(folders: Parts) -> tuple[Parts, Parts] | None:
    """The folders above and below the last one that names a split; None if there is no such."""
    last = next((i for i in reversed(range(len(folders))) if split_name(folders[i])), None)
    return None if last is None else (folders[:last], folders[last + 1 :])


def _name_files(tree: Tree) -> list[Path]:
    """The files that may list the names of the classes."""
    return [file for file in tree.files if file.name.lower() == "classes.txt" or file.suffix.lower() == ".names"]


def misspelt_names(tree: Tree) -> str | None:
    """The file that may be meant for classes.txt, in another spelling or language; None if there is none."""
    found = {file.name: tree.short(file) for file in texts(tree)}
    near = [name for name in found if folded(Path(name).stem) in _OTHER_NAMES] or [*misspelt(["classes.txt"], found).values()]
    return found[near[0]] if near else None


def _agreed_names(tree: Tree) -> tuple[str, ...] | None:
    """The names in classes.txt or obj.names; None if there is no such file. Raise DataError if several disagree."""
    written = {file: _written_names(file) for file in _name_files(tree)}
    for file, names in written.items():
        first = next(iter(written))
        if names != written[first]:
            raise _other_order(tree, first, written[first], file, names)
    return next(iter(written.values()), None)


def _other_order(tree: Tree, a: Path, first: Sequence[str], b: Path, second: Sequence[str]) -> DataError:
    got = "; ".join(f"{tree.short(file)}: {listed(names)}" for file, names in ((a, first), (b, second)))
    fix = "number the labels in all folders alike, and leave one of these lists"
    return DataError("two lists of the classes' names disagree", where=tree.top, got=got, fix=fix)


def _written_names(file: Path) -> tuple[str, ...]:
    """The names in classes.txt or obj.names, one on each line. Raise DataError if a line is empty, or a name comes twice."""
    names = [line.strip() for line in read_list(file)]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        what = "a class has no name; the lines are counted from 0"
        raise DataError(what, where=f"{file}:{names.index('') + 1}", fix="write its name, or remove the line")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        lines = ", ".join(str(number) for number, name in enumerate(names, 1) if name == twice)
        raise DataError(
            "a class is named twice",
            where=file,
            got=f"{quoted(twice)} in lines {lines}",
            fix="give the classes different names",
        )
    return tuple(names)
