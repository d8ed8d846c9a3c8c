"""Detections in JSON: COCO's results, a COCO data set whose annotations have scores, and our JSON lines.

The first: https://cocodataset.org/#format-results, a list of entries with image_id, category_id, bbox as left, top, width and
height in pixels, and score. Policy:
- Ids are numbers or texts. In a data set, or in JSON lines, the name of the picture and that of the class count, if they are
  there: another program may have numbered them in another way.
- An entry without one of these fields is a fault. A file of which no annotation has a score holds labels, and is refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from onestage.data.detections_rows import Reference, Rows
from onestage.data.files import head
from onestage.data.json_stream import Item, items, values
from onestage.data.text import listed, misspelt, quoted, renaming, whole_number
from onestage.errors import DataError
from onestage.files import Json

LABELS_FIX = "name the detections first, then the labelled pictures"
"""What to do about labels in place of detections."""

_NEEDED = ("image_id", "category_id", "bbox", "score")
_KEYS = re.compile(r'"(images|annotations|categories|info|licenses|detections|image_id|bbox)"\s*:')
_OF_LINES = ("detections", "image_id", "bbox")


def kind_of(file: Path) -> str | None:
    """Which of the three kinds a JSON text is, as its first keys tell; None if it is none of them."""
    start = head(file).lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        return "coco"
    found = _KEYS.search(start) if start.startswith("{") else None
    return None if found is None else "jsonl" if found[1] in _OF_LINES else "coco set"


def read_list(file: Path) -> Rows:
    """COCO's results. Raise DataError if the file is no JSON list."""
    rows = Rows(file, "coco")
    for item in items(file):
        _add_entry(rows, item)
    return rows


def read_set(file: Path) -> Rows:
    """A COCO data set whose annotations have scores. Raise DataError if none has."""
    rows, unscored = Rows(file, "coco set"), 0
    for item in items(file):
        if item.key == "annotations":
            unscored += isinstance(item.value, dict) and "score" not in item.value
            _add_entry(rows, item)
        elif item.key in ("images", "categories") and isinstance(item.value, dict):
            names = rows.picture_name if item.key == "images" else rows.class_name
            stored_id, name = _id(item.value.get("id")), item.value.get("file_name" if item.key == "images" else "name")
            if stored_id is not None and isinstance(name, str):
                names[stored_id] = name
    if unscored and not len(rows):
        raise DataError(
            "these are labels, not detections: no annotation has a score",
            where=file,
            expected="detections, each with a score from 0 to 1",
            fix=LABELS_FIX,
        )
    return rows


def read_lines(file: Path) -> Rows:
    """JSON lines: in each a picture with its detections, as ``onestage predict`` writes it, or an entry of COCO's results."""
    rows = Rows(file, "jsonl", unit="line")
    for item in values(file):
        if not item.number and isinstance(item.value, dict) and "bbox" in item.value:
            rows.kind = "coco"
        if rows.kind == "coco":
            _add_entry(rows, item)
        else:
            _add_picture(rows, item.number + 1, item.value)
    return rows


def _add_entry(rows: Rows, item: Item) -> None:
    """An entry of COCO's results."""
    entry = item.value
    try:
        if not isinstance(entry, dict):
            raise DataError("an entry is no object", got=quoted(entry), expected="an object with image_id and bbox")
        if absent := [key for key in _NEEDED if key not in entry]:
            fix = renaming(misspelt(absent, entry)) or "write what is missing"
            raise DataError(f"an entry has no {' and no '.join(absent)}", got=listed(entry), fix=fix)
        name = entry.get("file_name")
        picture, category = name if isinstance(name, str) else _id(entry["image_id"]), _id(entry["category_id"])
        if picture is None or category is None:
            got = f"image_id {quoted(entry['image_id'])}, category_id {quoted(entry['category_id'])}"
            raise DataError("an id is neither a number nor a text", got=got, fix="write the ids that the data set has")
        rows.add(item.number + 1, picture, category, numbers(entry["bbox"]), _score(entry["score"]))
    except DataError as error:
        rows.refuse(item.number + 1, error)


def _add_picture(rows: Rows, number: int, record: Json) -> None:
    """A picture with its detections. Each of them has a box as x1, y1, x2, y2, a score and class_name."""
    content = record if isinstance(record, dict) else {}
    path, stored_id, entries = content.get("path"), _id(content.get("image_id")), content.get("detections")
    picture = path if isinstance(path, str) and path else stored_id
    if picture is None or not isinstance(entries, list):
        what, fix = "a line has no path and no image_id, or no list of detections", "write what is missing"
        rows.refuse(number, DataError(what, got=quoted(record), fix=fix))
        return
    rows.pictures.add(picture)  # one without detections too
    for entry in entries:
        try:
            if not isinstance(entry, dict) or not {"box", "score"} <= entry.keys():
                what = "a detection has no box, or no score"
                raise DataError(what, got=quoted(entry), fix="write box as [x1, y1, x2, y2], and score")
            name = entry.get("class_name")
            label = name if isinstance(name, str) else _id(entry.get("category_id"))
            if label is None:
                what = "a detection has neither class_name nor category_id"
                raise DataError(what, got=listed(entry), fix="write one of them")
            rows.add(number, picture, label, numbers(entry["box"]), _score(entry["score"]))
        except DataError as error:
            rows.refuse(number, error)


def _id(value: Json) -> Reference | None:
    """A whole number, perhaps written as 3.0, or a text; None for anything different."""
    return value if isinstance(value, str) else whole_number(value)


def numbers(value: Json) -> list[float]:
    """The four numbers of a box, perhaps nan or infinite. Raise DataError if they are not four numbers."""
    found = [_float(number) for number in value if type(number) in (int, float)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(value) != 4 or len(found) != 4:
        raise DataError("a box is not four numbers", got=quoted(value), fix="write four numbers, in pixels")
    return found


def _score(value: Json) -> float:
    if type(value) not in (int, float):
        raise DataError("a score is no number", got=quoted(value), fix="write a number from 0 to 1")
    return _float(value)


def _float(value: Json) -> float:
    """A number of JSON; infinite if no float holds it."""
    try:
        return float(value)  # type: ignore[arg-type]  # the callers look at the type
    except OverflowError:
        return math.inf
