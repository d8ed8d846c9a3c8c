"""Whether one detector is better than another on the same pictures, or whether they cannot be told apart.

Shape letters: P pictures, K classes, T IoU thresholds, B draws, G true objects.
Both get the same draws of the pictures, so what makes a draw easy or hard for both is not in the difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onestage.analysis.bootstrap import DRAWS, Estimate, drawn_ap, estimate, over_classes, pictures_with
from onestage.analysis.errors import Errors, errors_of
from onestage.analysis.kinds import kinds_of
from onestage.analysis.losses import losses_by_picture
from onestage.analysis.plain import from_plain, to_plain
from onestage.analysis.thresholds import Threshold, find_thresholds
from onestage.errors import ConfigError, DataError
from onestage.files import Json
from onestage.metrics.ap import average_precision
from onestage.metrics.matches import SIZES, Matches, match
from onestage.metrics.tables import Floats, Ints, Table, tabulate
from onestage.structures import Detections, Truth

LEAST = 0.0005
"""An interval that comes nearer to 0 holds it: with three digits, its end is shown as 0."""
FEWEST = 6
"""Fewer pictures than these tell nothing apart: by chance alone all of 5 favour the same detector in 1 of 16 cases."""


@dataclass(frozen=True)
class Difference:
    """A figure of two detectors, each 0..1, and the second less the first with its interval; NaN if nothing can be found.

    pictures: those that have an object for this figure. Of only a few the interval says nothing; of one there is none.
    """

    name: str
    first: float
    second: float
    difference: Estimate
    pictures: int

    @property
    def told_apart(self) -> bool:
        """Whether the whole interval lies on one side of 0, for enough pictures. If not, the two cannot be told apart."""
        return self.pictures >= FEWEST and (self.difference.low >= LEAST or self.difference.high <= -LEAST)


@dataclass(frozen=True)
class Pairing:
    """Two detectors compared, by their names.

    figures: AP, AP50, AP75, and the AP of small, medium and large objects. per_class: the AP of each class; by chance alone,
    one class in 20 is told apart that is not.
    """

    first: str
    second: str
    figures: tuple[Difference, ...]
    per_class: tuple[Difference, ...]


@dataclass(frozen=True)
class System:
    """One of the detectors. threshold: the score of its best F1 over all classes, and what that gives, without intervals.
    errors: of all its detections, by type.
    """

    name: str
    threshold: Threshold
    errors: Errors


@dataclass(frozen=True)
class PictureCounts:
    """What a detector makes of a picture, at IoU .5 and the score of its best F1. lost: the AP that the picture costs, with
    detections of any score.
    """

    found: int
    false_alarms: int
    lost: float


@dataclass(frozen=True)
class ComparedPicture:
    """A picture, its objects that count, and what each detector makes of it, in the order of their names."""

    image_id: int | str
    objects: int
    counts: tuple[PictureCounts, ...]

    def errors(self, number: int) -> int:
        """The objects that a detector, given by its number, does not find, and its false alarms."""
        counts = self.counts[number]
        return self.objects - counts.found + counts.false_alarms


@dataclass(frozen=True)
class Comparison:
    """The first of some detectors compared with each other one, from so many draws of all pictures.

    data: the name of the pictures. classes: the K names, by label. pictures: in the order of their ids.
    """

    data: str
    classes: tuple[str, ...]
    systems: tuple[System, ...]
    pairings: tuple[Pairing, ...]
    pictures: tuple[ComparedPicture, ...]
    draws: int
    seed: int

    def differing(self, number: int) -> list[ComparedPicture]:
        """The pictures on which a detector, given by its number, makes another number of errors than the first one.

        Those on which the numbers differ most come first; of equal ones those on which the AP that is lost differs most.
        """
        rows = [row for row in self.pictures if row.errors(number) != row.errors(0)]
        return sorted(rows, key=lambda row: (-abs(row.errors(number) - row.errors(0)), -abs(_lost_by(row, number))))

    def to_json(self) -> str:
        """The comparison as JSON text; null stands for a figure that is NaN."""
        return json.dumps(to_plain(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that ``to_json`` wrote. Raise DataError if the text is none."""
        try:
            content: Json = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = "this is not the content of a comparison"
            raise DataError(what, got=error, expected="JSON, as to_json writes it") from None
        return from_plain(cls, content)


def _lost_by(row: ComparedPicture, number: int) -> float:
    return row.counts[number].lost - row.counts[0].lost


