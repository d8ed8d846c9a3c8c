"""In which pictures AP is lost: each false alarm and each object that is not found has its share.

Shape letters: N detections, G true objects, P pictures, K classes, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onestage.metrics.matches import Matches
from onestage.metrics.tables import Bools, Floats


@dataclass(frozen=True)
class PictureLoss:
    """What one picture costs, 0..1: by its false alarms, and by its objects that are not found. found: of its objects, at the
    lowest of the IoU thresholds.
    """

    image_id: int | str
    false_alarms: float
    missed: float
    objects: int
    found: int
    detections: int

    @property
    def lost(self) -> float:
        """The AP that the picture costs."""
        return self.false_alarms + self.missed


def losses_by_picture(matches: Matches) -> tuple[PictureLoss, ...]:
    """Divide what is missing to an AP of 1 among the pictures, the worst picture first; equal ones by their ids.

    Here AP is the mean over all objects of the precision at the detection that finds them, and 0 for one that is not found:
    COCO's AP before precision is raised to its best value at any higher recall, so all shares together are a little more than
    1 - AP. A precision of h / r has r - h false alarms before it, each of which costs 1 / r.
    """
    table = matches.table
    wrong, missed = np.zeros(len(matches.score)), np.zeros(len(table.true))
    starts, truths = matches.starts, matches.truths
    cases = len(matches.ious) * max(int((truths > 0).sum()), 1)
    for k in np.flatnonzero(truths).tolist():
        rows = slice(starts[k], starts[k + 1])
        for t in range(len(matches.ious)):
            hit, kept = matches.hit[t, rows], ~matches.ignored[t, rows]
            wrong[rows] += _cost_of_false_alarms(hit, kept) / (truths[k] * cases)
    for t in range(len(matches.ious)):
        lost = matches.counted.copy()
        lost[matches.truth[t, matches.hit[t]]] = False
        missed[lost] += 1 / (truths[table.true.label[lost]] * cases)
    return _by_picture(matches, wrong, missed)


def _cost_of_false_alarms(hit: Bools, kept: Bools) -> Floats:
    """(N,) for a class with its best detection first: what each false alarm takes from the precision at all hits after it."""
    share = np.where(hit, 1 / np.maximum(np.cumsum(kept), 1), 0.0)
    after = np.cumsum(share[::-1])[::-1]
    return np.where(kept & ~hit, after, 0.0)


def _by_picture(matches: Matches, wrong: Floats, missed: Floats) -> tuple[PictureLoss, ...]:
    table, pictures = matches.table, len(matches.table.image_ids)
    first = int(np.argmin(matches.ious))
    columns = (
        np.bincount(table.found.picture, wrong, minlength=pictures).astype(np.float64).tolist(),  # of nothing it gives int64
        np.bincount(table.true.picture, missed, minlength=pictures).astype(np.float64).tolist(),
        np.bincount(table.true.picture[matches.counted], minlength=pictures).tolist(),
        np.bincount(table.found.picture[matches.hit[first]], minlength=pictures).tolist(),
        table.counts.tolist(),
    )
    rows = [PictureLoss(*row) for row in zip(table.image_ids, *columns, strict=True)]
    return tuple(sorted(rows, key=lambda row: -row.lost))
