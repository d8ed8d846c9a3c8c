"""COCO JSON: ``{"images": [...], "annotations": [...], "categories": [...]}``, boxes as left, top, width, height in pixels.

The format: https://cocodataset.org/#format-data. Policy:
- Labels count the categories in the order of their ids, gaps closed; the ids stay in ``category_ids``.
- ``iscrowd`` regions keep their box and are flagged; outlines and masks (polygons, RLE) are not read. ``ignore`` is kept too.
- ``area`` is taken from the file (the outline's), or from the box where it is missing or not positive.
- A picture without annotations is kept as one without objects.
- NaN, Infinity and a key given twice in one object spoil the whole file; a bad image or annotation is one problem each.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from onestage import boxes as box_ops
from onestage.data.files import Pictures, Sources, head, one_per_split, picture_folders, read_text, split_above, split_name
from onestage.data.table import Classes, Picture, Row, Table, label_table
from onestage.errors import DataError
from onestage.structures import Size

LAYOUT = "COCO: annotations/instances_train2017.json and train2017/, or train/_annotations.coco.json beside its pictures"

Id = int | str
_KEYS = ("images", "annotations", "categories")
_NUMBERS = {int, float}
_HUGE = 1e15  # larger than any picture, small enough for integers beyond float's range to be cut to


@dataclass(frozen=True)
class CocoSet:
    """A COCO data set found on disk: one JSON file for each split."""

    root: Path
    sources: Sources

    def read(self, table: Table, split: str, classes: Sequence[str] | None) -> Classes:
        """Put the pictures and objects of a split ("" for all) into the table. The files must agree on their categories."""
        table.to_xyxy = box_ops.from_xywh
        files = self.sources[split]
        categories: dict[int, str] | None = None
        for file in files:
            content = _parse(file)
            own = _categories(file, content["categories"])
            if categories not in (None, own):
                what = "the splits of this data set disagree on their categories"
                raise DataError(what, where=file, got=own, expected=categories, fix="read one split at a time")
            categories = own
            labels = label_table(list(own.values()), list(own), classes)
            rows = _read_images(table, file, content["images"], self._pictures(file))
            _read_annotations(table, file, content["annotations"], rows=rows, categories=own, labels=labels)
        return labels

    def _pictures(self, file: Path) -> Pictures:
        return Pictures(picture_folders(file, split_name(file.stem) or split_above(file, self.root)))


def find(root: Path, files: Sequence[Path]) -> CocoSet | None:
    """The COCO data set among these files, if there is one. ``instances_*.json`` go before all others."""
    coco = [file for file in files if file.suffix.lower() == ".json" and _looks_like_coco(head(file))]
    instances = [file for file in coco if file.name.startswith("instances_")]
    return CocoSet(root, one_per_split(root, instances or coco)) if coco else None


def _looks_like_coco(start: str) -> bool:
    return start.lstrip().startswith("{") and any(f'"{key}"' in start for key in _KEYS)


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Outlines go at once: they are most of a file's size, and nobody here reads them."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is given twice in one object")
    content.pop("segmentation", None)
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _parse(file: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO file. DataError if it is not one."""
    try:
        content = json.loads(read_text(file), object_pairs_hook=_plain, parse_constant=_refuse)
    except DataError:
        raise
    except RecursionError as error:
        raise DataError("this JSON is nested too deeply", where=file) from error
    except ValueError as error:
        raise DataError("this is not valid JSON", where=file, got=error) from error
    if isinstance(content, list):
        what = "this is a list, perhaps of detections; a data set is an object with images, annotations and categories"
        raise DataError(what, where=file)
    missing = [key for key in _KEYS if not (isinstance(content, dict) and isinstance(content.get(key), list))]
    if missing:
        raise DataError("this is not a COCO data set", where=file, expected=f"a list under {', '.join(missing)}")
    return content


def _is_id(value: object) -> TypeGuard[Id]:
    return type(value) is int or type(value) is str  # so not a bool, which would find the id 0 or 1


def _categories(file: Path, entries: list[Any]) -> dict[int, str]:
    """Name by id, ordered by id. DataError where an entry is no category, or an id or name comes twice."""
    found: dict[int, str] = {}
    for number, entry in enumerate(entries):
        where = f"{file}: categories[{number}]"
        entry = entry if isinstance(entry, dict) else {}
        name, own_id = entry.get("name"), entry.get("id")
        if not isinstance(name, str) or not _is_id(own_id) or not str(own_id).isdecimal():
            got = {"id": own_id, "name": name}
            raise DataError("a category needs a whole number as id, and a name", where=where, got=got)
        if int(str(own_id)) in found or name in found.values():
            raise DataError("this category is given twice", where=where, got=f"id {own_id}, name {name!r}")
        found[int(str(own_id))] = name
    if not found:
        raise DataError("this data set has no categories", where=file)
    return dict(sorted(found.items()))


