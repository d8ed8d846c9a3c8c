"""YOLO: one text file for each picture, a line ``class centre_x centre_y width height`` for each object, in 0-1.

The format: https://docs.ultralytics.com/datasets/detect/, and darknet's before it. Policy:
- pairing.py finds the labels of a picture: labels/train/a.txt for images/train/a.jpg, or a.txt beside the picture.
- By the format's rules, a picture without a label file, or with an empty one, has no objects. A label file without a picture
  is a problem.
- What the lines state, ``yolo_lines`` tells. Six columns are a problem: the sixth may be a score, and labels have no score.
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
from onestage.data.dataset import Problem
from onestage.data.files import (
    MAX_BYTES,
    PICTURE_SUFFIXES,
    SPLITS,
    Sources,
    by_split,
    head,
    read_bytes,
    read_list,
    split_above,
    split_name,
)
from onestage.data.labels import StoredClasses
from onestage.data.pairing import Named, Pairs, is_outside, pair
from onestage.data.plain_yaml import Plain, read_yaml
from onestage.data.table import PictureFile, Table
from onestage.data.text import listed, quoted, repeated
from onestage.data.tree import ByName, Parts, Tree, folded
from onestage.data.yolo_lines import Content, KeyPoints, fill, key_point_columns, read_file, stated_key_points
from onestage.errors import DataError

LAYOUT = "YOLO: data.yaml, or images/train/ and labels/train/ with classes.txt, or pictures and .txt files in one folder"

_LABELS = re.compile(r"\s*\d+(\.0*)?(\s+[-+\d.eE]+){4}")
_NUMBERS = re.compile(r"\s*[-+]?\d\S*[^\S\r\n]+[-+.,]?\d")
_DATA_YAML = tuple(re.compile(rf"^{key}\s*:", re.MULTILINE) for key in ("names", "(train|val|test)"))  # a faulty file's


@dataclass(frozen=True)
class YoloSet:
    """A YOLO data set found on disk.

    sources: the pictures of each split. names: None if nothing gives them. moved: the paths of other machines that were found
    inside the data set, by the file that states them. missing: the splits that data.yaml names and that are not here.
    key_points: as data.yaml states them. notes: what to know of data.yaml.
    """

    sure: ClassVar[bool] = True
    tree: Tree = field(repr=False)
    sources: Sources
    names: tuple[str, ...] | None = None
    moved: Mapping[Path, Mapping[str, Path]] = field(default_factory=dict)
    missing: Mapping[str, DataError] = field(default_factory=dict)
    key_points: KeyPoints | None = None
    notes: tuple[Problem, ...] = ()
    _contents: dict[Path, Content] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def label_files(self) -> frozenset[Path]:
        """The files that are read for some split."""
        splits = [pictures for split, pictures in self.sources.items() if split] or [self.sources[""]]
        return frozenset(file for pictures in splits for picture in pictures for file in self._pairs.labels.get(picture, ()))

    @cached_property
    def _pairs(self) -> Pairs:
        return pair(self.tree, self.sources[""], _texts(self.tree))

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        table.to_xyxy, table.relative = box_ops.from_cxcywh, True
        table.classes = StoredClasses.by_number(self.names) if self.names else None
        for file, moved in self.moved.items():
            table.moved(file, moved)
        table.notes.extend(self.notes)
        labelled = []
        for picture in self.sources[split]:
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
        lost = [file for file in _texts(self.tree) if file.parent in folders and file not in self._pairs.pictures]
        known = pair(self.tree, self.tree.pictures, lost).pictures if lost else {}
        for file in lost:
            if file not in known and holds_labels(file):
                table.problem(table.name(file), DataError("there is no picture for these labels"))


def find(tree: Tree) -> YoloSet | None:
    """The YOLO data set among these files, or None. A single YAML file means the data set that it describes."""
    data_files = [file for file in tree.offered if file.suffix.lower() in (".yaml", ".yml") and _is_data_yaml(file)]
    if len(data_files) > 1:
        got = ", ".join(map(tree.short, data_files))
        raise DataError("several YAML files describe a data set here", where=tree.top, got=got, fix="name the one meant")
    if data_files:
        return _find_by_yaml(tree, data_files[0])
    return _find_by_labels(tree) if tree.chosen is None else None


def holds_labels(file: Path) -> bool:
    """Whether a file looks like labels in this format: its first line is an object."""
    return file.suffix.lower() == ".txt" and bool(_LABELS.match(head(file, 400)))


def _may_hold_labels(file: Path) -> bool:
    """Whether one of several files may be a picture's labels: it is empty or begins with two numbers, good or bad."""
    start = head(file, 400)
    return not start.strip() or bool(_NUMBERS.match(start))


