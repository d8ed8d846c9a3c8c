"""COCO's average precision and recall from matches; equal to pycocotools to the last digit.

Shape letters: P pictures, K classes, T IoU thresholds, R = 101 recalls (0, .01 ... 1), N detections, H hits of one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onestage.metrics.matches import Matches
from onestage.metrics.tables import Bools, Floats

RECALLS = np.linspace(0, 1, 101)
"""(R,) the recalls at which precision is read."""


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Average precision and recall, each 0..1, of matches with T thresholds.

    precision (T, R, K): the best precision at a recall of at least RECALLS[r]. recall (T, K). Both are NaN for a class without
    counted objects, and such a class takes no part in any mean.
    """

    precision: Floats
    recall: Floats

    @property
    def by_class(self) -> Floats:
        """(T, K) the AP of each class at each threshold."""
        return self.precision.mean(1)

    @property
    def mean(self) -> float:
        """AP over all thresholds and classes; NaN if no class has objects."""
        return mean_known(self.precision)

    def at(self, threshold: int) -> float:
        """The AP over all classes at one threshold, by its number, 0..T - 1."""
        return mean_known(self.precision[threshold])

    @property
    def mean_recall(self) -> float:
        """AR, the recall over all thresholds and classes; NaN if no class has objects."""
        return mean_known(self.recall)


def average_precision(matches: Matches, *, limit: int | None = None) -> AveragePrecision:
    """Compute AP and AR as pycocotools does (cocoeval.py, accumulate).

    limit: count only so many detections of a class in a picture, the best ones. COCO's AR1 and AR10 are the recalls with 1 and
    with 10.
    """
    thresholds, truths, starts = len(matches.ious), matches.truths, matches.starts
    precision = np.full((thresholds, len(RECALLS), len(truths)), np.nan)
    recall = np.full((thresholds, len(truths)), np.nan)
    for k in np.flatnonzero(truths):
        rows = slice(starts[k], starts[k + 1])
        within = None if limit is None else matches.table.found.rank[rows] < limit
        for t in range(thresholds):
            hit, kept = matches.hit[t, rows], ~matches.ignored[t, rows]
            if within is not None:
                hit, kept = hit & within, kept & within
            precision[t, :, k], recall[t, k] = curve(hit, kept, int(truths[k]))
    return AveragePrecision(precision, recall)


def curve(hit: Bools, kept: Bools, truths: int, *, recalls: Floats = RECALLS) -> tuple[Floats, float]:
    """The precision at ``recalls``, (R,), and the final recall, for one class at one threshold.

    hit (N,), kept (N,): not ignored. Only hits are looked at: after one, precision falls and recall stays until the next.
    """
    at = np.flatnonzero(hit)
    if not len(at):
        return np.zeros(len(recalls)), 0.0
    found = np.arange(1.0, len(at) + 1)
    precision = found / (np.cumsum(kept)[at] + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    recall = found / truths
    return np.append(best, 0.0)[np.searchsorted(recall, recalls)], float(recall[-1])


def mean_known(values: Floats) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
