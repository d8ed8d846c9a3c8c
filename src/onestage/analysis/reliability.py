"""Whether scores can be believed: how far the share of hits among detections of a score is from that score.

Shape letters: P pictures, N detections, V bins of equal width from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onestage.errors import check_number
from onestage.metrics.matches import Matches, match
from onestage.metrics.tables import Bools, Floats, Ints, Table


@dataclass(frozen=True)
class ScoreBin:
    """The detections with a score from ``low`` to ``high``: how many, their mean score, and the share of hits among them.

    The last two are NaN without detections.
    """

    low: float
    high: float
    count: int
    score: float
    hits: float


@dataclass(frozen=True)
class Reliability:
    """D-ECE: the mean over all detections of the distance between share of hits and mean score of the bin, 0..1 (arXiv
    2004.13546).

    A hit is one by COCO's rules at the threshold ``iou``; ignored detections are left out; all classes are taken together.
    The error is NaN without detections.
    """

    iou: float
    error: float
    detections: int
    hits: int
    bins: tuple[ScoreBin, ...]


@dataclass(frozen=True)
class LocalisationReliability:
    """How far scores are from the IoU of the boxes, which is 0 for false alarms: means over classes, each 0..1 (arXiv
    2405.20459).

    LaECE: the distance of means in bins of the score. LaACE: the mean distance of a detection's IoU and score. Objects are
    matched from an IoU of 0 on. NaN if no class has objects and detections.
    """

    LaECE: float
    LaACE: float


def reliability(matches: Matches, *, iou: float = 0.5, bins: int = 10, rows: Bools | None = None) -> Reliability:
    """Measure D-ECE in V bins; the matches have the threshold ``iou`` among theirs. rows (N,): of these detections alone.

    A score on the edge of two bins belongs to the upper one, as in netcal. Raise ConfigError for less than one bin.
    """
    check_number("bins", bins, least=1, whole=True)
    kept = ~matches.ignored[matches.at(iou)] & (True if rows is None else rows)
    score, hit = matches.score[kept], matches.hit[matches.at(iou), kept]
    count, scores, hits = _sums(score, hit, np.linspace(0, 1, bins + 1), side="right")
    filled = np.where(count > 0, count, np.nan)
    table = zip(range(bins), count.tolist(), (scores / filled).tolist(), (hits / filled).tolist(), strict=True)
    return Reliability(
        iou=iou,
        error=float(np.abs(hits - scores).sum() / len(score)) if len(score) else float("nan"),
        detections=len(score),
        hits=int(hit.sum()),
        bins=tuple(ScoreBin(i / bins, (i + 1) / bins, *row) for i, *row in table),
    )


def localisation_reliability(table: Table, *, bins: int = 25, pictures: Bools | None = None) -> LocalisationReliability:
    """Measure LaECE_0 and LaACE_0. A score on the edge of two of the V bins belongs to the lower one, as in the authors'
    program. pictures (P,): in these alone.

    As there, a class without any distance takes no part in the mean. Raise ConfigError for less than one bin.
    """
    check_number("bins", bins, least=1, whole=True)
    matches = match(table, ious=(0.0,))
    overlap, distances = np.where(matches.hit[0], matches.overlap(0.0), 0), []
    there = np.ones(len(table.image_ids), np.bool_) if pictures is None else pictures
    counted = matches.counted & there[table.true.picture]
    judged = ~matches.ignored[0] & there[matches.picture]
    for k in np.unique(table.true.label[counted]).tolist():
        kept = np.flatnonzero(judged[matches.of(k)]) + matches.of(k).start
        if len(kept):
            score, iou = matches.score[kept], overlap[kept]
            _, scores, ious = _sums(score, iou, np.linspace(0, 1, bins + 1), side="left")
            distances.append((np.abs(ious - scores).sum() / len(kept), np.abs(iou - score).mean()))
    means = (np.array([d for d in column if d > 0]) for column in zip(*distances, strict=True)) if distances else ((), ())
    return LocalisationReliability(*(float(np.mean(m)) if len(m) else float("nan") for m in means))


def _sums(
    score: Floats, value: Floats | Bools, edges: Floats, *, side: Literal["left", "right"]
) -> tuple[Ints, Floats, Floats]:
    """For detections (N,): the number, the sum of the scores and the sum of the values in each bin, (V,) each.

    side: of an edge, the one from which a score on it is looked at; "right" puts it into the upper bin.
    """
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, score, side=side) - 1, 0, bins - 1)
    scores, values = (np.bincount(place, v, minlength=bins).astype(np.float64) for v in (score, value))
    return np.bincount(place, minlength=bins), scores, values
