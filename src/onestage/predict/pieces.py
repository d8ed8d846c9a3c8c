"""What several windows of one picture show, put together: every object once, and whole.

Shape letters: N detections of all windows, P pairs of them, R rows and M columns of a block. Boxes are xyxy pixels of the
picture.

A window that ends inside the picture may cut an object. Such a detection is a piece: it is open at that side. How pieces and
whole boxes belong together follows from one question: do two detections agree where both of their windows look? So each is cut
at the open sides of the other before they are compared.

1. A piece that lies within the overlap is left out: the neighbour sees all of it, and more of the object.
2. Pieces of neighbours that are open towards each other, and agree, become one box around both.
3. Of detections that agree, the best stays; a whole one takes the place of pieces.
4. Pieces, and boxes made of them, that lie inside a whole detection of their class are parts of that.

Detections of the same window are never compared: the NMS of the model has done so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.predict.windows import Window
from onestage.structures import Detections, Size

SAME = 0.5
"""The IoU from which two detections show the same object."""
INSIDE = 0.8
"""The part of a piece, or of a box made of pieces, inside a whole box that goes on at every open side, from which it belongs to
that."""
WEAK = 0.3
"""A detection with less than this part of another's score neither completes it nor takes its place."""
NEAR_WINDOW, NEAR_BOX = 0.02, 0.1
"""A box ends at the border of its window if it is nearer than this part of the window's side, or of the side of the box."""
_BLOCK = 1_000_000
"""Pairs that are compared at once."""


class _Pieces(NamedTuple):
    """boxes (N, 4); scores (N,); groups (N,) int64, only detections of one group are compared; windows (N,) int64, of which
    window each is, or a negative number; open (N, 4) bool: at which sides the object may go on, in the order of the box.
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    windows: Tensor
    open: Tensor

    def rows(self, chosen: Tensor) -> _Pieces:
        """Those of a mask (N,) or of row numbers."""
        return _Pieces(*(column[chosen] for column in self))


def together(found: Sequence[Detections], windows: Sequence[Window], size: Size, *, class_agnostic: bool = False) -> Detections:
    """The objects of a picture of that (height, width). found: of each window, in pixels of the picture, cut to the window.

    class_agnostic: classes do not matter to the question which detections show the same object.
    """
    several = _chained(found, size)
    if len(found) == 1 or not len(several):
        return several
    counts = torch.tensor([len(one) for one in found], dtype=torch.int64)
    window = torch.arange(len(found)).repeat_interleave(counts)
    groups = torch.zeros_like(several.labels) if class_agnostic else several.labels
    borders = _borders(windows, size)
    open_sides, margins = _open_sides(several.boxes, borders[window])
    pieces = _Pieces(several.boxes, several.scores, groups, window, open_sides)
    stay = ~_in_overlap(several.boxes, _reaches(windows)[window], open_sides, margins)
    rows = stay.nonzero()[:, 0]
    pieces = pieces.rows(rows)
    joined, members = _join(pieces, windows)
    best, scores, boxes = _best(joined)
    rows = rows[members[best]]
    order = scores.argsort(descending=True, stable=True)
    return replace(several.select(rows[order]), boxes=boxes[order], scores=scores[order])


def _chained(found: Sequence[Detections], size: Size) -> Detections:
    """All detections as one, in the order of the windows."""
    return replace(
        found[0],
        boxes=torch.cat([one.boxes for one in found]),
        scores=torch.cat([one.scores for one in found]),
        labels=torch.cat([one.labels for one in found]),
        class_names=tuple(name for one in found for name in one.class_names),
        category_ids=tuple(number for one in found for number in one.category_ids),
        size=size,
    )


def _borders(windows: Sequence[Window], size: Size) -> Tensor:
    """(windows, 8): left, top, right and bottom of each, infinite where the picture ends too; and its sides (w, h, w, h)."""
    inf = float("inf")
    rows = [
        (
            *(w.left if w.left > 0 else -inf, w.top if w.top > 0 else -inf),
            *(w.right if w.right < size[1] else inf, w.bottom if w.bottom < size[0] else inf),
            *(w.right - w.left, w.bottom - w.top) * 2,
        )
        for w in windows
    ]
    return torch.tensor(rows, dtype=torch.float32)


def _reaches(windows: Sequence[Window]) -> Tensor:
    """(windows, 4): how far the neighbours at the left, top, right and bottom of each window reach into it."""
    return torch.tensor([(*w.before[::-1], *w.after[::-1]) for w in windows], dtype=torch.float32)


def _open_sides(boxes: Tensor, borders: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4) bool: at which sides boxes (N, 4) end where their windows end and the picture does not; and what counts as near,
    (N, 4) pixels. borders: (N, 8).
    """
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    margins = torch.maximum(NEAR_WINDOW * borders[:, 4:], NEAR_BOX * extent)
    return (boxes - borders[:, :4]).abs() <= margins, margins


