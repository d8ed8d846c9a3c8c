"""The pictures on which two detectors differ most, drawn once for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onestage.analysis.compare import ComparedPicture, Comparison
from onestage.analysis.errors import PictureErrors
from onestage.analysis.worst import BUDGET, SIDE, Drawn, draw_outcome, outcome_of
from onestage.errors import DataError, counted
from onestage.metrics.report_files import as_jpeg
from onestage.structures import Detections, Truth

MOST = 6
"""So many pictures are drawn on which one of two detectors makes fewer errors, and as many on which the other one does."""


@dataclass(frozen=True)
class DrawnPair:
    """A picture as the first of two detectors sees it, and the second. better: the name of the one with fewer errors in it."""

    better: str
    caption: str
    first: Drawn
    second: Drawn


def draw_differing(
    comparison: Comparison,
    found: Mapping[str, Sequence[Detections]],
    truths: Sequence[Truth],
    *,
    most: int = MOST,
    budget: int = BUDGET,
) -> list[list[DrawnPair]]:
    """For each pairing draw the pictures on which its two detectors differ most.

    found: the detections of each, by its name, in the pictures that can be read. One that cannot is passed over. The more
    pairings there are, the fewer pictures each has, so that all JPEGs fit into ``budget`` bytes.
    """
    truth_of = {truth.image_id: truth for truth in truths}
    views = [_View.of(comparison, number, found[system.name]) for number, system in enumerate(comparison.systems)]
    share = max(len(comparison.pairings), 1)
    result = []
    for number, view in enumerate(views[1:], start=1):
        rows = [row for row in comparison.differing(number) if row.image_id in truth_of and row.image_id in view.found]
        second_better = [row for row in rows if row.errors(number) < row.errors(0)]
        first_better = [row for row in rows if row.errors(number) > row.errors(0)]
        limits = {"most": max(1, most // share), "budget": budget // share // 2}
        drawn = (_draw_side(side, views[0], view, truth_of, **limits) for side in (second_better, first_better))
        result.append([pair for side in drawn for pair in side])
    return result


@dataclass(frozen=True)
class _View:
    """What one detector, given by its number, makes of the pictures: its letters and its detections by picture."""

    number: int
    name: str
    score: float
    classes: tuple[str, ...]
    letters: dict[int | str, PictureErrors]
    found: dict[int | str, Detections]

    @classmethod
    def of(cls, comparison: Comparison, number: int, found: Sequence[Detections]) -> _View:
        system = comparison.systems[number]
        letters = {one.image_id: one for one in system.errors.pictures}
        score = system.threshold.score.value
        return cls(number, system.name, score, comparison.classes, letters, {one.image_id: one for one in found})

    def draw(self, row: ComparedPicture, truth: Truth) -> Drawn:
        """The picture with the hits, missed objects and false alarms. Raise DataError if it cannot be read."""
        found, counts = self.found[row.image_id], row.counts[self.number]
        outcome = outcome_of(self.letters[row.image_id], found, self.score)
        picture = draw_outcome(found, truth, outcome, names=self.classes)
        objects, alarms = counted(row.objects, "object"), counted(counts.false_alarms, "false alarm")
        return Drawn(self.name, f"{counts.found:,} of {objects} found, {alarms}", as_jpeg(picture, side=SIDE))


def _draw_side(
    rows: Sequence[ComparedPicture],
    first: _View,
    second: _View,
    truths: Mapping[int | str, Truth],
    *,
    most: int,
    budget: int,
) -> Iterator[DrawnPair]:
    """Draw pictures, all of them better by the same detector, until there are enough or the ``budget`` is spent."""
    number = 0
    for row in rows:
        if number == most:
            return
        truth = truths[row.image_id]
        try:
            drawn = first.draw(row, truth), second.draw(row, truth)
        except DataError:
            continue
        budget -= sum(len(one.jpeg) for one in drawn)
        if budget < 0:
            return
        number += 1
        better = min((first, second), key=lambda view: row.errors(view.number))
        yield DrawnPair(better.name, Path(truth.path).name or str(row.image_id), *drawn)
