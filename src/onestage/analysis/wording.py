"""An analysis in words: what the terminal and the page share."""

from __future__ import annotations

import math

from onestage.analysis.bootstrap import Estimate
from onestage.analysis.errors import Errors, ErrorType
from onestage.analysis.olrp import Olrp
from onestage.analysis.thresholds import Threshold, Want
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


def interval(estimate: Estimate) -> str:
    """The interval of a figure; a dash if it is not known."""
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


def olrp_line(olrp: Olrp) -> str:
    """Optimal LRP and its parts."""
    parts = (("loose boxes", olrp.loc), ("false alarms", olrp.false_alarms), ("missed", olrp.missed))
    return f"{figure(olrp.error)}: " + " · ".join(f"{name} {figure(part)}" for name, part in parts)
