"""An analysis in words: what the terminal and the page share."""

from __future__ import annotations

import math

from onestage.analysis.bootstrap import Estimate
from onestage.analysis.calibration import Calibrated
from onestage.analysis.errors import Errors, ErrorType
from onestage.analysis.olrp import Olrp
from onestage.analysis.reliability import Reliability
from onestage.analysis.thresholds import Threshold, Thresholds, Want
from onestage.metrics.wording import figure

MEANINGS = {
    "Cls": "a box of a wrong class",
    "Loc": "a box badly placed: its IoU with the object is below .5",
    "Both": "a box badly placed and of a wrong class",
    "Dupe": "a second box on an object that is found",
    "Bkg": "a box where there is no object",
    "Miss": "an object without any box",
}
"""The types of errors, for a reader who does not know them."""


def interval(estimate: Estimate, pictures: int | None = None) -> str:
    """The interval of a figure; a dash if it is not known. pictures: those with the objects that it is about."""
    if pictures == 1 and not math.isnan(estimate.value):
        return "one picture: no interval"
    return "-" if math.isnan(estimate.low) else f"{estimate.low:.3f} to {estimate.high:.3f}"


def sure(estimate: Estimate) -> str:
    """A figure, and its interval if that is known."""
    return figure(estimate.value) + ("" if math.isnan(estimate.low) else f" ({interval(estimate)})")


def by_cost(errors: Errors) -> list[ErrorType]:
    """The types of errors, the one that costs most first."""
    return sorted(errors.types, key=lambda kind: -kind.gain if math.isfinite(kind.gain) else 1.0)


def aim(want: Want) -> str:
    """What the thresholds are for."""
    return "the best F1" if want.figure == "f1" else f"a {want.figure} of at least {want.value:g}"


def threshold_line(threshold: Threshold, want: Want) -> str:
    """The score to deploy with, for all classes together, and what it gives."""
    if math.isnan(threshold.score.value):
        return f"no score gives {aim(want)}"
    parts = (("precision", threshold.precision), ("recall", threshold.recall), ("F1", threshold.f1))
    given = " · ".join(f"{name} {figure(part.value)}" for name, part in parts)
    return f"{threshold.score.value:.3f} for {aim(want)}: {given}"


def threshold_table(found: Thresholds, *, most: int | None = None) -> list[tuple[str, ...]]:
    """The head of a table of the scores to deploy with, the row for all classes, and that of each, at ``most`` so many.

    For a wanted precision or recall, the last column is the share of the draws in which some score has it.
    """
    head = ("class", "score", "95 % of draws", "precision", "recall", "F1", "draws with it")
    rows = [head, *(_threshold_row(row) for row in (found.overall, *found.per_class[:most]))]
    return [row[:-1] for row in rows] if found.want.figure == "f1" else rows


def _threshold_row(threshold: Threshold) -> tuple[str, ...]:
    figures = (figure(part.value) for part in (threshold.precision, threshold.recall, threshold.f1))
    between = interval(threshold.score, threshold.pictures)
    reached = "-" if math.isnan(threshold.reached) else f"{100 * threshold.reached:.0f} %"
    return threshold.name, figure(threshold.score.value), between, *figures, reached


def reliability_line(measured: Reliability, calibrated: Calibrated | None) -> str:
    """D-ECE, and what a calibration makes of it."""
    text = f"{figure(measured.error)}: how far the share of hits is from the score"
    if calibrated is None:
        return text
    return f"{text}; calibrated, on other pictures, {figure(calibrated.before.error)} becomes {figure(calibrated.after.error)}"


def olrp_line(olrp: Olrp) -> str:
    """Optimal LRP and its parts."""
    parts = (("loose boxes", olrp.loc), ("false alarms", olrp.false_alarms), ("missed", olrp.missed))
    return f"{figure(olrp.error)}: " + " · ".join(f"{name} {figure(part)}" for name, part in parts)
