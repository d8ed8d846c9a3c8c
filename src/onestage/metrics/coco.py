"""COCO's figures: average precision and recall, of all objects and of each class. They equal pycocotools' to the last bit.

Shape letters: K classes, T = 10 IoU thresholds (.50, .55 ... .95), R = 101 recalls (0, .01 ... 1).
Definition: https://cocodataset.org/#detection-eval; pycocotools cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onestage.metrics.ap import RECALLS, AveragePrecision, average_precision, mean_known
from onestage.metrics.matches import Matches, Size, match
from onestage.metrics.tables import Table, tabulate
from onestage.structures import Detections, Truth

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve figures, in COCO's order."""

IOUS = tuple((50 + 5 * t) / 100 for t in range(10))
"""The T thresholds."""


@dataclass(frozen=True)
class CocoClass:
    """One class: the number of its objects (without crowds and ignored objects) and of its detections, and its figures.

    The figures are NaN for a class without objects.
    """

    name: str
    objects: int
    found: int
    AP: float
    AP50: float
    AR: float


@dataclass(frozen=True, eq=False)
class CocoMetrics:
    """The twelve figures, each 0..1. A figure is NaN if there is nothing to find; COCO prints -1 there.

    AP: the mean over IoU .50 to .95. AP50, AP75: at one IoU. s, m, l: objects of an area below 32 x 32 pixels, below 96 x 96,
    and above. AR1, AR10, AR100: recall with at most 1, 10 or 100 detections of a class in a picture.
    precision (T, R, K): the best precision at a recall of at least RECALLS[r], all sizes; NaN for a class without objects.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    pictures: int
    per_class: tuple[CocoClass, ...]
    precision: NDArray[np.float64] = field(repr=False)

    @property
    def objects(self) -> int:
        """The objects of all classes, without crowds and ignored objects."""
        return sum(row.objects for row in self.per_class)

    @property
    def figures(self) -> dict[str, float]:
        """The twelve figures by name, in COCO's order."""
        return {name: getattr(self, name) for name in FIGURES}

    def curve(self, iou: float | None = None, label: int | None = None) -> NDArray[np.float64]:
        """The precision at each of RECALLS, (R,).

        iou: one of IOUS; by default the mean over all of them. label: a class; by default the mean over those with objects.
        """
        precision = self.precision if iou is None else self.precision[[IOUS.index(iou)]]
        known = ~np.isnan(precision[0, 0]) if label is None else np.arange(precision.shape[2]) == label
        return precision[:, :, known].mean((0, 2)) if known.any() else np.full(len(RECALLS), np.nan)


def coco_metrics(detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]) -> CocoMetrics:
    """Compute COCO's figures for detections against truths of the same pictures; ``classes`` are the K names, by label.

    A crowd region matches any number of detections, each by the share of its area inside the region. None of them counts.
    An ignored object matches one detection, which does not count either. (pycocotools loses that flag and counts it.)
    Raise DataError as ``tabulate`` does.
    """
    table = tabulate(detections, truths, classes)
    matches = match(table)
    every = average_precision(matches)
    found = np.bincount(np.concatenate([np.zeros(0, int), *(d.labels.cpu() for d in detections)]), minlength=len(classes))
    counts = zip(classes, matches.truths.tolist(), found.tolist(), strict=True)
    return CocoMetrics(
        **_figures(matches, every),
        pictures=len(table.image_ids),
        per_class=tuple(CocoClass(*row, *_of_class(every, k)) for k, row in enumerate(counts)),
        precision=every.precision,
    )


def coco_figures(table: Table) -> dict[str, float]:
    """COCO's twelve figures by name, in its order; NaN if there is nothing to find."""
    matches = match(table)
    return _figures(matches, average_precision(matches))


def _figures(matches: Matches, every: AveragePrecision) -> dict[str, float]:
    """The twelve figures. every: what the matches of all sizes give."""
    sizes: tuple[Size, ...] = ("small", "medium", "large")
    by_size = [average_precision(match(matches.table, size=size)) for size in sizes]
    aps = [every.mean, every.at(matches.at(0.5)), every.at(matches.at(0.75)), *(ap.mean for ap in by_size)]
    few = [average_precision(matches, limit=limit) for limit in (1, 10)]
    return dict(zip(FIGURES, [*aps, *(ap.mean_recall for ap in (*few, every, *by_size))], strict=True))


def _of_class(every: AveragePrecision, label: int) -> tuple[float, float, float]:
    """AP, AP50 and AR of a class."""
    precision = every.precision[:, :, label]
    return mean_known(precision), mean_known(precision[0]), mean_known(every.recall[:, label])
