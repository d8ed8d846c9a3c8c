"""What each detection and each true object is, after TIDE (arXiv 2008.08115, section 2.2): a hit, or which error.

Shape letters: N detections, G true objects, P pictures, K classes. The rules are those of the original program, tidecv 1.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onestage.analysis.pairs import best_of, in_one_picture, one_to_one, overlapping
from onestage.metrics.matches import Matches, overlap
from onestage.metrics.tables import Bools, Floats, Ints, Table, ranks

Average: TypeAlias = Literal["coco", "original"]
"""Whose rules of matching and averaging are followed, where COCO and TIDE's original program differ."""

HIT, CLS, LOC, BOTH, DUPE, BKG, DROPPED = range(7)
"""What a detection is. DROPPED: beyond the number of detections that are looked at in a picture."""

LETTERS = np.array(list("TCLODB-"))
"""The letter of each of these numbers."""

PICTURE_LIMIT = 100
"""The original program looks at so many detections of a picture, of all classes together. COCO takes as many of each class."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """What the N detections and G objects of a table are, by the rules of ``average`` and the limits iou and background.

    kind (N,) int8: HIT, CLS ... DROPPED. ignored (N,): it has no part in AP, as most of it lies in a crowd, or as it takes an
    ignored object; such a detection has a kind nevertheless. target (N,): the row of the object that a HIT takes, or that a CLS
    or LOC is meant for, or -1. counted (G,): the objects that count. found (G,): those that a HIT takes. mender (G,): of an
    object that is not found the best-scored CLS or LOC meant for it, or -1.
    """

    average: Average
    iou: float
    background: float
    kind: NDArray[np.int8]
    ignored: Bools
    target: Ints
    counted: Bools
    found: Bools
    mender: Ints

    @property
    def missed(self) -> Bools:
        """(G,) the objects that count, are not found, and for which no CLS and no LOC is meant."""
        return self.counted & ~self.found & (self.mender < 0)


@dataclass(frozen=True, eq=False)
class _Taken:
    """What matching gave: the detections looked at (N,), the object that each one takes or -1 (N,), which are ignored (N,)."""

    seen: Bools
    truth: Ints
    ignored: Bools


def kinds_of(matches: Matches, *, average: Average = "coco", iou: float = 0.5, background: float = 0.1) -> Kinds:
    """Tell what each detection is. The first rule that fits decides:

    1. HIT: it takes an object. 2. LOC: its highest IoU with objects of its class is from ``background`` to ``iou``. 3. CLS: its
    highest IoU with objects of other classes is at least ``iou``. 4. DUPE: its highest IoU with objects of its class is above
    ``iou``; a better detection has taken that object. 5. BKG: no IoU is above ``background``. 6. BOTH.

    iou: one of the thresholds of the matches for COCO's rules. Crowds and ignored objects are no objects here. The original
    program knows no ignored objects: for it these count.
    """
    table = matches.table
    counted = matches.counted if average == "coco" else ~table.true.crowd
    best, at = np.full((2, len(table.found)), -1.0), np.full((2, len(table.found)), -1)
    for mine, theirs in in_one_picture(table, np.arange(len(table.found)), np.flatnonzero(counted)):
        value, same = overlap(table, mine, theirs), table.found.label[mine] == table.true.label[theirs]
        for i, allowed in enumerate((same, ~same)):
            best_of(mine, value, allowed, best=best[i], at=at[i], theirs=theirs)
    taken = _taken_by_coco(matches, iou) if average == "coco" else _taken_by_original(table, counted, iou)
    kind = _by_rule(taken, best, iou=iou, background=background)
    target = np.select([kind == HIT, kind == LOC, kind == CLS], [taken.truth, at[0], at[1]], -1)
    found = np.zeros(len(counted), np.bool_)
    found[target[kind == HIT]] = True
    mender = _menders(table, kind, target, found)
    return Kinds(average, iou, background, kind, taken.ignored & (kind != HIT), target, counted, found, mender)


def _by_rule(taken: _Taken, best: Floats, *, iou: float, background: float) -> NDArray[np.int8]:
    """(N,) the kind of each detection; best (2, N): its highest IoU with objects of its class and of others, -1 for none."""
    same, other = best
    rules = [
        (~taken.seen, DROPPED),
        (taken.truth >= 0, HIT),
        ((background <= same) & (same <= iou), LOC),
        (other >= iou, CLS),
        (same > iou, DUPE),
        (best.max(0, initial=-1) <= background, BKG),
    ]
    return np.select([holds for holds, _ in rules], [kind for _, kind in rules], BOTH).astype(np.int8)


def _taken_by_coco(matches: Matches, iou: float) -> _Taken:
    t = matches.at(iou)
    seen = np.ones(len(matches.table.found), np.bool_)
    return _Taken(seen, np.where(matches.hit[t], matches.truth[t], -1), matches.ignored[t])


def _taken_by_original(table: Table, counted: Bools, iou: float) -> _Taken:
    """Match as tidecv does. In the order of their scores detections take the free object of their class with the highest IoU.

    Of equal IoU the first object is taken. Of a crowd a detection must have more than ``iou`` of its area inside.
    """
    found, true = table.found, table.true
    order = np.lexsort((found.row, found.picture))  # the rows of a picture stand in the order of their scores
    seen = np.zeros(len(found), np.bool_)
    seen[order] = ranks(found.picture[order]) < PICTURE_LIMIT
    truth = np.full(len(found), -1)
    mine, theirs, value = overlapping(table, np.flatnonzero(seen), np.flatnonzero(counted), iou, same_class=True)
    turn = np.lexsort((theirs, -value, mine))
    mine, theirs = mine[turn], theirs[turn]
    taken = one_to_one(mine, theirs)
    truth[mine[taken]] = theirs[taken]
    ignored = np.zeros(len(found), np.bool_)
    mine, _, value = overlapping(table, np.flatnonzero(seen), np.flatnonzero(true.crowd), iou, same_class=True)
    ignored[mine[value > iou]] = True
    return _Taken(seen, truth, ignored)


def _menders(table: Table, kind: NDArray[np.int8], target: Ints, found: Bools) -> Ints:
    """(G,) for each object that is not ``found`` (G,) the best-scored LOC or CLS (N,) whose ``target`` (N,) it is, or -1."""
    rows = np.flatnonzero((kind == LOC) | (kind == CLS))
    rows = rows[~found[target[rows]]]
    rows = rows[np.lexsort((table.found.row[rows], -table.found.score[rows]))][::-1]
    mender = np.full(len(found), -1)
    mender[target[rows]] = rows  # the best is written last
    return mender