def _find_by_yaml(tree: Tree, data_file: Path) -> YoloSet:
    """The data set that data.yaml describes. Raise DataError if a list of names contradicts its order of classes."""
    content = read_yaml(data_file)
    names = _yaml_names(data_file, content)
    notes = _other_names(tree, data_file, names)
    splits = YamlSplits(tree, data_file, content)
    sources, key_points = splits.read(), stated_key_points(content, data_file)
    return YoloSet(tree, sources, names, splits.moved, splits.missing, key_points, (*notes, *splits.notes))


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
    folders = _picture_folders(tree, pair(tree, tree.pictures, _texts(tree)))
    pictures = tuple(picture for picture in tree.pictures if picture.parent in folders)
    if not pictures:
        return None
    names = _agreed_names(tree)
    listed, moved = _split_lists(tree)
    if listed:
        return YoloSet(tree, _in_order(pictures, listed), names, moved)
    return YoloSet(tree, by_split(pictures, [split_above(picture, tree.root) for picture in pictures]), names)


def _picture_folders(tree: Tree, pairs: Pairs) -> set[Path]:
    """The folders where some picture has labels. If there are any: also those where labels are empty, and those that differ
    from one of them in the split only.
    """
    folders = {picture.parent for file, found in pairs.pictures.items() if holds_labels(file) for picture in found}
    if folders:
        folders |= {picture.parent for file, found in pairs.pictures.items() if not head(file).strip() for picture in found}
    places = {_around_split(tree.parts(folder)) for folder in folders} - {None}
    return folders | {other for other in {p.parent for p in tree.pictures} if _around_split(tree.parts(other)) in places}


def _around_split(folders: Parts) -> tuple[Parts, Parts] | None:
    """The folders above and below the last one that names a split; None if there is no such."""
    last = next((i for i in reversed(range(len(folders))) if split_name(folders[i])), None)
    return None if last is None else (folders[:last], folders[last + 1 :])


def _name_files(tree: Tree) -> list[Path]:
    """The files that may list the names of the classes."""
    return [file for file in tree.files if file.name.lower() == "classes.txt" or file.suffix.lower() == ".names"]


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


def _split_lists(tree: Tree) -> tuple[dict[str, tuple[Path, ...]], dict[Path, Mapping[str, Path]]]:
    """The pictures on lists such as train.txt and val.txt, and the paths of other machines on each list.

    Raise DataError if a split has several lists.
    """
    lists: dict[str, Path] = {}
    splits: dict[str, tuple[Path, ...]] = {}
    moved: dict[Path, Mapping[str, Path]] = {}
    for file in _texts(tree):
        split = split_name(file.stem)
        if split and _lists_pictures(file):
            if split in lists:
                got = f"{tree.short(lists[split])}, {tree.short(file)}"
                raise DataError(f"several lists name the pictures of {split}", where=tree.top, got=got, fix="leave one of them")
            lists[split] = file
            splits[split], moved[file] = _listed(tree, file, file.parent)
    return splits, moved


def _lists_pictures(file: Path) -> bool:
    """Whether the first line of a text file is the name of a picture."""
    first = next((line.strip() for line in head(file, 2000).splitlines() if line.strip()), "")
    return first.lower().endswith(tuple(PICTURE_SUFFIXES))


def _listed(tree: Tree, file: Path, base: Path) -> tuple[tuple[Path, ...], dict[str, Path]]:
    """The pictures on a list, one on each line, and those of them that are paths of another machine. A picture that is not
    there stays on the list. base: the folder that the names start from, or the list's.
    """
    named = Named(tree, file, base=base, is_list=True)
    pictures = []
    for line in filter(str.strip, read_list(file)):
        if not named.fits(line) and is_outside(line):
            fix = "write the paths relative to the list"
            raise DataError("this list names a file outside the data set", where=file, got=quoted(line), fix=fix)
        pictures.append(named.find(line) if named.fits(line) else file.parent / line.strip())
    return tuple(dict.fromkeys(pictures)), named.moved


def _texts(tree: Tree) -> tuple[Path, ...]:
    return tree.with_suffix([".txt"])


def _in_order(pictures: Sequence[Path], splits: Sources) -> Sources:
    """All pictures, and those of the splits in the usual order."""
    return {"": tuple(pictures)} | {split: splits[split] for split in SPLITS if split in splits}


def _is_data_yaml(file: Path) -> bool:
    """Whether a YAML file has names and some split among its keys; one that cannot be read counts if it looks so."""
    text = head(file, MAX_BYTES[".yaml"])
    if "names" not in text:
        return False
    try:
        content = read_yaml(file)
    except DataError:
        return all(pattern.search(text) for pattern in _DATA_YAML)
    return any(key.rstrip(" :") == "names" for key in content) and any(map(_split_of_key, content))


def _split_of_key(key: str) -> str | None:
    """The split that a key of data.yaml names, such as ``val`` or ``valid``."""
    return split_name(key) if key.isalpha() else None


def _yaml_names(file: Path, content: dict[str, Plain]) -> tuple[str, ...]:
    """The class names. Raise DataError if they cannot be read, one comes twice, or their number is not ``nc``."""
    names, count = _name_list(content.get("names", "")), content.get("nc")
    if not names:
        expected = "a list of names, or a mapping from 0, 1, 2 and so on to names"
        raise DataError("the names of the classes cannot be read", where=f"{file}: names", expected=expected)
    if len(set(names)) < len(names):
        raise DataError("a class is named twice", where=f"{file}: names", got=listed(repeated(names)))
    if count is not None and count != str(len(names)):
        raise DataError("nc and names disagree", where=file, got=f"nc: {quoted(count)}, and {len(names)} names")
    return names


