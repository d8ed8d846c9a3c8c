"""Whether one detector is better than another on the same pictures, or whether they cannot be told apart.

Shape letters: P pictures, K classes, T IoU thresholds, B draws.
Both get the same draws of the pictures, so what makes a draw easy or hard for both is not in the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onestage.analysis.bootstrap import DRAWS, Estimate, drawn_ap, estimate, over_classes
from onestage.analysis.thresholds import find_thresholds
from onestage.errors import ConfigError
from onestage.metrics.ap import average_precision
from onestage.metrics.matches import SIZES, Matches, match
from onestage.metrics.tables import Floats, Ints, tabulate
from onestage.structures import Detections, Truth

MOST_PICTURES = 50
"""So many pictures on which two detectors differ are listed."""


@dataclass(frozen=True)
class Difference:
    """A figure of two detectors, each 0..1, and the second less the first with its interval; NaN if nothing can be found."""

    name: str
    first: float
    second: float
    difference: Estimate

    @property
    def told_apart(self) -> bool:
        """Whether the whole interval lies on one side of 0. If not, the two cannot be told apart by these pictures."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class PictureDifference:
    """The errors that two detectors make in a picture: objects not found and false alarms, at IoU .5, among the detections that
    reach the score of the best F1 of each detector."""

    image_id: int | str
    first: int
    second: int


@dataclass(frozen=True)
class Pairing:
    """Two detectors compared, by their names.

    figures: AP, AP50, and the AP of small, medium and large objects. per_class: the AP of each class; by chance alone, one
    class in 20 is told apart that is not. pictures: those on which the numbers of errors differ most, the most first.
    """

    first: str
    second: str
    figures: tuple[Difference, ...]
    per_class: tuple[Difference, ...]
    pictures: tuple[PictureDifference, ...]


@dataclass(frozen=True)
class Comparison:
    """Every two of some detectors compared, in the order of their names as given; from so many draws of all pictures."""

    names: tuple[str, ...]
    pairings: tuple[Pairing, ...]
    pictures: int
    draws: int
    seed: int


def compare(
    systems: Mapping[str, Sequence[Detections]],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare the detections of two or more detectors, by name, on the same pictures; ``classes`` are the K names, by label.

    Raise ConfigError for less than two, and DataError if the pictures are not the same, or if a label is none of the classes.
    """
    if len(systems) < 2:
        raise ConfigError("there is nothing to compare", got=", ".join(systems) or "none", expected="two detectors or more")
    measured = [_measure(found, truths, classes, draws=draws, seed=seed) for found in systems.values()]
    pairings = tuple(
        _pairing((a, b), (systems_a, systems_b), classes)
        for (a, systems_a), (b, systems_b) in itertools.combinations(zip(systems, measured, strict=True), 2)
    )
    return Comparison(tuple(systems), pairings, len(truths), draws, seed)


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one detector has: by the name of a figure the value and the draws, (B,); by class the values, (K,), and the draws,
    (B, K); and the errors in each picture, (P,).
    """

    figures: dict[str, tuple[float, Floats]]
    by_class: tuple[Floats, Floats]
    image_ids: tuple[int | str, ...]
    errors: Ints


def _measure(
    found: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str], *, draws: int, seed: int
) -> _Measured:
    table = tabulate(found, truths, classes)
    figures: dict[str, tuple[float, Floats]] = {}
    for size in SIZES:
        matches = match(table, size=size)
        ap, drawn = average_precision(matches), drawn_ap(matches, draws=draws, seed=seed)
        figures["AP" if size == "all" else f"AP{size[0]}"] = ap.mean, over_classes(drawn.mean(1))
        if size == "all":
            figures["AP50"] = ap.at(matches.at(0.5)), over_classes(drawn[:, matches.at(0.5)])
            by_class = ap.by_class.mean(0), drawn.mean(1)
            errors = picture_errors(matches)
    return _Measured(figures, by_class, table.image_ids, errors)


def picture_errors(matches: Matches) -> Ints:
    """(P,) the objects not found and the false alarms in each picture, at IoU .5 and the score of the best F1 over all
    classes.
    """
    score = find_thresholds(matches, draws=0).overall.score.value
    at, pictures = matches.at(0.5), len(matches.table.image_ids)
    shown = matches.score >= score  # none, if the score is NaN
    hits = np.bincount(matches.picture[shown & matches.hit[at]], minlength=pictures)
    false = np.bincount(matches.picture[shown & ~matches.hit[at] & ~matches.ignored[at]], minlength=pictures)
    return np.bincount(matches.table.true.picture[matches.counted], minlength=pictures) - hits + false


def _pairing(names: tuple[str, str], measured: tuple[_Measured, _Measured], classes: Sequence[str]) -> Pairing:
    first, second = measured
    figures = [_difference(name, first.figures[name], second.figures[name]) for name in first.figures]
    (values_a, drawn_a), (values_b, drawn_b) = first.by_class, second.by_class
    per_class = [
        _difference(name, (values_a[k], drawn_a[:, k]), (values_b[k], drawn_b[:, k])) for k, name in enumerate(classes)
    ]
    most = np.argsort(-np.abs(first.errors - second.errors), kind="stable")[:MOST_PICTURES].tolist()
    pictures = [
        PictureDifference(first.image_ids[p], int(first.errors[p]), int(second.errors[p]))
        for p in most
        if first.errors[p] != second.errors[p]
    ]
    return Pairing(*names, tuple(figures), tuple(per_class), tuple(pictures))


def _difference(name: str, first: tuple[float, Floats], second: tuple[float, Floats]) -> Difference:
    """One figure of two detectors: the value and the draws, (B,), of each."""
    (a, drawn_a), (b, drawn_b) = first, second
    return Difference(name, float(a), float(b), estimate(b - a, drawn_b - drawn_a))
