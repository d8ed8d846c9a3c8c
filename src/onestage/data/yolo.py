"""YOLO: one text file for each picture, a line ``class centre_x centre_y width height`` for each object, in 0-1.

The format: https://docs.ultralytics.com/datasets/detect/, and darknet's before it. Policy:
- The labels of images/train/a.jpg are labels/train/a.txt; without a folder ``images``, a.txt beside the picture.
- By the format's rules, a picture without a label file, or with an empty one, has no objects. A label file without a picture
  is a problem.
- What the lines state, ``yolo_lines`` tells. Six columns are a problem: the sixth may be a score, and labels have no score.
- Names come from data.yaml, classes.txt or obj.names. All YAML is read as text, so the classes ``no``, ``on`` and ``012`` keep
  their names; aliases and duplicate keys are refused.
- Splits are those of data.yaml, or the lists train.txt, val.txt, test.txt beside the names, or folders of these names.
- ``path:`` in data.yaml often belongs to another machine: it is followed only inside the data set. A leading ``../`` is
  ignored: the exporters that write it do not mean the folder above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onestage import boxes as box_ops
from onestage.data.files import (
    MAX_BYTES,
    PICTURE_SUFFIXES,
    SPLITS,
    Sources,
    by_split,
    head,
    inside,
    is_folder,
    is_regular,
    read_text,
    split_above,
    split_name,
    walk,
)
from onestage.data.labels import StoredClasses
from onestage.data.plain_yaml import Plain, read_yaml
from onestage.data.table import PictureFile, Table
from onestage.data.text import listed, quoted, repeated
from onestage.data.yolo_lines import KeyPoints, read_lines, stated_key_points
from onestage.errors import DataError

LAYOUT = "YOLO: data.yaml, or images/train/ and labels/train/ with classes.txt, or pictures and .txt files in one folder"

_LABELS = re.compile(r"\s*\d+(\.0*)?(\s+[-+\d.eE]+){4}")
_DATA_YAML = re.compile(r"^names\s*:", re.MULTILINE), re.compile(r"^(train|val)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class YoloSet:
    """A YOLO data set found on disk. sources: the pictures; label_files: all text files; names: None if nothing gives them;
    key_points: as data.yaml states them.
    """

    root: Path
    sources: Sources
    label_files: frozenset[Path] = field(repr=False)
    names: tuple[str, ...] | None = None
    key_points: KeyPoints | None = None

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        table.to_xyxy, table.relative = box_ops.from_cxcywh, True
        table.classes = StoredClasses.by_number(self.names) if self.names else None
        used = {picture: _label_file(picture, self.root, self.label_files) for picture in self.sources[split]}
        rows = {}
        for picture in used:
            rows[picture] = table.add(PictureFile(str(picture), table.name(picture.with_suffix(""))))
        read_lines(table, [(rows[picture], file) for picture, file in used.items() if file], self.key_points)
        self._report_orphans(table, {file.parent for file in used.values() if file})

    def _report_orphans(self, table: Table, folders: set[Path]) -> None:
        """A problem for each file of labels in these folders that belongs to no picture."""
        wanted = {name for picture in self.sources[""] for name in _candidates(picture, self.root)}
        for file in sorted(self.label_files - wanted):
            if file.parent in folders and _holds_labels(file):
                table.problem(table.name(file), DataError("there is no picture for these labels"))


def find(root: Path, files: Sequence[Path]) -> YoloSet | None:
    """The YOLO data set among these files, or None. A single YAML file means the data set that it describes."""
    data_files = [file for file in files if file.suffix.lower() in (".yaml", ".yml") and _is_data_yaml(file)]
    if len(data_files) > 1:
        got = ", ".join(file.name for file in data_files)
        raise DataError("several YAML files describe a data set here", where=root, got=got, fix="name the one meant")
    if data_files:
        return _find_by_yaml(root, walk(root) if list(files) == data_files else files, data_files[0])
    return _find_by_labels(root, files)


def _find_by_yaml(root: Path, files: Sequence[Path], data_file: Path) -> YoloSet:
    """The data set that data.yaml describes."""
    content = read_yaml(data_file)
    sources, names = _yaml_sources(data_file, content, _pictures(files)), _yaml_names(data_file, content)
    return YoloSet(root, sources, _texts(files), names, stated_key_points(content, data_file))


def _find_by_labels(root: Path, files: Sequence[Path]) -> YoloSet | None:
    """The data set without data.yaml: all pictures in folders where some picture has labels."""
    texts = _texts(files)
    pictures = _beside_labels(_pictures(files), root, texts) if texts else []
    if not pictures:
        return None
    name_file = next((file for file in files if file.name == "classes.txt" or file.suffix == ".names"), None)
    names = _written_names(name_file) if name_file else None
    listed = _split_lists(name_file.parent, root, texts, frozenset(pictures)) if name_file else {}
    folders = by_split(pictures, [split_above(picture, root) for picture in pictures])
    return YoloSet(root, _in_order(pictures, listed) if listed else folders, texts, names)


def _beside_labels(pictures: Sequence[Path], root: Path, texts: frozenset[Path]) -> list[Path]:
    """The pictures in folders where some picture has labels."""
    labels = {picture: _label_file(picture, root, texts) for picture in pictures}
    folders = {picture.parent for picture, file in labels.items() if file and _holds_labels(file)}
    return [picture for picture in pictures if picture.parent in folders]


def _written_names(file: Path) -> tuple[str, ...]:
    """The names in classes.txt or obj.names, one on each line."""
    return tuple(line.strip() for line in read_text(file).splitlines() if line.strip())


def _split_lists(folder: Path, root: Path, texts: frozenset[Path], known: frozenset[Path]) -> dict[str, tuple[Path, ...]]:
    """The pictures on the lists train.txt, val.txt and test.txt in a folder."""
    lists = [file for file in sorted(texts) if file.parent == folder and file.stem.isalpha()]
    return {split: _listed(file, root, known) for file in lists if (split := split_name(file.stem))}


def _pictures(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]


def _texts(files: Sequence[Path]) -> frozenset[Path]:
    return frozenset(file for file in files if file.suffix.lower() == ".txt")


def _in_order(pictures: Sequence[Path], splits: Sources) -> Sources:
    """All pictures, and those of the splits in the usual order."""
    return {"": tuple(pictures)} | {split: splits[split] for split in SPLITS if split in splits}


def _holds_labels(file: Path) -> bool:
    return bool(_LABELS.match(head(file, 200)))


def _candidates(picture: Path, root: Path) -> Iterator[Path]:
    """Where the labels of a picture may lie."""
    parts = picture.relative_to(root).with_suffix(".txt").parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        yield root.joinpath(*parts[:last], "labels", *parts[last + 1 :])
    yield root.joinpath(*parts)


def _label_file(picture: Path, root: Path, texts: frozenset[Path]) -> Path | None:
    return next((file for file in _candidates(picture, root) if file in texts), None)


def _is_data_yaml(file: Path) -> bool:
    text = head(file, MAX_BYTES[".yaml"])
    return all(pattern.search(text) for pattern in _DATA_YAML)


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


def _yaml_sources(file: Path, content: dict[str, Plain], pictures: Sequence[Path]) -> Sources:
    """The pictures of the splits that data.yaml names. Raise DataError if none of them exists."""
    base = _base(file, content.get("path"))
    sources: dict[str, tuple[Path, ...]] = {}
    for key, value in content.items():
        split = split_name(key) if key.isalpha() else None
        found = _entries(file, base, value, pictures) if split else ()
        if split and found:
            sources[split] = found
    if not sources:
        raise DataError("none of the pictures that this file names are here", where=file, got=quoted(content.get("train")))
    everything = dict.fromkeys(picture for chosen in sources.values() for picture in chosen)
    return _in_order([*everything], sources)


def _base(file: Path, stated: Plain | None) -> Path:
    """The folder that the entries of data.yaml start from: its ``path``, if that is a folder inside the data set."""
    below = inside(stated) if isinstance(stated, str) else None
    return file.parent / below if below and is_folder(file.parent / below) else file.parent


def _entries(file: Path, base: Path, value: Plain, pictures: Sequence[Path]) -> tuple[Path, ...]:
    """The pictures of one split in data.yaml: one entry, or a list of them."""
    entries = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(picture for entry in entries for picture in _entry(file, base, entry, pictures)))


def _entry(file: Path, base: Path, entry: Plain, pictures: Sequence[Path]) -> Sequence[Path]:
    """The pictures in a folder or on a list that data.yaml names; none if it does not exist."""
    if entry == "":
        return []
    name = inside(re.sub(r"^(\.\./)+", "", entry)) if isinstance(entry, str) else None
    if name is None:
        what = "a split should be a folder or a list inside the data set"
        raise DataError(what, where=file, got=quoted(entry), fix=f"write it relative to {file.name}")
    target = base / name
    if target.suffix == ".txt":
        return _listed(target, base, frozenset(pictures)) if is_regular(target) else []
    return [picture for picture in pictures if target in picture.parents]


def _listed(file: Path, root: Path, known: frozenset[Path]) -> tuple[Path, ...]:
    """The pictures on a list, one on each line: relative to the list, to the data set or, as in darknet, to a folder above."""
    pictures = []
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        name = inside(line)
        if name is None:
            fix = "write the paths relative to the list"
            raise DataError("this list names a file outside the data set", where=file, got=quoted(line), fix=fix)
        places = [file.parent / name, root / name, root.joinpath(*Path(name).parts[1:])]
        pictures.append(next((place for place in places if place in known), places[0]))
    return tuple(dict.fromkeys(pictures))