def _in_overlap(boxes: Tensor, reaches: Tensor, open_sides: Tensor, margins: Tensor) -> Tensor:
    """(N,) bool: whether a piece (N, 4) lies within what the neighbour behind an open side (N, 4) sees too, reaches (N, 4)."""
    opposite = boxes[:, [2, 3, 0, 1]]
    before = opposite[:, :2] <= reaches[:, :2] - margins[:, :2]
    after = opposite[:, 2:] >= reaches[:, 2:] + margins[:, 2:]
    return (open_sides & torch.cat([before, after], dim=1)).any(dim=1)


def _pairs(pieces: _Pieces) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of pairs, (P,) and (P,), of one group whose boxes overlap: each pair once, none of the same window."""
    keys = pieces.windows.clamp(min=-1)  # joined boxes come first, and are compared with each other
    order = keys.argsort(stable=True)
    keys, boxes, groups = keys[order], pieces.boxes[order], pieces.groups[order]
    for key in keys.unique().tolist():
        mine = (keys == key).nonzero()[:, 0]
        after = 0 if key < 0 else int(mine[-1]) + 1
        hull = torch.cat([boxes[mine, :2].amin(dim=0), boxes[mine, 2:].amax(dim=0)])
        others = (box_ops.intersection(hull[None], boxes[after:])[0] > 0).nonzero()[:, 0] + after
        for block in mine.split(max(1, _BLOCK // max(1, len(others)))):
            meet = (box_ops.intersection(boxes[block], boxes[others]) > 0) & (groups[block][:, None] == groups[others])
            row, column = meet.nonzero(as_tuple=True)
            row, column = block[row], others[column]
            once = row < column
            yield order[row[once]], order[column[once]]


def _agreement(pieces: _Pieces, a: Tensor, b: Tensor) -> Tensor:
    """(P,) the IoU of the pairs a and b, (P,) each, where both windows look: each is cut at the open sides of the other."""
    return box_ops.paired_iou(_cut(pieces, a, at=b), _cut(pieces, b, at=a))


def _cut(pieces: _Pieces, rows: Tensor, *, at: Tensor) -> Tensor:
    """(P, 4): the boxes of some rows (P,), cut at the open sides of the others."""
    box, other, opened = pieces.boxes[rows], pieces.boxes[at], pieces.open[at]
    low = torch.where(opened[:, :2], torch.maximum(box[:, :2], other[:, :2]), box[:, :2])
    high = torch.where(opened[:, 2:], torch.minimum(box[:, 2:], other[:, 2:]), box[:, 2:])
    return torch.cat([low, torch.maximum(low, high)], dim=1)


def _join(pieces: _Pieces, windows: Sequence[Window]) -> tuple[_Pieces, Tensor]:
    """Pieces with those that go on in a neighbour made into one, whose window is a negative number; and a row of ``pieces`` for
    each, (N,), the best one.
    """
    links = _links(pieces, windows)
    if not links:
        return pieces, torch.arange(len(pieces.boxes))
    parent = list(range(len(pieces.boxes)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row] = parent[parent[row]]
        return row

    for a, b in links:
        parent[root(a)] = root(b)
    sets: dict[int, list[int]] = {}
    for row in {row for link in links for row in link}:
        sets.setdefault(root(row), []).append(row)
    alone = torch.ones(len(pieces.boxes), dtype=torch.bool)
    made, best = [], []
    for number, several in enumerate(sets.values(), 1):
        rows = torch.tensor(several)
        alone[rows] = False
        best.append(int(rows[pieces.scores[rows].argmax()]))
        made.append(_around(pieces.rows(rows), window=-number))
    columns = [torch.cat(column) for column in zip(pieces.rows(alone), *made, strict=True)]
    return _Pieces(*columns), torch.cat([alone.nonzero()[:, 0], torch.tensor(best)])


def _links(pieces: _Pieces, windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The pairs of pieces that go on in each other: they are neighbours in a row or column of a grid, open towards each other,
    and agree. At each of its sides a piece goes on in one other at most: pairs that agree most come first.
    """
    place = torch.tensor([(w.grid, w.left, w.top) for w in windows], dtype=torch.int64)[pieces.windows]
    choices: list[tuple[float, int, int, int]] = []
    for a, b in _pairs(pieces):
        some = pieces.open[a].any(dim=1) & pieces.open[b].any(dim=1) & (place[a, 0] == place[b, 0])
        a, b = a[some], b[some]
        for axis in (0, 1):
            swap = place[a, 1 + axis] > place[b, 1 + axis]
            low, high = torch.where(swap, b, a), torch.where(swap, a, b)
            facing = pieces.open[low, 2 + axis] & pieces.open[high, axis]
            facing &= (place[low, 1 + axis] < place[high, 1 + axis]) & (place[low, 2 - axis] == place[high, 2 - axis])
            low, high = low[facing], high[facing]
            lesser, larger = pieces.scores[low].minimum(pieces.scores[high]), pieces.scores[low].maximum(pieces.scores[high])
            agreement = _agreement(pieces, low, high)
            fits = (agreement >= SAME) & (lesser >= WEAK * larger)
            rows = zip(agreement[fits].tolist(), low[fits].tolist(), high[fits].tolist(), strict=True)
            choices += [(value, one, other, axis) for value, one, other in rows]
    taken: set[tuple[int, int, bool]] = set()
    links = []
    for _, one, other, axis in sorted(choices, key=lambda choice: (-choice[0], choice[1:])):
        if (one, axis, True) not in taken and (other, axis, False) not in taken:
            taken |= {(one, axis, True), (other, axis, False)}
            links.append((one, other))
    return links


