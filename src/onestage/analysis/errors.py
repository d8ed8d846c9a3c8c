"""Which errors a detector makes, and how much AP each kind costs, after TIDE (arXiv 2008.08115, sections 2.2 to 2.4).

Shape letters: N detections, G true objects, K classes. All figures are 0..1. They equal those of the original program, tidecv
1.0.1, or are averaged as COCO does: over the classes that have objects, so that AP is COCO's AP50.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from onestage.analysis import kinds as kind_of
from onestage.analysis.kinds import LETTERS, Average, Kinds
from onestage.metrics.ap import RECALLS, curve
from onestage.metrics.tables import Bools, Floats, Ints, Table

TYPES = {"Cls": kind_of.CLS, "Loc": kind_of.LOC, "Both": kind_of.BOTH, "Dupe": kind_of.DUPE, "Bkg": kind_of.BKG}
"""The errors of detections: the class is wrong; the place is; both are; the object was found before; there is no object."""

GRIDS: dict[Average, Floats] = {"coco": RECALLS, "original": np.arange(101) / 100}
"""The recalls at which precision is read. The two differ in the last bit."""

MISS = "Miss"
"""The error of an object: it is not found, and no Cls and no Loc is meant for it."""


@dataclass(frozen=True)
class ErrorType:
    """One kind of error: how often it happens, and what AP would be gained if it never did.

    gain: only these errors are mended. gain_in_turn: those of all types before it are mended, too; NaN if it has no turn.
    """

    name: str
    count: int
    gain: float
    gain_in_turn: float = math.nan


@dataclass(frozen=True)
class PictureErrors:
    """What every detection and every object of one picture is.

    found: a letter for each detection, in the order of its Detections. T a hit, C Cls, L Loc, O Both, D Dupe, B Bkg; a small
    letter: it has no part in AP, because of a crowd or an ignored object; - not looked at. true: a letter for each object. t
    found, f not found but a Cls or Loc is meant for it, M Miss, i not counted. targets: the number of the object that each
    detection takes (T) or is meant for (C, L), or -1.
    """

    image_id: int | str
    found: str
    true: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Errors:
    """The errors of a detector at one IoU threshold, and what each type of them costs.

    AP at ``iou``, 0..1; NaN if there is nothing to find. AP_by_class (K,): its parts, NaN for a class outside of the mean.
    types: Cls, Loc, Both, Dupe, Bkg, Miss, in the order in which they are mended in turn. AP_mended: with all of them mended.
    false_positives: gained if every hit had a better score than every other detection. false_negatives: gained if there were no
    objects but those found. Mending may cost AP, by rounding or because classes leave the mean; the gain of a type is then 0.
    ignored: errors with no part in AP. classes: those in the mean. pictures: in the order of their ids.
    """

    average: Average
    iou: float
    background: float
    AP: float
    AP_by_class: tuple[float, ...]
    AP_mended: float
    types: tuple[ErrorType, ...]
    false_positives: ErrorType
    false_negatives: ErrorType
    hits: int
    ignored: int
    classes: int
    pictures: tuple[PictureErrors, ...]


def errors_of(table: Table, kinds: Kinds) -> Errors:
    """Count the errors of each type, and measure what AP would be without them.

    By the original program's rules, the mean includes classes that have detections and no objects, with an AP of 0. By COCO's
    rules, the mean runs over the classes with objects.
    """
    mending = _Mending.of(table, kinds)
    by_class = mending.by_class()
    base = _mean(by_class)
    types: list[ErrorType] = []
    before = base
    for name in (*TYPES, MISS):
        after = mending.ap([name, *(row.name for row in types)])
        count = int(kinds.missed.sum()) if name == MISS else int((kinds.kind == TYPES[name]).sum())
        alone = mending.ap((name,))
        types.append(ErrorType(name, count, max(alone - base, 0.0), max(after - before, 0.0)))
        before = after
    positives, negatives = mending.without_false_positives(), mending.without_false_negatives()
    wrong = (kinds.kind != kind_of.HIT) & (kinds.kind != kind_of.DROPPED)
    hits = int((kinds.kind == kind_of.HIT).sum())
    lost = int(kinds.counted.sum()) - hits
    return Errors(
        average=kinds.average,
        iou=kinds.iou,
        background=kinds.background,
        AP=base,
        AP_by_class=tuple(by_class.tolist()),
        AP_mended=before,
        types=tuple(types),
        false_positives=ErrorType("FalsePos", int((wrong & ~kinds.ignored).sum()), positives - base),
        false_negatives=ErrorType("FalseNeg", lost, negatives - base),
        hits=hits,
        ignored=int((wrong & kinds.ignored).sum()),
        classes=int(np.count_nonzero(~np.isnan(by_class))),
        pictures=pictures_of(table, kinds),
    )


@dataclass(frozen=True, eq=False)
class _Mending:
    """AP of the same detections with some errors mended. place (N,): of each detection in the order of their scores."""

    table: Table
    kinds: Kinds
    place: Ints

    @classmethod
    def of(cls, table: Table, kinds: Kinds) -> _Mending:
        """Order the detections by score; of equal scores, by picture and then by row."""
        place = np.empty(len(table.found), np.int64)
        place[np.lexsort((table.found.row, table.found.picture, -table.found.score))] = np.arange(len(place))
        return cls(table, kinds, place)

    def ap(self, mended: Collection[str]) -> float:
        """AP with the errors of these types mended."""
        return _mean(self.by_class(mended))

    def by_class(self, mended: Collection[str] = ()) -> Floats:
        """(K,) the AP of each class with the errors of these types mended; NaN outside of the mean.

        The mender of an object becomes a hit of the object's class. All others of the type are taken out. An object has one
        mender, the best-scored of its Cls and Loc together. An object that is Miss is taken out.
        """
        kinds = self.kinds
        gone = np.isin(kinds.kind, [kind_of.DROPPED, *(TYPES[name] for name in mended if name != MISS)])
        menders = kinds.mender[kinds.mender >= 0]
        menders = menders[gone[menders]]
        label, hit = self.table.found.label.copy(), kinds.kind == kind_of.HIT
        label[menders] = self.table.true.label[kinds.target[menders]]
        hit[menders] = True
        objects = kinds.counted & ~kinds.missed if MISS in mended else kinds.counted
        return self._by_class(label, hit, hit | ~(gone | kinds.ignored), self.place, objects=objects)

    def without_false_positives(self) -> float:
        """AP if every hit had a better score than every other detection."""
        hit, label = self.kinds.kind == kind_of.HIT, self.table.found.label
        return _mean(self._by_class(label, hit, self._listed, ~hit, objects=self.kinds.counted))

    def without_false_negatives(self) -> float:
        """AP if there were no objects but those that are found."""
        hit, label = self.kinds.kind == kind_of.HIT, self.table.found.label
        return _mean(self._by_class(label, hit, self._listed, self.place, objects=self.kinds.found))

    @property
    def _listed(self) -> Bools:
        """(N,) the detections that have a part in AP."""
        return ~(self.kinds.ignored | (self.kinds.kind == kind_of.DROPPED))

    def _by_class(self, label: Ints, hit: Bools, listed: Bools, key: Ints | Bools, *, objects: Bools) -> Floats:
        """(K,) the AP of the ``listed`` (N,) detections, in the order of ``key`` (N,); NaN for a class outside of the mean.

        label (N,): the class; hit (N,): whether it finds an object; objects (G,): those that are to be found.
        """
        rows = np.flatnonzero(listed)
        rows = rows[np.argsort(label[rows] * len(label) + key[rows], kind="stable")]  # almost in order already: this is fast
        label, hit = label[rows], hit[rows]
        classes = len(self.table.classes)
        truths = np.bincount(self.table.true.label[objects], minlength=classes)
        starts = np.searchsorted(label, np.arange(classes + 1))
        taking_part = truths > 0 if self.kinds.average == "coco" else (truths > 0) | (np.diff(starts) > 0)
        aps = np.where(taking_part, 0.0, math.nan)
        for k in np.flatnonzero(truths).tolist():
            mine = hit[starts[k] : starts[k + 1]]
            aps[k] = curve(mine, np.ones_like(mine), int(truths[k]), recalls=GRIDS[self.kinds.average])[0].mean()
        return aps


def _mean(aps: Floats) -> float:
    """The mean of the AP (K,) of the classes that have one; NaN if none has."""
    known = aps[~np.isnan(aps)]
    return float(known.mean()) if len(known) else math.nan


def pictures_of(table: Table, kinds: Kinds) -> tuple[PictureErrors, ...]:
    """The letters and targets of every picture, in the order of the table's pictures."""
    found, true = table.found, table.true
    start = np.cumsum([0, *table.counts])
    place = start[found.picture] + found.row
    letters, targets = np.full(start[-1], LETTERS[kind_of.DROPPED]), np.full(start[-1], -1)
    small = kinds.ignored & (kinds.kind != kind_of.DROPPED)
    letters[place] = np.where(small, np.char.lower(LETTERS)[kinds.kind], LETTERS[kinds.kind])
    targets[place] = np.append(true.row, -1)[kinds.target]
    of_true = np.select([~kinds.counted, kinds.found, kinds.missed], ["i", "t", "M"], "f")
    first = np.searchsorted(true.picture, np.arange(len(start)))
    texts = "".join(letters.tolist()), "".join(of_true.tolist())
    return tuple(
        PictureErrors(
            image_id,
            texts[0][start[p] : start[p + 1]],
            texts[1][first[p] : first[p + 1]],
            tuple(targets[start[p] : start[p + 1]].tolist()),
        )
        for p, image_id in enumerate(table.image_ids)
    )
