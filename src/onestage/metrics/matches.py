"""Which detection finds which object, by COCO's rules, for all pictures, classes and IoU thresholds at once.

Shape letters: P pictures, K classes, T IoU thresholds, N detections, G true objects, M pairs of a detection and an object of
its class in its picture. pycocotools (cocoeval.py, evaluateImg) visits each picture and class; here round r handles the r-th
detection of every picture and class together. The matches are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onestage.metrics.tables import Bools, Floats, Ints, Table, ranks

IOUS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's thresholds, computed as pycocotools does: some differ from .55, .6 and so on in the last bit."""

Size = Literal["all", "small", "medium", "large"]
SIZES: dict[Size, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""The smallest and the largest area of each of COCO's sizes, in square pixels; both limits belong to it."""

BLOCK = 1 << 20
"""So many pairs are held at a time, if no picture has more of one class."""


@dataclass(frozen=True, eq=False)
class Matches:
    """What each of N detections is at each of T thresholds: a hit, ignored, or else a false alarm.

    Rows are those of ``table.found``: class after class, in COCO's order. ious: the T thresholds. size: the objects looked at.
    hit (T, N): it takes an object that counts. ignored (T, N): it takes a crowd, an ignored object or one of another size, or
    it takes none and is of another size. truth (T, N) int32: the row in ``table.true`` of the object it takes, or -1.
    counted (G,): the objects that count.
    """

    table: Table
    ious: tuple[float, ...]
    size: Size
    hit: Bools
    ignored: Bools
    truth: NDArray[np.int32]
    counted: Bools

    @property
    def score(self) -> Floats:
        """(N,)"""
        return self.table.found.score

    @property
    def picture(self) -> Ints:
        """(N,) the picture's number, 0..P-1: a place in ``table.image_ids``."""
        return self.table.found.picture

    @property
    def row(self) -> Ints:
        """(N,) the number of the detection in its picture's Detections."""
        return self.table.found.row

    @property
    def truths(self) -> Ints:
        """(K,) the counted objects of each class."""
        return np.bincount(self.table.true.label[self.counted], minlength=len(self.table.classes))

    @property
    def starts(self) -> Ints:
        """(K + 1,) the rows of class k are starts[k] to starts[k + 1]."""
        return np.searchsorted(self.table.found.label, np.arange(len(self.table.classes) + 1))

    def of(self, label: int) -> slice:
        """The rows of a class."""
        start, stop = np.searchsorted(self.table.found.label, [label, label + 1]).tolist()
        return slice(start, stop)

    def at(self, iou: float) -> int:
        """The row of hit, ignored and truth for an IoU threshold, given to about six digits."""
        (places,) = np.nonzero(np.isclose(self.ious, iou, rtol=0, atol=1e-6))
        return int(places[0])

    def overlap(self, iou: float) -> Floats:
        """(N,) the IoU of each detection with the object that it takes at the threshold ``iou``; 0 if it takes none."""
        truth = self.truth[self.at(iou)]
        rows = np.flatnonzero(truth >= 0)
        result = np.zeros(len(truth))
        result[rows] = overlap(self.table, rows, truth[rows])
        return result


def match(table: Table, *, ious: Sequence[float] = IOUS, size: Size = "all") -> Matches:
    """Match the detections of a table by COCO's rules at each of the T thresholds ``ious``.

    In a picture, the detections of a class choose in the order of their scores. Each takes the free object of its class with
    the highest IoU, if that reaches the threshold; of equal ones the last. Crowds, ignored objects and objects of another
    ``size`` come after all that count, and take no part in the figures. A crowd may be taken often, and its IoU is the share of
    the detection inside it.
    """
    found, true = table.found, table.true
    low, high = SIZES[size]
    counted = ~true.ignore & (true.area >= low) & (true.area <= high)
    floor = np.minimum(ious, 1 - 1e-10)  # as pycocotools: an IoU of 1 less a rounding error reaches a threshold of 1
    truth = np.full((len(ious), len(found)), -1, np.int32)
    free = np.ones((len(ious), len(true)), np.bool_)
    for pairs in _pairs(table, counted, floor.min()):
        _take(pairs, floor, true.crowd, free=free, truth=truth)
    taken = truth >= 0
    hit = taken & np.append(counted, False)[truth]
    outside = (found.area < low) | (found.area > high)
    return Matches(table, tuple(map(float, ious)), size, hit, np.where(taken, ~hit, outside), truth, counted)


class Pairs(NamedTuple):
    """M pairs: rows of ``table.found``, rows of ``table.true``, their IoU, and the round in which the detection chooses.

    They are in the order of the rounds; those of one detection stand together, the object it likes best first.
    """

    found: Ints
    true: Ints
    iou: Floats
    turn: Ints


def _pairs(table: Table, counted: Bools, least: float) -> Iterator[Pairs]:
    """Yield all pairs whose IoU is at least ``least``, about BLOCK at a time; a picture's pairs of a class come together."""
    found, true = table.found, table.true
    group = found.picture * len(table.classes) + found.label
    group_of_true = true.picture * len(table.classes) + true.label
    by_group = np.argsort(group_of_true, kind="stable")
    keys = group_of_true[by_group]
    first, stop = np.searchsorted(keys, group, "left"), np.searchsorted(keys, group, "right")
    rows = np.flatnonzero(stop > first)
    rows = rows[np.argsort(group[rows], kind="stable")]
    for part in np.split(rows, _cuts(group[rows], (stop - first)[rows])):
        count = (stop - first)[part]
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        mine, theirs = np.repeat(part, count), by_group[np.repeat(first[part], count) + place]
        iou = overlap(table, mine, theirs)
        near = iou >= least
        mine, theirs, iou = mine[near], theirs[near], iou[near]
        head = np.flatnonzero(np.diff(mine, prepend=-1))
        turn = np.repeat(ranks(group[mine[head]]), np.diff(head, append=len(mine)))
        order = np.lexsort((-theirs, -iou, ~counted[theirs], mine, turn))
        yield Pairs(mine[order], theirs[order], iou[order], turn[order])


def _cuts(group: Ints, count: Ints) -> Ints:
    """Where to cut sorted rows (N,) with so many pairs each, so that a part has about BLOCK pairs and no group is divided."""
    head = np.flatnonzero(np.diff(group, prepend=-1))
    block = np.cumsum(count)[head] // BLOCK
    return head[np.flatnonzero(np.diff(block)) + 1]


def _take(pairs: Pairs, floor: Floats, crowd: Bools, *, free: Bools, truth: NDArray[np.int32]) -> None:
    """Let the detections choose, round by round. Write into ``truth`` (T, N) what they take, into ``free`` (T, G) what is left.

    In one round each picture and class has at most one detection, so no two of them want the same object.
    """
    rounds = np.searchsorted(pairs.turn, np.arange(pairs.turn.max(initial=-1) + 2))
    for start, stop in itertools.pairwise(rounds.tolist()):
        found, true = pairs.found[start:stop], pairs.true[start:stop]
        possible = free[:, true] & (pairs.iou[start:stop] >= floor[:, None])  # (T, M)
        head = np.flatnonzero(np.diff(found, prepend=-1))
        best = np.minimum.reduceat(np.where(possible, np.arange(len(found)), len(found)), head, axis=1)
        threshold, chooser = np.nonzero(best < len(found))
        taken = true[best[threshold, chooser]]
        truth[threshold, found[head[chooser]]] = taken
        free[threshold, taken] = crowd[taken]


def overlap(table: Table, found: Ints, true: Ints) -> Floats:
    """(M,) the IoU of pairs of rows; with a crowd, the share of the detection inside it. Rounded as pycocotools rounds."""
    a, b = table.found.box[found], table.true.box[true]
    side_a, side_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    inside = np.minimum(a[:, :2] + side_a, b[:, :2] + side_b) - np.maximum(a[:, :2], b[:, :2])
    common = inside[:, 0] * inside[:, 1]
    area = side_a[:, 0] * side_a[:, 1]
    union = np.where(table.true.crowd[true], area, area + side_b[:, 0] * side_b[:, 1] - common)
    touching = (inside > 0).all(1)
    return np.divide(common, union, out=np.zeros(len(found)), where=touching)
