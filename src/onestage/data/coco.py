"""COCO JSON: ``{"images": [...], "annotations": [...], "categories": [...]}``, boxes as left, top, width, height in pixels.

The format: https://cocodataset.org/#format-data. Policy:
- Labels count the categories in the order of their ids, gaps closed; the ids stay in ``category_ids``.
- Numbers are understood as tools write them: ids as 3, 3.0 or "3", ``iscrowd`` as 1, true, "1" or null, a width or height that
  is missing, 0 or -1, which the picture then tells. The pictures keep the ids that the file has, so that results carry them.
- A file with categories alone, as label tools put it beside the real one, is no data set.
- ``iscrowd`` regions keep their box and are flagged; outlines and masks (polygons, RLE) are not read. ``ignore`` is kept too.
  So is ``difficult``, unless it has another meaning in a file: flags.py decides, and a note says so.
- ``area`` is taken from the file (the outline's), or from the box where it is missing or not positive.
- A picture without annotations is kept: it has no objects. A second id of one picture is a problem.
- NaN, Infinity and a key given twice in one object spoil the whole file; a bad image or annotation is one problem each.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, NoReturn

from onestage import boxes as box_ops
from onestage.data.dataset import Problem
from onestage.data.files import FilePerSplit, Sources, head, one_per_split, pieces, read_text
from onestage.data.flags import Flags, flagged
from onestage.data.foreign import foreign_format
from onestage.data.labels import StoredClasses
from onestage.data.pairing import Named
from onestage.data.table import PictureFile, Row, Table
from onestage.data.text import is_number, listed, misspelt, no_scores, quoted, renaming, stated_size, whole_number
from onestage.data.tree import Tree
from onestage.errors import DataError, shortened
from onestage.files import Json

LAYOUT = "COCO: annotations/instances_train2017.json and train2017/, or train/_annotations.coco.json beside its pictures"

_EXPORT = "export the data set again with the tool that wrote it"
_UNIQUE = "give each entry an id that no other one has"

Id = int | str
_KEYS = ("images", "annotations", "categories")
_ESCAPED = re.compile(r"\\u00([67][0-9a-fA-F])")  # a letter of a key
_HUGE = 1e15  # larger than any picture, and a limit for integers beyond float's range


@dataclass(frozen=True)
class CocoSet(FilePerSplit):
    """A COCO data set found on disk: one JSON file for each split."""

    sure: ClassVar[bool] = True
    tree: Tree = field(repr=False)
    sources: Sources

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table.

        Raise DataError if its files disagree on their categories.
        """
        table.to_xyxy = box_ops.from_xywh
        categories: dict[int, str] = {}
        for file in self.sources[split]:
            content = _parse(file)
            found = categories_of(file, content["categories"])
            if categories not in ({}, found):
                what = "the splits of this data set disagree on their categories"
                got, expected = (listed(f"{key} {name}" for key, name in names.items()) for names in (found, categories))
                raise DataError(what, where=file, got=got, expected=expected, fix="read one split at a time")
            categories = found
            pictures = Named(self.tree, file)
            rows = _read_images(table, file, content["images"], pictures)
            table.moved(file, pictures.moved)
            _read_annotations(table, file, content["annotations"], rows=rows, categories=categories)
        table.classes = StoredClasses.by_id(categories)


def find(tree: Tree) -> CocoSet | None:
    """The COCO data set among these files, or None. Raise DataError if several files of one split may be meant."""
    coco = [file for file in tree.offered if holds_labels(file)]
    return CocoSet(tree, one_per_split(tree.root, coco)) if coco else None


def holds_labels(file: Path) -> bool:
    """Whether this is a JSON object with images or annotations, wherever they stand in it. COCO's annotations of other kinds
    beside its boxes do not count. What looks like a format that is not read needs all of COCO's keys: tools add keys to COCO.
    """
    if file.suffix.lower() != ".json" or _is_of_other_kind(file) or not head(file).lstrip().startswith("{"):
        return False
    if foreign_format(file):
        return all(any(_mentions(text, key) for text in pieces(file)) for key in _KEYS)
    return any(_mentions(text, "images", "annotations") for text in pieces(file))


def _mentions(text: str, *keys: str) -> bool:
    """Whether a piece of a file has one of the keys, also if letters of it are written as ``\\u0061``."""
    plain = _ESCAPED.sub(lambda letter: chr(int(letter[1], 16)), text) if "\\u00" in text else text
    return any(f'"{key}"' in plain for key in keys)


def _is_of_other_kind(file: Path) -> bool:
    """Whether this is captions_val2017.json or the like, beside instances_val2017.json."""
    kinds = ("captions_", "panoptic_", "stuff_", "person_keypoints_", "image_info_")
    return file.name.startswith(kinds) and any(file.parent.glob("instances_*.json"))


def plain_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object as a dictionary, without its outlines: they are most of a file's size, and nothing here reads them."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {quoted(twice)} is given twice in one object")
    content.pop("segmentation", None)
    return content


def refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _parse(file: Path) -> dict[str, list[Json]]:
    """The three lists of a COCO file. Raise DataError if it is not one."""
    text = read_text(file)
    try:
        content: Json = json.loads(text, object_pairs_hook=plain_object, parse_constant=refuse_constant)
    except RecursionError as error:
        raise DataError("this JSON is nested too deeply", where=file, fix=_EXPORT) from error
    except ValueError as error:
        raise DataError("this is not valid JSON", where=file, got=error, fix=_EXPORT) from error
    if isinstance(content, list):
        what = "this is a list, perhaps of detections; a data set is an object with images, annotations and categories"
        raise DataError(what, where=file, fix="name the file with the annotations")
    lists = {key: value for key in _KEYS if isinstance(content, dict) and isinstance(value := content.get(key), list)}
    if len(lists) < len(_KEYS):
        raise _lists_missing(file, [key for key in _KEYS if key not in lists], content if isinstance(content, dict) else {})
    return lists


def _lists_missing(file: Path, missing: list[str], content: Mapping[str, Json]) -> DataError:
    """The error for a file without some of the lists."""
    fix = renaming(misspelt(missing, content.keys() - {*_KEYS})) or _EXPORT
    expected = f"a list under {', '.join(missing)}"
    return DataError("this is not a COCO data set", where=file, got=listed(content), expected=expected, fix=fix)


def as_id(value: Json) -> Id | None:
    """A whole number, perhaps written as 3.0, or a text; None for anything else, such as a bool, which would find the id 1."""
    return value if isinstance(value, str) else whole_number(value)


def _other_form(stored_id: Id) -> Id:
    """The number of a text, or the text of a number: tools write ``"3"`` in one list and ``3`` in another."""
    return str(stored_id) if isinstance(stored_id, int) else int(stored_id) if is_number(stored_id) else stored_id


def field_of(entry: Json, key: str) -> Json:
    """A field of a JSON object; None if it is missing, or if this is no object."""
    return entry.get(key) if isinstance(entry, dict) else None


def categories_of(file: Path, entries: list[Json]) -> dict[int, str]:
    """Name by id, ordered by id. Raise DataError if an entry is no category, or an id or name comes twice."""
    found: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for number, entry in enumerate(entries):
        where = f"{file}: categories[{number}]"
        name, stored_id = field_of(entry, "name"), as_id(field_of(entry, "id"))
        category = _other_form(stored_id) if isinstance(stored_id, str) else stored_id
        if not isinstance(name, str) or not isinstance(category, int) or category < 0:
            got = f"id {quoted(field_of(entry, 'id'))}, name {quoted(name)}"
            fix = 'write it as {"id": 1, "name": "cat"}; ids are 0 or more'
            raise DataError("a category needs a whole number as id, and a name", where=where, got=got, fix=fix)
        if category in found or name in id_of:
            raise _given_twice(where, category, name, found.get(category), id_of.get(name))
        found[category], id_of[name] = name, category
    if not found:
        raise DataError(
            "this data set has no categories", where=file, fix='list the classes: "categories": [{"id": 1, "name": "cat"}]'
        )
    return dict(sorted(found.items()))


def _given_twice(where: str, category: int, name: str, other_name: str | None, other_id: int | None) -> DataError:
    """The error for a category whose id already has ``other_name``, or whose name already has ``other_id``."""
    got = f"id {category}, name {quoted(name)}"
    if (other_name, other_id) == (name, category):
        return DataError("this category is given twice", where=where, got=got, fix="remove this entry")
    if other_name is not None:
        fix = f"give {quoted(other_name)} and {quoted(name)} different ids, here and in category_id of the annotations"
        return DataError("this category's id is given twice", where=where, got=f"{got}; {quoted(other_name)} has it", fix=fix)
    fix = f"remove this entry and write category_id {other_id} in its annotations, or rename it"
    return DataError("this category's name is given twice", where=where, got=f"{got}; id {other_id} has it", fix=fix)


def _read_images(table: Table, file: Path, entries: list[Json], pictures: Named) -> dict[Id, int | None]:
    """The picture's row by image id; None for an image that is known but cannot be used: its objects are left out."""
    rows: dict[Id, int | None] = {}
    id_of: dict[str, Id] = {}
    name = table.name(file)
    for number, entry in enumerate(entries):
        where, image_id = f"{name}: images[{number}]", as_id(field_of(entry, "id"))
        if not isinstance(entry, dict) or image_id is None:
            got = quoted(field_of(entry, "id"))
            fix = "write the id that image_id of its annotations has, or remove the image"
            table.problem(where, DataError("an image needs a number or a string as id", got=got, fix=fix))
        elif image_id in rows:
            table.problem(where, DataError(f"the image id {quoted(image_id)} is given twice", fix=_UNIQUE))
        else:
            try:
                picture = _picture(table, entry, image_id, pictures)
                if (first := id_of.setdefault(picture.path, image_id)) != image_id:
                    what = f"this picture is listed under two ids, and is the one of id {_shown(first)}"
                    raise DataError(
                        what, fix="keep one entry, and write its id into image_id of all annotations of the picture"
                    )
                rows[image_id] = table.add(picture)
            except DataError as error:
                rows[image_id] = None
                table.problem(f"{where} (id {_shown(image_id)})", error)
    others = Counter(map(_other_form, rows))
    return {form: row for image_id, row in rows.items() if others[form := _other_form(image_id)] == 1} | rows


