"""The detections and the truth of all pictures as a few flat arrays, in COCO's order: what the whole analysis computes on.

Shape letters: P pictures, K classes, N detections of all pictures and classes, G true objects of all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from onestage.errors import DataError
from onestage.metrics.pairing import Pair, pair_up
from onestage.structures import Detections, Truth

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Kind = TypeVar("Kind", bound=np.generic)

LIMIT = 100
"""COCO looks at so many detections of a class in a picture, those of the best scores."""


@dataclass(frozen=True, eq=False)
class FoundRows:
    """N detections: class after class, in a class by descending score, of equal scores by picture and then by row.

    picture (N,): 0..P-1; row (N,): the number of the detection in its picture's Detections; rank (N,): 0 for the best of its
    class in its picture; label (N,); score (N,); box (N, 4) xyxy pixels.
    """

    picture: Ints
    row: Ints
    rank: Ints
    label: Ints
    score: Floats
    box: Floats

    def __len__(self) -> int:
        return len(self.score)

    @property
    def area(self) -> Floats:
        """(N,) width times height, in square pixels."""
        return (self.box[:, 2] - self.box[:, 0]) * (self.box[:, 3] - self.box[:, 1])


@dataclass(frozen=True, eq=False)
class TrueRows:
    """G true objects, picture after picture, in the order of its Truth.

    picture (G,): 0..P-1; row (G,): the number of the object in its picture; label (G,); box (G, 4) xyxy pixels; area (G,) in
    square pixels; crowd (G,); ignore (G,): crowds and ignored objects, which do not count.
    """

    picture: Ints
    row: Ints
    label: Ints
    box: Floats
    area: Floats
    crowd: Bools
    ignore: Bools

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Table:
    """All detections and true objects of P pictures.

    image_ids: of each picture; sizes (P, 2): its (height, width) in pixels; counts (P,): its detections, those beyond the limit
    included; classes: the K names, by label.
    """

    image_ids: tuple[int | str, ...]
    sizes: Ints
    counts: Ints
    classes: tuple[str, ...]
    found: FoundRows
    true: TrueRows


def tabulate(detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str], *, limit: int = LIMIT) -> Table:
    """Put the detections and truths of the same pictures into arrays; ``classes`` are the K names, by label.

    The pictures are in the order of their ids. At most ``limit`` detections of a class in a picture are taken, the best ones.
    Raise DataError if the pictures are not the same, if a label is none of the classes, or if a detection has a score outside
    0..1 or a box without two ordered corners.
    """
    pairs = pair_up(detections, truths, classes)
    ids = tuple(pair.truth.image_id for pair in pairs)
    sizes = np.array([pair.found.size for pair in pairs], np.int64).reshape(-1, 2)
    counts = np.array([len(pair.found) for pair in pairs], np.int64)
    return Table(ids, sizes, counts, tuple(classes), _found_rows(pairs, limit), _true_rows(pairs))


def _found_rows(pairs: Sequence[Pair], limit: int) -> FoundRows:
    found = [pair.found for pair in pairs]
    picture, row = _numbers([len(f) for f in found])
    label = _joined([f.labels.numpy() for f in found], np.int64)
    score = _joined([f.scores.numpy() for f in found], np.float64)
    box = _joined([f.boxes.numpy() for f in found], np.float64, (4,))
    _check(pairs, picture, score, box)
    order = np.lexsort((-score, label))
    rank = ranks(label[order] * len(pairs) + picture[order])
    order, rank = order[rank < limit], rank[rank < limit]
    return FoundRows(picture[order], row[order], rank, label[order], score[order], box[order])


def _check(pairs: Sequence[Pair], picture: Ints, score: Floats, box: Floats) -> None:
    """Raise DataError for the first detection with a score outside 0..1 or a box that is none; NaN is neither."""
    believable = (score >= 0) & (score <= 1)
    ordered = np.isfinite(box).all(1) & (box[:, 2:] >= box[:, :2]).all(1)
    for what, good, values, expected in (
        ("a detection has no score", believable, score, "0 to 1"),
        ("a detection has no box", ordered, box, "x1, y1, x2, y2 in pixels, with x1 <= x2 and y1 <= y2"),
    ):
        if len(wrong := np.flatnonzero(~good)):
            where = f"picture {pairs[picture[wrong[0]]].found.image_id!r}"
            raise DataError(what, where=where, got=values[wrong[0]].tolist(), expected=expected)


def _true_rows(pairs: Sequence[Pair]) -> TrueRows:
    truths = [pair.truth for pair in pairs]
    picture, row = _numbers([len(t.labels) for t in truths])
    crowd = _joined([t.crowd.numpy() for t in truths], np.bool_)
    return TrueRows(
        picture=picture,
        row=row,
        label=_joined([t.labels.numpy() for t in truths], np.int64),
        box=_joined([t.boxes.numpy() for t in truths], np.float64, (4,)),
        area=_joined([t.area.numpy() for t in truths], np.float64),
        crowd=crowd,
        ignore=crowd | _joined([t.ignore.numpy() for t in truths], np.bool_),
    )


def rescored(table: Table, score: Floats) -> Table:
    """The same table with other scores (N,) for its detections, in COCO's order again."""
    found = table.found
    order = np.lexsort((found.row, found.picture, -score, found.label))
    picture, row, label = found.picture[order], found.row[order], found.label[order]
    rank = ranks(label * len(table.image_ids) + picture)
    return replace(table, found=FoundRows(picture, row, rank, label, score[order], found.box[order]))


def ranks(group: Ints) -> Ints:
    """(N,) group numbers -> (N,) how many rows of the same group stand before each row."""
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    result = np.empty_like(group)
    result[order] = place
    return result


def _numbers(counts: Sequence[int]) -> tuple[Ints, Ints]:
    """The picture of each row, and the number of the row in it, for P pictures with so many rows."""
    picture = np.repeat(np.arange(len(counts)), counts)
    start = np.cumsum([0, *counts[:-1]], dtype=np.int64)[: len(counts)]
    return picture, np.arange(len(picture)) - np.repeat(start, counts)


def _joined(parts: Sequence[NDArray[np.generic]], kind: type[Kind], tail: tuple[int, ...] = ()) -> NDArray[Kind]:
    """The arrays of all pictures as one of that kind; with no picture, an empty one."""
    return np.concatenate([np.zeros((0, *tail), kind), *parts], dtype=kind, casting="unsafe")
