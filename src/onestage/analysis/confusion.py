"""Which class is taken for which: the confusion matrix, with background as one more class.

Shape letters: K classes, M pairs, G true objects, N detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onestage.analysis.pairs import one_to_one, overlapping
from onestage.metrics.tables import Ints, Table


@dataclass(frozen=True)
class Cell:
    """So many objects of one class that were detected as another. true, predicted: labels 0..K-1; K is the background."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True)
class Confusion:
    """The cells of the matrix that are not 0, the largest first.

    Detections of a score of at least ``score`` are paired with objects of an IoU above ``iou``. An object with no detection
    counts as predicted background, a detection with no object as true background.
    """

    classes: tuple[str, ...]
    score: float
    iou: float
    cells: tuple[Cell, ...]

    @property
    def matrix(self) -> NDArray[np.int64]:
        """(K + 1, K + 1), rows true, columns predicted, the background last."""
        result = np.zeros((len(self.classes) + 1,) * 2, np.int64)
        for cell in self.cells:
            result[cell.true, cell.predicted] = cell.count
        return result

    @property
    def mistaken(self) -> tuple[Cell, ...]:
        """The cells of two different classes, neither of them the background, the largest first."""
        background = len(self.classes)
        return tuple(c for c in self.cells if c.true != c.predicted and background not in (c.true, c.predicted))


def confusion(table: Table, *, score: float = 0.3, iou: float = 0.5) -> Confusion:
    """Pair detections and objects, one with one, and count the classes of each pair.

    Pairs of the same class are made first, then those of the highest IoU, as supervision's ConfusionMatrix does. Crowds and
    ignored objects do not count; nor does a detection with no object if more than ``iou`` of it lies in a crowd, or if it
    overlaps an ignored object by more than ``iou``, of any class.
    """
    found, true, background = table.found, table.true, len(table.classes)
    rows = np.flatnonzero(found.score >= score)
    mine, theirs = _pair(table, rows, iou)
    left = np.zeros(len(found), np.bool_)
    left[rows] = True
    left[mine] = False
    excused, _, value = overlapping(table, np.flatnonzero(left), np.flatnonzero(true.ignore), iou)
    left[excused[value > iou]] = False
    missed = ~true.ignore
    missed[theirs] = False
    pairs = np.concatenate(
        [
            np.column_stack([true.label[theirs], found.label[mine]]),
            np.column_stack([true.label[missed], np.full(missed.sum(), background)]),
            np.column_stack([np.full(left.sum(), background), found.label[left]]),
        ]
    )
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = np.column_stack([cells, counts])[order].tolist()
    return Confusion(table.classes, score, iou, tuple(Cell(*row) for row in listed))


def _pair(table: Table, found: Ints, iou: float) -> tuple[Ints, Ints]:
    """The pairs (M,), (M,) that are made of some detections and the objects that count."""
    mine, theirs, value = overlapping(table, found, np.flatnonzero(~table.true.ignore), iou)
    another = table.found.label[mine] != table.true.label[theirs]
    turn = np.lexsort((mine, theirs, -value, another))
    turn = turn[value[turn] > iou]
    kept = turn[one_to_one(mine[turn], theirs[turn])]
    return mine[kept], theirs[kept]
