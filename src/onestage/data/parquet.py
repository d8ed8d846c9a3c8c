"""Parquet files with a picture in each row: its bytes in the column image, its objects as a list of rows in the column objects.

An object has ``bbox`` (left, top, width, height in pixels) and ``category``, a name or an id, and, as in COCO, ``area``,
``iscrowd`` and ``ignore``. Other columns that are read: ``name`` or ``file_name``, ``image_id``, ``height`` and ``width``. So
are files with image.bytes and image.path, and with objects as lists of boxes and of categories, whose names are in the
metadata, as the package datasets writes them. Policy:
- A file among the others without these columns is a problem, and so is one that is cut off or damaged.
- A row without a picture is a problem, and so is a name that another row of the file has.
- Classes are listed in the metadata of the files (``onestage.classes``), or as in shards.py.
- A picture is read from its place in the file where it lies there as it is. Otherwise its whole row group is read, and a note
  says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from onestage import boxes as box_ops
from onestage.data.coco import as_id, field_of
from onestage.data.dataset import Problem
from onestage.data.labels import StoredClasses
from onestage.data.shard_columns import Places, in_group
from onestage.data.shards import ShardSet, listed_classes, shard_sources
from onestage.data.table import PictureFile, Table
from onestage.data.text import listed, quoted, stated_size
from onestage.data.tree import Tree
from onestage.data.wds import LARGEST_LABELS, object_row
from onestage.errors import ConfigError, DataError
from onestage.files import Json
from onestage.pages import places
from onestage.parts import PARQUET, TOO_LONG, image_column, names_of, open_parquet, picture_names, rows_of

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

LAYOUT = "Parquet: train-000000.parquet, ..., with the columns image (bytes) and objects (bbox, category)"
OBJECTS = "objects"
CLASSES_KEY = b"onestage.classes"
"""Where the metadata of a file list the classes."""
_OTHERS_KEY = b"huggingface"
"""Where the package datasets describes the columns."""
_MAGIC = b"PAR1"
_CATEGORIES = ("category", "categories", "label", "labels", "category_id")
"""Names under which the category of an object is looked for."""
_STATED = ("image_id", "height", "width")


def find(tree: Tree) -> ShardSet | None:
    """The data set of this format among these files, or None. Where one file of a folder is of this format, all are."""
    files = [file for file in tree.offered if file.suffix.lower() == PARQUET]
    folders = dict.fromkeys(file.parent for file in files)
    sure = {folder for folder in folders if any(holds_labels(file) for file in files if file.parent == folder)}
    files = [file for file in files if file.parent in sure]
    return ShardSet(tree, "parquet", shard_sources(tree, files), read_shard, _listed_classes) if files else None


def misread(tree: Tree) -> DataError | None:
    """Why the first Parquet file that cannot be opened cannot; None if all can."""
    for file in tree.offered:
        if file.suffix.lower() == PARQUET:
            try:
                open_parquet(file).close()
            except DataError as error:
                return error
    return None


def holds_labels(file: Path) -> bool:
    """Whether this is a Parquet file with pictures and objects. Without pyarrow, any Parquet file may be one."""
    try:
        with file.open("rb") as content:
            if file.suffix.lower() != PARQUET or content.read(len(_MAGIC)) != _MAGIC:
                return False
        with open_parquet(file) as parquet:
            return _lacks(parquet) is None
    except ConfigError:
        return True
    except (DataError, OSError):
        return False


def _check_columns(parquet: ParquetFile) -> None:
    """Raise DataError if a file lacks columns."""
    if lacks := _lacks(parquet):
        got, expected = listed(parquet.schema_arrow.names), "image and objects, and perhaps name, image_id, height, width"
        fix = "take the file out of the folder, or write it with these columns"
        raise DataError(f"this Parquet file has no column {lacks}", got=got, expected=expected, fix=fix)


def _lacks(parquet: ParquetFile) -> str | None:
    """What a file lacks to be of this format, in words; None if it lacks nothing."""
    wanted = {"image (bytes)": image_column(parquet), OBJECTS: OBJECTS in parquet.schema_arrow.names or None}
    return " and no column ".join(name for name, found in wanted.items() if found is None) or None


def _listed_classes(files: Sequence[Path]) -> StoredClasses | None:
    """The classes that the first readable file lists; None if it lists none."""
    for file in files:
        try:
            with open_parquet(file) as parquet:
                metadata = parquet.schema_arrow.metadata or {}
        except DataError:
            continue
        if CLASSES_KEY in metadata:
            try:
                entries = json.loads(metadata[CLASSES_KEY])
            except (ValueError, RecursionError) as error:
                fix = "write the file again"
                raise DataError("this file's list of classes is not valid JSON", where=file, got=error, fix=fix) from error
            return listed_classes(file, entries if isinstance(entries, list) else [])
    return None


def read_shard(file: Path, table: Table) -> Places:
    """Put the pictures and objects of a file into the table. Raise DataError if it cannot be read, or has other columns."""
    table.to_xyxy = box_ops.from_xywh
    with open_parquet(file) as parquet, file.open("rb") as content:
        _check_columns(parquet)
        return dict(_Shard(file, table, parquet, content).read())


class _Shard:
    """An open file that is read into a table. names: of the pictures, as their paths have them. first: the row with a name, by
    the name that the file states.
    """

    def __init__(self, file: Path, table: Table, parquet: ParquetFile, content: BinaryIO) -> None:
        self.file, self.table, self.parquet, self.content = file, table, parquet, content
        self.stated = names_of(parquet, content)
        self.names = picture_names(self.stated)
        self.categories = _category_names(parquet)
        self.first: dict[str, int] = {}

    def read(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The place of each picture that lies in the file as it is, by its path, when the table has it."""
        where, image, start, packed = self.table.name(self.file), image_column(self.parquet) or "", 0, 0
        for group in range(self.parquet.num_row_groups):
            lie, count = places(self.parquet, self.content, group, image), self.parquet.metadata.row_group(group).num_rows
            packed += lie is None
            try:
                for row, said in zip(range(count), _rows(self.parquet, self.content, group), strict=False):
                    try:
                        yield self._add(start + row, said), in_group(group, row) if lie is None else lie[row]
                    except DataError as error:
                        self.table.problem(f"{where}: row {start + row}", error)
            except DataError as error:
                self.table.problem(where, error)
            start += count
        if packed:
            what = "pictures in it are compressed, so a whole row group is read for some of them: slow, and it takes memory"
            self.table.notes.append(Problem(where, what, fix="write it again: onestage data convert DATA OUT --to parquet"))

    def _add(self, number: int, row: Mapping[str, Json]) -> str:
        """Add a picture and its objects. Return its path. Raise DataError if the row is none."""
        name = self.stated[number]
        if name is not None and (other := self.first.setdefault(name, number)) != number:
            fix = "give each picture a name that no other has"
            raise DataError(
                f"the name {quoted(name)} is given twice; this picture is left out", got=f"row {other} has it", fix=fix
            )
        path, stated = f"{self.file}/{self.names[number]}", as_id(row.get("image_id"))
        size = stated_size(row.get("height"), row.get("width"))
        where, picture = f"{self.table.name(self.file)}: row {number}", len(self.table.pictures)
        entries = _entries(row.get(OBJECTS), self.categories)
        self.table.add(PictureFile(path, (name or self.names[number]) if stated is None else stated, size))
        for place, entry in enumerate(entries):
            try:
                self.table.objects.append(object_row(entry, picture, f"{where}: objects[{place}]"))
            except DataError as error:
                self.table.problem(f"{where}: objects[{place}]", error)
        return path


