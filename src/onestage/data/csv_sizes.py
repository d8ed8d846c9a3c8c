"""The columns width and height of a CSV file: the picture's, as TensorFlow's tutorials have them, or those of each box."""

from collections.abc import Iterable, Sequence

from onestage.data.table import Table
from onestage.data.text import size_text, stated_size, whole
from onestage.errors import DataError
from onestage.structures import Size

_HEIGHT = frozenset("height imageheight imgheight imgh".split())  # noqa: SIM905  # plain names, as in csv_header.ROLES
_WIDTH = frozenset("width imagewidth imgwidth imgw".split())  # noqa: SIM905
_ROUNDING = 1.0
"""Pixels by which a width may differ from the difference of two corners: some programs count both edges."""

Stated = tuple[str, tuple[str, str], list[float] | None]
"""A row: the picture's name, the texts of height and width, and the box x1, y1, x2, y2."""


def size_columns(names: Sequence[str]) -> tuple[int, int] | None:
    """The columns of height and width, or None unless there is one of each. names: the header's cells in plain form."""
    found = [[i for i, name in enumerate(names) if name in known] for known in (_HEIGHT, _WIDTH)]
    return (found[0][0], found[1][0]) if all(len(columns) == 1 for columns in found) else None


def picture_sizes(rows: Iterable[Stated]) -> dict[str, set[Size]]:
    """The sizes (height, width) that the rows state for each picture. None of all if they are the sizes of the boxes.

    A text that is no size of a picture states nothing.
    """
    sizes: dict[str, set[Size]] = {}
    of_boxes, boxes = 0, 0
    for image, texts, box in rows:
        size = _size(texts)
        if size is None:
            continue
        sizes.setdefault(image, set()).add(size)
        if box is not None:
            boxes += 1
            sides = box[3] - box[1], box[2] - box[0]
            of_boxes += all(abs(side - stated) <= _ROUNDING for side, stated in zip(sides, size, strict=True))
    return {} if boxes and of_boxes == boxes else sizes


def _size(texts: tuple[str, str]) -> Size | None:
    """(height, width), None if these texts are none."""
    try:
        return stated_size(*map(whole, texts))
    except (ValueError, DataError):
        return None


def one_size(table: Table, where: str, stated: set[Size] | None) -> Size | None:
    """The size of a picture, if its rows state one. Several are a problem of the table."""
    if stated and len(stated) > 1:
        got = ", ".join(map(size_text, sorted(stated)))
        table.problem(where, DataError("the rows of this picture state several sizes of it", got=got, fix="correct them"))
    return next(iter(stated)) if stated and len(stated) == 1 else None