def compare(
    systems: Mapping[str, Sequence[Detections]],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    data: str = "",
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare the detections of two or more detectors, by name, on the same pictures; ``classes`` are the K names, by label.

    data: a name for the pictures. Raise ConfigError for less than two detectors, and DataError if the pictures are not the
    same, or if a label is none of the classes.
    """
    if len(systems) < 2:
        raise ConfigError("there is nothing to compare", got=", ".join(systems) or "none", expected="two detectors or more")
    tables = [tabulate(found, truths, classes) for found in systems.values()]
    measured = [_measure(name, table, draws=draws, seed=seed) for name, table in zip(systems, tables, strict=True)]
    ids, objects = tables[0].image_ids, measured[0].objects.tolist()
    rows = zip(ids, objects, zip(*(one.counts for one in measured), strict=True), strict=True)
    return Comparison(
        data=data,
        classes=tuple(classes),
        systems=tuple(one.system for one in measured),
        pairings=tuple(_pairing(measured[0], other, classes) for other in measured[1:]),
        pictures=tuple(ComparedPicture(*row) for row in rows),
        draws=draws,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one detector has: by the name of a figure the value, the draws, (B,), and the number of pictures; by class the
    values, (K,), the draws, (B, K), and the numbers of pictures, (K,); the objects of each picture, (P,), and its counts.
    """

    system: System
    figures: dict[str, tuple[float, Floats, int]]
    by_class: tuple[Floats, Floats, Ints]
    objects: Ints
    counts: list[PictureCounts]


def _measure(name: str, table: Table, *, draws: int, seed: int) -> _Measured:
    figures: dict[str, tuple[float, Floats, int]] = {}
    for size in SIZES:
        matches = match(table, size=size)
        ap, drawn = average_precision(matches), drawn_ap(matches, draws=draws, seed=seed)
        pictures = len(np.unique(table.true.picture[matches.counted]))
        figures["AP" if size == "all" else f"AP {size}"] = ap.mean, over_classes(drawn.mean(1)), pictures
        if size == "all":
            for iou in (0.5, 0.75):
                at = matches.at(iou)
                figures[f"AP{100 * iou:.0f}"] = ap.at(at), over_classes(drawn[:, at]), pictures
            every, by_class = matches, (ap.by_class.mean(0), drawn.mean(1), pictures_with(matches))
    threshold = find_thresholds(every, draws=0).overall
    system = System(name, threshold, errors_of(table, kinds_of(every)))
    objects = np.bincount(table.true.picture[every.counted], minlength=len(table.image_ids))
    return _Measured(system, figures, by_class, objects, _counts_of(every, threshold.score.value))


def _counts_of(matches: Matches, score: float) -> list[PictureCounts]:
    """The counts of each of the P pictures, from the detections of at least that score; from none, if it is NaN."""
    at, ids = matches.at(0.5), matches.table.image_ids
    shown, hit = matches.score >= score, matches.hit[at]
    found = np.bincount(matches.picture[shown & hit], minlength=len(ids))
    false = np.bincount(matches.picture[shown & ~hit & ~matches.ignored[at]], minlength=len(ids))
    lost = {row.image_id: row.lost for row in losses_by_picture(matches)}
    rows = zip(found.tolist(), false.tolist(), (lost[image_id] for image_id in ids), strict=True)
    return [PictureCounts(*row) for row in rows]


def _pairing(first: _Measured, second: _Measured, classes: Sequence[str]) -> Pairing:
    figures = [
        _difference(name, (value, drawn), second.figures[name][:2], pictures)
        for name, (value, drawn, pictures) in first.figures.items()
    ]
    (values_a, drawn_a, pictures), (values_b, drawn_b, _) = first.by_class, second.by_class
    per_class = [
        _difference(name, (values_a[k], drawn_a[:, k]), (values_b[k], drawn_b[:, k]), int(pictures[k]))
        for k, name in enumerate(classes)
    ]
    return Pairing(first.system.name, second.system.name, tuple(figures), tuple(per_class))


def _difference(name: str, first: tuple[float, Floats], second: tuple[float, Floats], pictures: int) -> Difference:
    """One figure of two detectors: the value and the draws, (B,), of each."""
    (a, drawn_a), (b, drawn_b) = first, second
    return Difference(name, float(a), float(b), estimate(b - a, drawn_b - drawn_a, pictures), pictures)
