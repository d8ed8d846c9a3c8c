"""Which objects an anchor reaches, and whether the objects that are missed are those that none reaches.

Shape letters: N objects of one picture, G true objects of all pictures, L levels of anchors. What the anchors reach is computed
where they are known; here it is plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onestage.analysis.kinds import Kinds
from onestage.analysis.slices import SCALES, fate
from onestage.metrics.tables import Bools, Floats, Table

REACHED = 0.5
"""The least IoU with which an anchor reaches an object."""
ROUNDING = 1e-6
"""Anchors are float32, so an IoU is known to about that."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the anchors of a detector lie to the N objects of one picture, in the order of its Truth.

    iou (N, L): the highest IoU of each object with an anchor of each level, in the detector's input; NaN if it is not known.
    small (N,): whether the object has a smaller area than every anchor.
    """

    iou: Floats
    small: Bools


@dataclass(frozen=True)
class ReachedPart:
    """Objects that have something in common, and how many of them an anchor reaches.

    small: of those that no anchor reaches, how many are smaller than every anchor. missed: of all, how many no detection finds.
    missed_unreached: of these, how many no anchor reaches.
    """

    name: str
    objects: int
    reached: int
    small: int
    missed: int
    missed_unreached: int

    @property
    def unreached(self) -> int:
        """The objects that no anchor reaches."""
        return self.objects - self.reached


@dataclass(frozen=True)
class Reach:
    """The objects that an anchor reaches with an IoU of at least ``iou``; missed: no detection of a score of at least ``score``
    finds them.

    classes: by label. sizes: the parts of the slices. levels: all objects, and what the anchors of this level alone reach, fine
    to coarse.
    """

    iou: float
    score: float
    total: ReachedPart
    classes: tuple[ReachedPart, ...]
    sizes: tuple[ReachedPart, ...]
    levels: tuple[ReachedPart, ...]


def reach_of(table: Table, kinds: Kinds, overlaps: Mapping[int | str, Overlaps], *, score: float) -> Reach:
    """Count the objects that anchors reach. overlaps: of each picture, by its id.

    Objects of pictures without overlaps are left out, and so are those whose overlaps are not known.
    """
    iou, small = _by_object(table, overlaps)
    known = kinds.counted & ~np.isnan(iou).any(1)
    missed = ~fate(table, kinds, score)[0]
    hits = iou >= REACHED - ROUNDING
    hit = np.asarray(hits.any(1))
    area, limits = table.true.area, SCALES["size"].limits
    size = np.searchsorted(limits, area, side="right")

    def part(name: str, which: Bools, reached: Bools) -> ReachedPart:
        mine, lost = known & which, known & which & missed
        counts = (mine, mine & reached, mine & ~reached & small, lost, lost & ~reached)
        return ReachedPart(name, *(int(rows.sum()) for rows in counts))

    everything = np.ones(len(known), np.bool_)
    return Reach(
        iou=REACHED,
        score=score,
        total=part("all", everything, hit),
        classes=tuple(part(name, table.true.label == k, hit) for k, name in enumerate(table.classes)),
        sizes=tuple(part(name, size == i, hit) for i, name in enumerate(SCALES["size"].names)),
        levels=tuple(part(f"level {i}", everything, hits[:, i]) for i in range(hits.shape[1])),
    )


def _by_object(table: Table, overlaps: Mapping[int | str, Overlaps]) -> tuple[Floats, Bools]:
    """The overlaps (G, L) and the small objects (G,) of all pictures; NaN and false where they are not known."""
    levels = max((row.iou.shape[1] for row in overlaps.values()), default=0)
    iou, small = np.full((len(table.true), max(levels, 1)), np.nan), np.zeros(len(table.true), np.bool_)
    ends = np.searchsorted(table.true.picture, np.arange(len(table.image_ids) + 1)).tolist()
    for p, image_id in enumerate(table.image_ids):
        rows = slice(ends[p], ends[p + 1])
        row = overlaps.get(image_id)
        if row is not None and row.iou.shape == (ends[p + 1] - ends[p], levels):
            iou[rows, :levels], small[rows] = row.iou, row.small
    return iou, small
