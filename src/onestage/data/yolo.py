"""YOLO: one text file for each picture, a line ``class centre_x centre_y width height`` for each object, in 0-1.

The format: https://docs.ultralytics.com/datasets/detect/, and darknet's before it. Policy:
- The labels of images/train/a.jpg are labels/train/a.txt; without a folder ``images``, a.txt beside the picture.
- A picture without a label file, or with an empty one, is a picture without objects: so the format has it. A label file
  without a picture is a problem.
- An outline (class and three or more points) counts by the box around it. Six columns are a problem: perhaps a score, which
  labels do not have.
- Names come from data.yaml, classes.txt or obj.names. YAML is read as text throughout, so the classes ``no``, ``on`` and
  ``012`` stay what was written; aliases and duplicate keys are refused.
- Splits are those of data.yaml, or the lists train.txt, val.txt, test.txt beside the names, or folders of these names.
- ``path:`` in data.yaml belongs to another machine more often than not: it is followed only inside the data set. A leading
  ``../`` is passed over, as the exporters that write it mean it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onestage import boxes as box_ops
from onestage.data.files import (
    PICTURE_SUFFIXES,
    SPLITS,
    Sources,
    by_split,
    head,
    inside,
    read_text,
    split_above,
    split_name,
    walk,
)
from onestage.data.plain_yaml import read_yaml
from onestage.data.table import Classes, Picture, Row, Table, fault, label_table
from onestage.errors import DataError

LAYOUT = "YOLO: data.yaml, or images/train/ and labels/train/ with classes.txt, or pictures and .txt files in one folder"

_LABELS = re.compile(r"\s*\d+(\s+[-+\d.eE]+){4}")
_DATA_YAML = re.compile(r"^names\s*:", re.MULTILINE), re.compile(r"^(train|val)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class YoloSet:
    """A YOLO data set found on disk. sources: the pictures; label_files: all text files; names: None if nobody says them."""

    root: Path
    sources: Sources
    label_files: frozenset[Path] = field(repr=False)
    names: tuple[str, ...] | None = None

    def read(self, table: Table, split: str, classes: Sequence[str] | None) -> Classes:
        """Put the pictures and objects of a split ("" for all) into the table. A set without names takes ``classes``."""
        table.to_xyxy, table.relative = box_ops.from_cxcywh, True
        own = self.names or (tuple(classes) if classes else None)
        if own is None:
            fix = "write them, one on each line, into a file classes.txt there, or into a data.yaml"
            raise DataError("nothing says the names of this data set's classes", where=self.root, fix=fix)
        labels = label_table(own, range(len(own)), classes)
        label_of = {index: labels.names.index(name) for index, name in enumerate(own) if name in labels.names}
        used = {picture: _label_file(picture, self.root, self.label_files) for picture in self.sources[split]}
        for row, (picture, label_file) in enumerate(used.items(), start=len(table.pictures)):
            table.pictures.append(Picture(str(picture), table.name(picture.with_suffix(""))))
            if label_file:
                _read_labels(table, label_file, row, label_of)
        self._report_orphans(table, {file.parent for file in used.values() if file})
        return labels

    def _report_orphans(self, table: Table, folders: set[Path]) -> None:
        """A problem for each file of labels in these folders that belongs to no picture."""
        pictures = {name for picture in self.sources[""] for name in _candidates(picture, self.root)}
        for file in sorted(self.label_files - pictures):
            if file.parent in folders and _LABELS.match(head(file, 200)):
                table.problem(table.name(file), "there is no picture for these labels")


def find(root: Path, files: Sequence[Path]) -> YoloSet | None:
    """The YOLO data set among these files, if there is one. A single YAML file stands for the data set it describes."""
    data_files = [file for file in files if file.suffix.lower() in (".yaml", ".yml") and _is_data_yaml(file)]
    if len(data_files) > 1:
        got = ", ".join(file.name for file in data_files)
        raise DataError("several YAML files describe a data set here", where=root, got=got, fix="name the one meant")
    files = walk(root) if list(files) == data_files else files
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    texts = frozenset(file for file in files if file.suffix.lower() == ".txt")
    if data_files:
        content = read_yaml(data_files[0])
        return YoloSet(root, _yaml_sources(data_files[0], content, pictures), texts, _yaml_names(data_files[0], content))
    labels = {picture: _label_file(picture, root, texts) for picture in pictures} if texts else {}
    folders = {picture.parent for picture, file in labels.items() if file and _LABELS.match(head(file, 200))}
    if not folders:
        return None
    pictures = [picture for picture in pictures if picture.parent in folders]
    name_files = [file for file in files if file.name == "classes.txt" or file.suffix == ".names"]
    names = tuple(line.strip() for line in read_text(name_files[0]).splitlines() if line.strip()) if name_files else None
    lists = [file for file in texts if name_files and file.parent == name_files[0].parent and file.stem.isalpha()]
    listed = {split: _listed(file, root, frozenset(pictures)) for file in lists if (split := split_name(file.stem))}
    sources = by_split(pictures, [split_above(picture, root) for picture in pictures])
    return YoloSet(root, {"": tuple(pictures)} | listed if listed else sources, texts, names)


def _candidates(picture: Path, root: Path) -> Iterator[Path]:
    """Where the labels of a picture may lie."""
    parts = picture.relative_to(root).with_suffix(".txt").parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        yield root.joinpath(*parts[:last], "labels", *parts[last + 1 :])
    yield root.joinpath(*parts)


def _label_file(picture: Path, root: Path, texts: frozenset[Path]) -> Path | None:
    return next((file for file in _candidates(picture, root) if file in texts), None)


def _read_labels(table: Table, file: Path, picture: int, label_of: dict[int, int]) -> None:
    try:
        lines = read_text(file).splitlines()
    except DataError as error:
        table.problem(table.name(file), fault(error))
        return
    name = table.name(file)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                index, box = _object(line.split())
                if index not in label_of:
                    raise ValueError(f"unknown class {index}: there are names for 0 to {max(label_of, default=-1)}")
                table.objects.append(Row(picture, box, label_of[index], f"{name}:{number}"))
            except ValueError as error:
                table.problem(f"{name}:{number}", str(error))


def _object(columns: Sequence[str]) -> tuple[int, list[float]]:
    """Class number, and centre, width and height in 0-1. Raises ValueError with the reason why this is no object."""
    if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
        raise ValueError(f"expected class, centre x, centre y, width, height, or an outline; got {len(columns)} columns")
    if any("," in column for column in columns):
        raise ValueError("numbers need a decimal point, not a comma")
    try:
        index, numbers = int(columns[0]), [float(column) for column in columns[1:]]
    except ValueError:
        raise ValueError(f"expected a whole number and then decimals, got {' '.join(columns)!r:.80}") from None
    if max(numbers) > 1.5:
        raise ValueError(f"positions should be parts of the picture, 0-1, got {max(numbers):g}")
    if len(numbers) == 4:
        return index, numbers
    xs, ys = numbers[0::2], numbers[1::2]
    return index, [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]


def _is_data_yaml(file: Path) -> bool:
    text = head(file)
    return all(pattern.search(text) for pattern in _DATA_YAML)


def _yaml_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The class names, from a list, or from a mapping of numbers 0..K-1. DataError if they are something else."""
    names, count = content["names"], content.get("nc")
    if isinstance(names, dict) and set(names) == {str(index) for index in range(len(names))}:
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        expected = "a list of names, or a mapping from 0, 1, 2 and so on to names"
        raise DataError("the names of the classes cannot be read", where=f"{file}: names", expected=expected)
    if len(set(names)) < len(names):
        raise DataError("a class is named twice", where=f"{file}: names", got=", ".join(names))
    if count is not None and count != str(len(names)):
        raise DataError("nc and names disagree", where=file, got=f"nc: {count}, and {len(names)} names")
    return tuple(names)