def _around(pieces: _Pieces, *, window: int) -> _Pieces:
    """One box around some pieces, (1, 4), with the best of their scores. It is open where its outermost piece is."""
    low, high = pieces.boxes[:, :2].min(dim=0), pieces.boxes[:, 2:].max(dim=0)
    outermost = torch.cat([low.indices, high.indices])
    box = torch.cat([low.values, high.values])[None]
    opened = pieces.open[outermost, torch.arange(4)][None]
    return _Pieces(box, pieces.scores.amax()[None], pieces.groups[:1], torch.tensor([window]), opened)


def _best(pieces: _Pieces) -> tuple[Tensor, Tensor, Tensor]:
    """Of detections that agree, the best, without parts of others: rows (M,), their scores (M,), their boxes (M, 4)."""
    agreeing, parts = _relations(pieces)
    is_open = pieces.open.any(dim=1).tolist()
    scores = pieces.scores.tolist()
    kept: dict[int, float] = {}
    belongs: set[int] = set()
    for row in pieces.scores.argsort(descending=True, stable=True).tolist():
        better = [other for other in agreeing.get(row, []) if other in kept]
        completed = [other for other in better if is_open[other] and scores[row] >= WEAK * kept[other]]
        if row in belongs or (better and (is_open[row] or len(completed) < len(better))):
            continue
        kept[row] = max([scores[row], *(kept.pop(other) for other in completed)])
        mine = [part for part in parts.get(row, []) if scores[row] >= WEAK * scores[part]]
        belongs.update(mine)
        for part in mine:
            kept.pop(part, None)
    rows = torch.tensor(list(kept), dtype=torch.int64)
    return rows, pieces.scores.new_tensor(list(kept.values())), pieces.boxes[rows]


def _relations(pieces: _Pieces) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """For each row those with which it agrees, and for each whole one the other pieces that lie inside it."""
    agreeing: dict[int, list[int]] = {}
    parts: dict[int, list[int]] = {}
    for a, b in _pairs(pieces):
        agrees = _agreement(pieces, a, b) >= SAME
        for one, other in zip(a[agrees].tolist(), b[agrees].tolist(), strict=True):
            agreeing.setdefault(one, []).append(other)
            agreeing.setdefault(other, []).append(one)
        for part, of in ((a, b), (b, a)):
            inside = _is_inside(pieces, part, of) & ~agrees
            for one, other in zip(part[inside].tolist(), of[inside].tolist(), strict=True):
                parts.setdefault(other, []).append(one)
    return agreeing, parts


def _is_inside(pieces: _Pieces, a: Tensor, b: Tensor) -> Tensor:
    """(P,) bool: whether ``a`` is a piece, or made of pieces, and lies mostly inside ``b``, which a window shows whole and
    which goes on at all open sides of ``a``.
    """
    part, whole, opened = pieces.boxes[a], pieces.boxes[b], pieces.open[a]
    goes_on = torch.cat([whole[:, :2] <= part[:, :2], whole[:, 2:] >= part[:, 2:]], dim=1) | ~opened
    inside = box_ops.cover(part[:, None], whole[:, None])[:, 0, 0] >= INSIDE
    is_part = opened.any(dim=1) | (pieces.windows[a] < 0)
    return is_part & ~pieces.open[b].any(dim=1) & (pieces.windows[b] >= 0) & goes_on.all(dim=1) & inside