def _name_list(names: Plain) -> tuple[str, ...]:
    """The names on a list, or in a mapping from the numbers 0..K-1; none if this is neither."""
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        names = [names[number] for number in numbers] if set(names) == set(numbers) else []
    texts = tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    return texts if len(texts) == len(names) else ()


class YamlSplits:
    """The splits that data.yaml names: folders, lists, or several of them."""

    def __init__(self, tree: Tree, file: Path, content: dict[str, Plain]) -> None:
        self.tree, self.file, self.content = tree, file, content
        self.moved: dict[Path, dict[str, Path]] = {}
        self.missing: dict[str, DataError] = {}
        self.notes: list[Problem] = []
        stated = content.get("path")
        base = self._folder(stated, [file.parent]) if isinstance(stated, str) else None
        if base is None and stated not in (None, "", "null", "~"):
            what = f"path: {quoted(stated)} is no folder inside the data set; the folder of {file.name} is taken for it"
            self.notes.append(Problem(tree.short(file), what))
        self.bases = list(dict.fromkeys([base or file.parent, file.parent, tree.top]))

    def read(self) -> Sources:
        """The pictures of each split. Raise DataError if no split exists; those of several that do not are in ``missing``."""
        sources: dict[str, tuple[Path, ...]] = {}
        for split, entries in self._stated().items():
            found = {entry: self._entry(entry) for entry in entries}
            absent = next((entry for entry, pictures in found.items() if not pictures), None)
            if absent is None:
                sources[split] = tuple(dict.fromkeys(picture for pictures in found.values() for picture in pictures))
            else:
                self.missing[split] = self._absent(split, absent)
        if not sources:
            raise next(iter(self.missing.values()), DataError("this file names no pictures", where=self.file))
        everything = dict.fromkeys(picture for chosen in sources.values() for picture in chosen)
        return _in_order([*everything], sources)

    def _stated(self) -> dict[str, list[str]]:
        """The folders and lists of each split; a split without any is left out."""
        found: dict[str, list[str]] = {}
        for key, value in self.content.items():
            split = _split_of_key(key)
            entries = value if isinstance(value, list) else [value]
            if split:
                found.setdefault(split, []).extend(str(entry) for entry in entries if entry not in ("", "null", "~"))
        return {split: entries for split, entries in found.items() if entries}

    def _entry(self, entry: str) -> Sequence[Path]:
        """The pictures in a folder or on a list; none if it does not exist."""
        text = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
        if text.lower().endswith(".txt"):
            file = self._list(text)
            pictures, moved = _listed(self.tree, file, self.bases[0]) if file else ((), {})
            if file and moved:
                self.moved[file] = moved
        else:
            folder = self._folder(text, self.bases)
            pictures = tuple(picture for picture in self.tree.pictures if folder in picture.parents) if folder else ()
        return pictures

    def _absent(self, split: str, entry: str) -> DataError:
        what = f"none of the pictures that this file names for {split!r} are here"
        expected = "a folder or a list, with pictures, inside the data set"
        fix = f"write it relative to {self.file.name}, or remove the line"
        return DataError(what, where=self.file, got=quoted(entry), expected=expected, fix=fix)

    def _list(self, text: str) -> Path | None:
        """The list that data.yaml means. Raise DataError if several fit."""
        named = Named(self.tree, self.file, among=ByName(self.tree, _texts(self.tree)), base=self.bases[0])
        found = named.find(text) if named.fits(text) else None
        if named.moved:
            self.moved[self.file] = self.moved.get(self.file, {}) | named.moved
        return found

    def _folder(self, text: str, bases: Sequence[Path]) -> Path | None:
        """The folder that data.yaml means: below one of the bases, or by its end if it is a path of another machine."""
        clean = text.strip().replace("\\", "/")
        foreign = clean.startswith("/") or bool(re.match("[A-Za-z]:/", clean))
        parts = tuple(folded(part) for part in clean.split("/") if part not in ("", "."))
        if ".." in parts or "://" in clean or "\0" in clean:
            return None
        for start in range(len(parts) if foreign else 1):
            for base in bases:
                found = self.tree.subfolders.get((*self.tree.parts(base), *parts[start:]), ())
                if found and foreign:
                    self.moved[self.file] = self.moved.get(self.file, {}) | {text: found[0]}
                if found:
                    return self._one(text, found)
        return None

    def _one(self, text: str, found: Sequence[Path]) -> Path:
        """The folder whose name is spelled as stated, or the only one. Raise DataError if it is none of several."""
        exact = [folder for folder in found if folder.as_posix().endswith(text.strip("./"))]
        if len(exact or found) > 1:
            got = ", ".join(map(self.tree.short, found))
            raise DataError(
                f"several folders fit the name {quoted(text)}", where=self.file, got=got, fix="write it as it is spelled"
            )
        return (exact or found)[0]