def _read_images(table: Table, file: Path, entries: list[Any], pictures: Pictures) -> dict[Id, int | None]:
    """Picture row by image id; None for an image that is known but cannot be used, so that its objects are passed over."""
    rows: dict[Id, int | None] = {}
    name = table.name(file)
    for number, entry in enumerate(entries):
        where = f"{name}: images[{number}]"
        own_id = entry.get("id") if isinstance(entry, dict) else None
        if own_id is None or not _is_id(own_id):
            table.problem(where, f"an image needs a number or a string as id, got {own_id!r}")
        elif own_id in rows:
            table.problem(where, f"the image id {own_id!r} is given twice")
        else:
            try:
                rows[own_id] = len(table.pictures)
                table.pictures.append(_picture(entry, own_id, pictures))
            except ValueError as error:
                rows[own_id] = None
                table.problem(f"{where} (id {own_id})", str(error))
    return rows


def _picture(entry: Mapping[str, Any], own_id: Id, pictures: Pictures) -> Picture:
    """Raises ValueError with the reason why this entry is no usable picture."""
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        raise ValueError(f"file_name should be a string, got {file_name!r}")
    path = pictures.find(file_name)
    if path is None:
        raise ValueError(pictures.missing(file_name))
    return Picture(path, own_id, _size(entry))


def _size(entry: Mapping[str, Any]) -> Size | None:
    """(height, width) as stated, or None if both are missing or 0."""
    height, width = entry.get("height") or None, entry.get("width") or None
    if height is None and width is None:
        return None
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return height, width
    raise ValueError(f"height and width should be whole numbers above 0, got {height!r} and {width!r}")


def _read_annotations(
    table: Table,
    file: Path,
    entries: list[Any],
    *,
    rows: Mapping[Id, int | None],
    categories: Mapping[int, str],
    labels: Classes,
) -> None:
    file_name = table.name(file)
    label_of = {label: index for index, label in enumerate(labels.names)}
    labels_by_id: dict[Id, int] = {i: label_of[n] for i, n in categories.items() if n in label_of}
    labels_by_id |= {str(i): label for i, label in labels_by_id.items()}
    names: dict[Id, str] = {i: name for own, name in categories.items() for i in (own, str(own))}
    seen: set[Id] = set()
    for number, entry in enumerate(entries):
        own_id = entry.get("id") if isinstance(entry, dict) else None
        where = f"{file_name}: annotations[{number}] (id {own_id})"
        try:
            if _is_id(own_id):
                if own_id in seen:
                    raise ValueError("this annotation id is given twice")
                seen.add(own_id)
            row = _row(entry, rows, labels=labels_by_id, names=names, where=where)
        except ValueError as error:
            table.problem(where, str(error))
            continue
        if row is not None:
            table.objects.append(row)


def _row(
    entry: Any, rows: Mapping[Id, int | None], *, labels: Mapping[Id, int], names: Mapping[Id, str], where: str
) -> Row | None:
    """One object, or None where its picture cannot be used. Raises ValueError with the reason if the entry is not one.

    labels and names: by category id; the file may name more categories than are asked for.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"an annotation should be an object, got {entry!r:.50}")
    image_id, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not _is_id(image_id) or image_id not in rows:
        raise ValueError(f"there is no image with id {image_id!r}")
    if not _is_id(category) or category not in labels:
        name = f" ({names[category]!r})" if _is_id(category) and category in names else ""
        raise ValueError(f"unknown class: category_id {category!r}{name}")
    if not isinstance(box, list) or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        raise ValueError(f"bbox should be [left, top, width, height] in pixels, got {box!r:.80}")
    ignore, crowd, area = entry.get("ignore", 0), entry.get("iscrowd", 0), entry.get("area")
    if ignore not in (0, 1) or crowd not in (0, 1):
        raise ValueError(f"ignore and iscrowd should be 0 or 1, got {ignore!r} and {crowd!r}")
    picture = rows[image_id]
    if picture is None:
        return None
    area = area if isinstance(area, int | float) and 0 < area < _HUGE else math.nan
    return Row(
        picture, [max(-_HUGE, min(number, _HUGE)) for number in box], labels[category], where, ignore == 1, crowd == 1, area
    )