def _yaml_sources(file: Path, content: dict[str, Any], pictures: Sequence[Path]) -> Sources:
    """The pictures of the splits that data.yaml names and that are there."""
    path = content.get("path")
    stated = inside(path) if isinstance(path, str) else None
    base = file.parent / stated if stated and (file.parent / stated).is_dir() else file.parent
    sources: dict[str, tuple[Path, ...]] = {}
    for key, value in content.items():
        split = split_name(key) if key.isalpha() else None
        entries = value if isinstance(value, list) else [value]
        found = [picture for entry in entries for picture in _entry(file, base, entry, pictures)] if split else []
        if split and found:
            sources[split] = tuple(dict.fromkeys(found))
    if not sources:
        raise DataError("none of the pictures that this file speaks of are here", where=file, got=content.get("train"))
    everything = dict.fromkeys(picture for own in sources.values() for picture in own)
    return {"": tuple(everything)} | {split: sources[split] for split in SPLITS if split in sources}


def _entry(file: Path, base: Path, entry: object, pictures: Sequence[Path]) -> list[Path]:
    """The pictures that one entry of data.yaml means: those in a folder, or those on a list. None if it is not there."""
    if entry == "":
        return []
    name = inside(re.sub(r"^(\.\./)+", "", entry)) if isinstance(entry, str) else None
    if name is None:
        what = "a split should be a folder or a list inside the data set"
        raise DataError(what, where=file, got=entry, fix=f"write it relative to {file.name}")
    target = base / name
    if target.suffix == ".txt":
        return list(_listed(target, base, frozenset(pictures))) if target.is_file() else []
    return [picture for picture in pictures if target in picture.parents]


def _listed(file: Path, root: Path, known: frozenset[Path]) -> tuple[Path, ...]:
    """The pictures on a list, one on each line: relative to the list, to the data set or, as in darknet, to a folder above."""
    pictures = []
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        name = inside(line)
        if name is None:
            fix = "write the paths relative to the list"
            raise DataError("this list names a file outside the data set", where=file, got=line, fix=fix)
        places = [file.parent / name, root / name, root.joinpath(*Path(name).parts[1:])]
        pictures.append(next((place for place in places if place in known), places[0]))
    return tuple(dict.fromkeys(pictures))