def _shown(stored_id: Id) -> str:
    """An id in the place of a message."""
    return shortened(str(stored_id), 40)


def _picture(table: Table, entry: Mapping[str, Json], image_id: Id, pictures: Named) -> PictureFile:
    """Raise DataError with the reason if this entry is no usable picture."""
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        raise DataError("file_name should be a string", got=quoted(file_name), fix="write the picture's name in quotes")
    size = stated_size(entry.get("height"), entry.get("width"))
    path = table.picture(partial(pictures.find, file_name), pictures.file.parent / file_name, size)
    return PictureFile(str(path), image_id, size)


def _read_annotations(
    table: Table, file: Path, entries: list[Json], *, rows: Mapping[Id, int | None], categories: Mapping[int, str]
) -> None:
    """Put the objects into the table. rows: the picture's row by image id."""
    name = table.name(file)
    keys: dict[Id, int] = {str(category): category for category in categories}  # ids that are written as text
    seen: set[Id] = set()
    if any(field_of(entry, "score") is not None for entry in entries):
        table.notes.append(Problem(name, no_scores(["score"])))
    no_flag = _no_flag(entries)
    if no_flag:
        table.notes.append(Problem(name, f"difficult {no_flag}"))
    for number, entry in enumerate(entries):
        stored_id = as_id(field_of(entry, "id"))
        where = f"{name}: annotations[{number}]" + ("" if stored_id is None else f" (id {_shown(stored_id)})")
        try:
            if stored_id is not None:
                if stored_id in seen:
                    raise DataError("this annotation id is given twice", fix=_UNIQUE)
                seen.add(stored_id)
            row = _row(entry, rows, keys=keys, where=where)
            difficult = not no_flag and flagged("difficult", _difficult(entry))
        except DataError as error:
            table.problem(where, error)
            continue
        if row is not None:
            table.objects.append(row._replace(ignore=row.ignore or difficult))


def _no_flag(entries: list[Json]) -> str | None:
    """Why ``difficult`` has another meaning in a file than a flag, such as easy and hard; None if it has not."""
    flags = Flags()
    for number, entry in enumerate(entries):
        flags.add("difficult", _difficult(entry), f"annotations[{number}]")
    return flags.no_flags().get("difficult")


def _difficult(entry: Json) -> str:
    """What an annotation says in ``difficult``; nothing if it is null or missing."""
    value = field_of(entry, "difficult")
    return "" if value is None else str(value)


def _row(entry: Json, rows: Mapping[Id, int | None], *, keys: Mapping[Id, int], where: str) -> Row | None:
    """One object, or None if its picture cannot be used. Raise DataError with the reason if the entry is no object."""
    if not isinstance(entry, dict):
        expected = "an object with image_id, category_id and bbox"
        raise DataError("an annotation should be an object", got=quoted(entry), expected=expected)
    if absent := [key for key in ("image_id", "category_id", "bbox") if key not in entry]:
        what = f"this annotation has no {' and no '.join(absent)}"
        fix = renaming(misspelt(absent, entry)) or "write what is missing, or remove the annotation"
        raise DataError(what, got=listed(entry), fix=fix)
    image_id, category = as_id(entry.get("image_id")), as_id(entry.get("category_id"))
    if image_id is None or image_id not in rows:
        fix = "correct image_id, add the image to images, or remove the annotation"
        raise DataError(f"there is no image with id {quoted(entry.get('image_id'))}", fix=fix)
    if category is None:
        fix = "write the id of a category of this file, or remove the annotation"
        raise DataError("category_id should be a number", got=quoted(entry.get("category_id")), fix=fix)
    box, ignore, crowd = box_numbers(entry.get("bbox")), flag_field(entry, "ignore"), flag_field(entry, "iscrowd")
    picture = rows[image_id]
    return (
        None if picture is None else Row(picture, box, keys.get(category, category), where, ignore, crowd, stated_area(entry))
    )


def box_numbers(value: Json) -> list[float]:
    """Left, top, width, height, within a range that floats can hold."""
    numbers = [number for number in value if type(number) is int or type(number) is float] if isinstance(value, list) else []
    if not isinstance(value, list) or len(value) != 4 or len(numbers) != 4:
        fix = "correct these four numbers, or remove the annotation"
        raise DataError("bbox should be [left, top, width, height] in pixels", got=quoted(value), fix=fix)
    return [max(-_HUGE, min(number, _HUGE)) for number in numbers]


def flag_field(entry: Mapping[str, Json], key: str) -> bool:
    value = entry.get(key)
    if value not in (None, 0, 1, "0", "1"):
        raise DataError(f"{key} should be 0 or 1", got=quoted(value), fix=f"write 0 or 1, or leave {key} out for 0")
    return value in (1, "1")


def stated_area(entry: Mapping[str, Json]) -> float:
    """As stated, or nan if it is missing, not positive or absurd."""
    area = entry.get("area")
    return area if isinstance(area, int | float) and area is not True and 0 < area < _HUGE else math.nan
