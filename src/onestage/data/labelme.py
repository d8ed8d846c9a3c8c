"""LabelMe: a JSON file for each picture, with a list of shapes. The format: labelme/_label_file.py of labelme 3 to 6.

Policy:
- A shape becomes the box around it: of rectangles, polygons, masks and circles. Points and lines have no area: they are left
  out, with a note. A shape without a type is a polygon, as in old versions.
- ``flags`` of a shape count: crowd or iscrowd flags a crowd region, ignore or difficult an ignored object. So does a
  ``difficult`` beside them, as X-AnyLabeling writes it. All else about a shape, such as its ``description``, is not read.
- The picture has the name of the JSON file and lies at the same place: see pairing.py. If there are several, or none, the name
  in ``imagePath`` decides; its folders do not count. A picture inside the file (``imageData``) is not read.
- Classes are all names in the whole data set, sorted, for any split that is read. Splits are folders.
- Where there is a data set in another format too, that one is read: LabelMe's files are often what it was made from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn

from onestage.data.dataset import Problem
from onestage.data.files import FilePerSplit, Sources, by_split, head, pieces, read_text, split_above
from onestage.data.labels import StoredClasses, look_of
from onestage.data.pairing import Named, Pairs, pair
from onestage.data.table import Row, Said, Table
from onestage.data.text import quoted, stated_size
from onestage.data.tree import Tree, folded
from onestage.errors import DataError, counted
from onestage.files import Json

LAYOUT = "LabelMe: a.json with shapes for each picture a.jpg, in one folder or in two"

OUTLINES = frozenset({"rectangle", "oriented_rectangle", "rotation", "polygon", "mask", "circle"})
"""The types of shapes that have a box."""
THIN = frozenset({"point", "points", "line", "linestrip"})
"""The types of shapes without an area."""
_HUGE = 1e15  # larger than any picture, and a limit for integers beyond float's range
_KEYS = ("shapes", "imagePath")
_AGAIN = "save the picture again in LabelMe, or remove the file"


class _Object(NamedTuple):
    """One object: its number in the file, counted from 0, its class, its xyxy box and its flags."""

    number: int
    name: str
    box: list[float]
    ignore: bool
    crowd: bool


@dataclass
class _Annotation(Said):
    """What one file says. thin: how many shapes have no area."""

    objects: list[_Object] = field(default_factory=list)
    thin: int = 0


@dataclass(frozen=True)
class LabelmeSet(FilePerSplit):
    """A LabelMe data set found on disk: a JSON file for each picture."""

    sure: ClassVar[bool] = False
    tree: Tree = field(repr=False)
    sources: Sources

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        names = {item.name for annotation in self._annotations.values() for item in annotation.objects}
        table.classes = StoredClasses.named(sorted(names))
        owners: dict[Path, Path] = {}
        for file in self.sources[split]:
            self._fill(table, file, owners)
        thin = {file: self._annotations[file].thin for file in self.sources[split] if self._annotations[file].thin}
        if thin:
            what = f"{counted(sum(thin.values()), 'shape')} left out: points and lines have no area"
            table.notes.append(Problem(table.name(next(iter(thin))), what))

    def _fill(self, table: Table, file: Path, owners: dict[Path, Path]) -> None:
        """Put one file into the table. owners: the files of the pictures so far."""
        annotation = self._annotations[file]

        def check(path: Path) -> None:
            if (owner := owners.setdefault(path, file)) != file:
                what, got = "a second file holds labels of this picture", f"{table.name(path)}, labelled in {table.name(owner)}"
                raise DataError(what, got=got, fix="leave one of them")

        picture = table.labelled(file, annotation, partial(self._picture, file, annotation.picture or ""), check)
        if picture is not None:
            for number, name, box, ignore, crowd in annotation.objects:
                where = f"{table.name(file)} shapes[{number}]"
                table.objects.append(Row(picture, box, name, where, ignore=ignore, crowd=crowd))

    @cached_property
    def _annotations(self) -> dict[Path, _Annotation]:
        return {file: _parse(file) for file in self.sources[""]}

    @cached_property
    def _pairs(self) -> Pairs:
        return pair(self.tree, self.tree.pictures, self._annotations)

    def _picture(self, file: Path, name: str) -> Path:
        """The picture of a file. Raise DataError if there is none, or if several fit. name: as ``imagePath`` has it."""
        found = self._pairs.pictures.get(file, ())
        if len(found) > 1:
            found = [picture for picture in found if folded(picture.name) == folded(name)] or found
        if len(found) > 1:
            got = ", ".join(map(self.tree.short, found))
            raise DataError("several pictures fit", got=got, fix="name the right one in imagePath")
        return found[0] if found else Named(self.tree, file).find(name or file.stem)


def find(tree: Tree) -> LabelmeSet | None:
    """The LabelMe data set among these files, or None."""
    files = [file for file in tree.offered if holds_labels(file)]
    return LabelmeSet(tree, by_split(files, [split_above(file, tree.root) for file in files])) if files else None


def holds_labels(file: Path) -> bool:
    """Whether a file looks like annotations in this format. A picture inside it may stand before its shapes."""
    if file.suffix.lower() != ".json":
        return False
    start = head(file).lstrip()
    if not start.startswith("{") or not any(f'"{key}"' in start for key in _KEYS):
        return False
    return all(any(f'"{key}"' in piece for piece in pieces(file)) for key in _KEYS)


def _parse(file: Path) -> _Annotation:
    """Read one file. All faults are in its errors."""
    try:
        content = _content(file)
        size = stated_size(content.get("imageHeight"), content.get("imageWidth"))
    except DataError as error:
        return _Annotation(errors=[("", error)], usable=False)
    stated, shapes = content.get("imagePath"), content.get("shapes")
    annotation = _Annotation(re.split(r"[/\\]", stated)[-1] if isinstance(stated, str) else "", size)
    if not isinstance(shapes, list):
        what = "a file of LabelMe needs a list of shapes"
        return _Annotation(errors=[("", DataError(what, got=quoted(shapes), fix=_AGAIN))], usable=False)
    for number, shape in enumerate(shapes):
        try:
            found = _object(number, shape)
        except DataError as error:
            annotation.errors.append((f" shapes[{number}]", error))
            continue
        annotation.thin += found is None
        annotation.objects += [found] if found else []
    return annotation


def _content(file: Path) -> dict[str, Json]:
    """The JSON object of a file, without the picture in it. Raise DataError if it is none."""
    try:
        content: Json = json.loads(read_text(file), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as error:
        raise DataError("this JSON is nested too deeply", fix=_AGAIN) from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError("this is not valid JSON", got=error, fix=_AGAIN) from error
    if not isinstance(content, dict):
        raise DataError("this is no file of LabelMe", got=quoted(content), expected="an object with shapes", fix=_AGAIN)
    content.pop("imageData", None)
    return content


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _object(number: int, shape: Json) -> _Object | None:
    """The object of a shape; None if it has no area by its type. Raise DataError with the reason if it is no object."""
    if not isinstance(shape, dict):
        raise DataError("a shape should be an object", got=quoted(shape), expected="label, points and shape_type")
    kind, name = shape.get("shape_type") or "polygon", shape.get("label")
    if kind in THIN:
        return None
    if not isinstance(kind, str) or kind not in OUTLINES:
        expected = ", ".join(sorted(OUTLINES | THIN))
        raise DataError("this type of shape is not known", got=quoted(kind), expected=expected)
    if not isinstance(name, str) or not name.strip():
        raise DataError("a shape needs a label", got=quoted(name), fix="write its class there, or remove the shape")
    look_of(name)
    points = _points(shape.get("points"))
    if kind == "circle":
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    across, down = zip(*points, strict=True)
    box = [min(across), min(down), max(across), max(down)]
    flags = shape.get("flags")
    marks: Mapping[str, Json] = flags if isinstance(flags, dict) else {}
    ignore = any(value is True for value in (marks.get("ignore"), marks.get("difficult"), shape.get("difficult")))
    return _Object(number, name.strip(), box, ignore, any(marks.get(key) is True for key in ("crowd", "iscrowd")))


def _points(value: Json) -> list[tuple[float, float]]:
    """Two points or more, in pixels. Raise DataError with the reason if they are none."""
    found = [_point(point) for point in value] if isinstance(value, list) else []
    if len(found) < 2:
        raise DataError("a shape needs two points or more", got=quoted(value), expected="[[x, y], [x, y], ...] in pixels")
    return found


def _point(value: Json) -> tuple[float, float]:
    numbers = (
        [n for n in value if isinstance(n, int | float) and n is not True and n is not False] if isinstance(value, list) else []
    )
    if not isinstance(value, list) or len(value) != 2 or len(numbers) != 2:
        raise DataError("a point should be [x, y] in pixels", got=quoted(value), fix="correct it, or remove the shape")
    x, y = (float(max(-_HUGE, min(number, _HUGE))) for number in numbers)
    return x, y