def _rows(parquet: ParquetFile, content: BinaryIO, group: int) -> Iterator[Mapping[str, Json]]:
    """The rows of a row group without their pictures. One that is too long has that in place of its objects."""
    there = [name for name in (OBJECTS, *_STATED) if name in {*parquet.schema_arrow.names}]
    for values in rows_of(parquet, group, there, content=content, most=LARGEST_LABELS):
        too_long = any(value is TOO_LONG for value in values)
        yield cast(Mapping[str, Json], {OBJECTS: TOO_LONG} if too_long else dict(zip(there, values, strict=True)))


def _entries(objects: Json, categories: Sequence[str]) -> list[Json]:
    """The objects of a row, each with its category under that name. Raise DataError if they are none, or too long."""
    if objects is TOO_LONG:
        expected, fix = f"at most {LARGEST_LABELS:,} bytes", "write the objects alone into them, or divide the picture"
        raise DataError("the labels of this row are too long", expected=expected, fix=fix)
    if isinstance(objects, dict):  # lists of boxes and of categories
        lists = {key: values for key, values in objects.items() if isinstance(values, list)}
        if len({len(values) for values in lists.values()}) > 1:
            fix = "write a box and a category for each object"
            raise DataError("the lists of this row's objects differ in length", got=listed(lists), fix=fix)
        objects = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if not isinstance(objects, list):
        fix = "write an empty list for a picture without objects"
        raise DataError("this row has no list of objects", got=quoted(objects), fix=fix)
    return [_entry(entry, categories) for entry in objects]


def _entry(entry: Json, categories: Sequence[str]) -> Json:
    if not isinstance(entry, dict):
        return entry
    value = next((entry[name] for name in _CATEGORIES if entry.get(name) is not None), None)
    number = as_id(value)
    if isinstance(number, int) and 0 <= number < len(categories):
        value = categories[number]
    return {**entry, "category": value}


def _category_names(parquet: ParquetFile) -> Sequence[str]:
    """The names that numbers of categories stand for, as the package datasets lists them; none if it lists none."""
    try:
        content: Json = json.loads((parquet.schema_arrow.metadata or {}).get(_OTHERS_KEY, b"null"))
    except (ValueError, RecursionError):
        return ()
    for key in ("info", "features", OBJECTS):
        content = field_of(content, key)
    about = _inside(content)
    for name in _CATEGORIES:
        names = field_of(_inside(field_of(about, name)), "names")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return [str(name) for name in names]
    return ()


def _inside(content: Json) -> Json:
    """What a list is of, in the words of the package datasets."""
    while isinstance(content, list) or field_of(content, "feature") is not None:
        content = next(iter(content), None) if isinstance(content, list) else field_of(content, "feature")
    return content
