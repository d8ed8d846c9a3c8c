"""Optimal LRP: one error for missed objects, false alarms and loose boxes together, and its three parts (arXiv 2011.10772).

Shape letters: K classes, N detections of one class, by descending score. The error of the k detections of the best scores is
(sum over hits of (1 - IoU) / (1 - threshold) + false alarms + missed objects) / (hits + false alarms + missed objects).
Optimal LRP is its least value over k. 0 is perfect, 1 is useless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onestage.metrics.matches import Matches
from onestage.metrics.tables import Bools, Floats


@dataclass(frozen=True)
class Olrp:
    """The error of a class, or its mean over classes, each 0..1; NaN for a class without objects.

    loc: the mean of 1 - IoU of the hits. false_alarms: their share among the detections. missed: the share of the objects
    that are not found. loc is NaN without hits. score: the least score of the detections that the error is of, the threshold
    at which this class works best. It is NaN in a mean; and without any hit the error is 1, and score and false_alarms are
    NaN too.
    """

    error: float
    loc: float
    false_alarms: float
    missed: float
    score: float


@dataclass(frozen=True)
class OlrpFigures:
    """Optimal LRP at an IoU threshold: the mean over the classes with objects, and each class by its label."""

    iou: float
    mean: Olrp
    per_class: tuple[Olrp, ...]


NOTHING = Olrp(*[float("nan")] * 5)


def optimal_lrp(matches: Matches, *, iou: float = 0.5) -> OlrpFigures:
    """Compute optimal LRP from matches that have the threshold ``iou`` among theirs.

    A mean leaves out classes whose figure is NaN.
    """
    at, overlap, truths = matches.at(iou), matches.overlap(iou), matches.truths.tolist()
    rows = []
    for k, count in enumerate(truths):
        kept = ~matches.ignored[at, matches.of(k)]
        hit, score = matches.hit[at, matches.of(k)][kept], matches.score[matches.of(k)][kept]
        rows.append(_least(hit, overlap[matches.of(k)][kept], score=score, iou=iou, truths=count) if count else NOTHING)
    columns = np.array([[r.error, r.loc, r.false_alarms, r.missed] for r in rows]).reshape(-1, 4).T
    error, loc, false, missed = (float(known.mean()) if len(known := c[~np.isnan(c)]) else float("nan") for c in columns)
    return OlrpFigures(iou, Olrp(error, loc, false, missed, float("nan")), tuple(rows))


def _least(hit: Bools, overlap: Floats, *, score: Floats, iou: float, truths: int) -> Olrp:
    """The optimal error of one class with so many ``truths``, from its detections (N,) each; iou: the threshold of hits."""
    if not hit.any():
        return Olrp(1.0, float("nan"), float("nan"), 1.0, float("nan"))
    found = hit.cumsum()
    loose = np.where(hit, 1 - overlap, 0).cumsum()
    false = np.arange(1, len(hit) + 1) - found
    error = (loose / (1 - iou) + false + truths - found) / (truths + false)
    best = int(error.argmin())
    return Olrp(
        error=float(error[best]),
        loc=float(loose[best] / found[best]) if found[best] else float("nan"),
        false_alarms=float(false[best] / (best + 1)),
        missed=float(1 - found[best] / truths),
        score=float(score[best]),
    )
