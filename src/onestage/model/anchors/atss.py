"""ATSS: the IoU that an anchor needs depends on the anchors around each object.

Shape letters: B images, A anchors, L levels, N objects of the fullest image, n boxes, M candidates of one object, ... any
dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.max_iou import BACKGROUND, LevelCounts, runs, without_ignored
from onestage.model.codec import Part
from onestage.model.limits import Cells, SomeShare

_SAME_PLACE = 1e-2
"""In pixels. The shapes of one cell have the same centre, except for rounding."""


@dataclass(frozen=True)
class ATSSAssigner(Part):
    """Adaptive training sample selection (arXiv 1912.02424, section 4.1, algorithm 1). The candidates of an object are, on each
    level, the anchors in the ``top_k`` cells whose centres are nearest to the object's centre. A candidate learns the object if
    its IoU reaches the mean of all candidates plus their standard deviation, and its centre lies inside the object. If several
    objects want an anchor, it learns the one with the largest IoU, and of equal IoUs the first object.

    An anchor that learns no object is ignored if ``ignore_cover`` of its area or more lies inside an ignored region.
    """

    top_k: Cells = 9
    ignore_cover: SomeShare = 0.5

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignore: Tensor, levels: LevelCounts) -> Tensor:
        """anchors (A, 4), boxes (B, N, 4), objects and ignore (B, N) bool -> matches (B, A) int64. A row of neither is padding.

        levels: the number of anchors on each map.
        """
        image, row = objects.nonzero(as_tuple=True)
        wanted = boxes[image, row]
        candidates = self._candidates(anchors, wanted, levels)
        overlap = box_ops.paired_iou(wanted[:, None], anchors[candidates])
        several = overlap.shape[1] > 1 and len(overlap) > 0
        spread = overlap.std(1, correction=1) if several else overlap.new_zeros(len(overlap))
        good = overlap >= (overlap.mean(1) + spread)[:, None]
        good &= _centre_inside(anchors[candidates], wanted[:, None])

        item, column = good.nonzero(as_tuple=True)
        cell, value, row = image[item] * len(anchors) + candidates[item, column], overlap[item, column], row[item]
        count, none = len(boxes) * len(anchors), boxes.shape[1]
        best = value.new_full((count,), -1.0).scatter_reduce(0, cell, value, "amax")
        wins = value == best[cell]
        first = row.new_full((count,), none).scatter_reduce(0, cell[wins], row[wins], "amin")
        matches = torch.where(first < none, first, BACKGROUND).view(len(boxes), len(anchors))
        return without_ignored(matches, anchors, boxes, ignore=ignore, least=self.ignore_cover)

    def _candidates(self, anchors: Tensor, boxes: Tensor, levels: LevelCounts) -> Tensor:
        """anchors (A, 4) and boxes (n, 4) -> (n, M) indices of anchors. Of equally near cells the first come first."""
        places = box_ops.to_cxcywh(anchors)[:, :2].split(list(levels))
        starts = [sum(levels[:i]) for i in range(len(levels))]
        shapes = [int(((place - place[0]).abs().amax(1) < _SAME_PLACE).sum()) for place in places]
        centres, parts = box_ops.to_cxcywh(boxes)[:, :2], []
        for run in runs(len(boxes), len(anchors)) or [slice(0, 0)]:  # without boxes, an empty table
            nearest = [_nearest(centres[run], p[::s], self.top_k) for p, s in zip(places, shapes, strict=True)]
            cells = zip(nearest, shapes, starts, strict=True)
            of_levels = [(n[:, :, None] * s + torch.arange(s, device=n.device)).flatten(1) + start for n, s, start in cells]
            parts.append(torch.cat(of_levels, dim=1))
        return torch.cat(parts)


def _nearest(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """(n, 2) and (cells, 2) -> (n, at most count): the nearest cells to each point. A stable sort, as topk leaves the order of
    equal ones open.
    """
    distance = (points[:, None] - centres).square().sum(2)
    return distance.argsort(dim=1, stable=True)[:, :count]


def _centre_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """anchors (..., 4) and boxes (..., 4) -> (...) bool: whether the centre of the anchor lies inside the box."""
    centre = box_ops.to_cxcywh(anchors)[..., :2]
    return (torch.cat([centre - boxes[..., :2], boxes[..., 2:] - centre], dim=-1) > 0).all(-1)
