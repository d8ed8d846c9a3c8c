"""Assignment by the largest IoU, as in SSD, RetinaNet and EfficientDet.

Shape letters: B images, A anchors, N objects of the fullest image of a batch (the rows of other images are padded). Boxes are
xyxy input pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import require
from onestage.model.anchors.assignment import BACKGROUND, IGNORED, LevelCounts, runs, without_ignored


@dataclass(frozen=True)
class MaxIoUAssigner:
    """Every anchor takes the object it overlaps most: from ``positive`` IoU on it learns it, below ``negative`` it is
    background, between the two it is ignored.

    ``claim`` decides what else an object gets, however small its overlap (above 0):
    - "best": its best anchor. Where two objects want one anchor the later object gets it, as in torchvision's SSD on a CPU
      (models/detection/_utils.py, SSDMatcher), and the earlier goes without.
    - "first": likewise, but the earlier object gets it, as in EfficientDet's code (object_detection/argmax_matcher.py).
    - "greedy": an anchor of its own: the pair of largest IoU first, then both are out of the game (bipartite matching: SSD's
      original code; the d2l book, section 14.4). Ties go to the lower anchor, then the lower object.
    - "tied": every anchor that reaches the object's largest IoU learns the object that it overlaps most itself, which may be
      another one: RetinaNet in torchvision and detectron2 (models/detection/_utils.py, set_low_quality_matches_).
    - "none": nothing.
    Anchors of which ``ignore_cover`` or more lies inside an ignored region are IGNORED unless they learn an object.
    """

    positive: float = 0.5
    negative: float = 0.5
    claim: Literal["best", "first", "greedy", "tied", "none"] = "best"
    ignore_cover: float = 0.5

    def __post_init__(self) -> None:
        rule = "0 < negative <= positive <= 1 for the IoU of an anchor: without negatives nothing is background"
        require(0 < self.negative <= self.positive <= 1, rule, got=self)
        require(0 < self.ignore_cover <= 1, "ignore_cover is a part of the anchor, above 0 and up to 1", got=self)

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignore: Tensor, levels: LevelCounts = ()) -> Tensor:
        """anchors (A, 4), boxes (B, N, 4), objects and ignore (B, N) bool (both False: padding) -> matches (B, A) int64.

        On which level an anchor stands (``levels``) does not matter here. Memory is bounded: objects are compared a few at a
        time. An equal IoU with two objects goes to the lower index.
        """
        shape = (len(boxes), len(anchors))
        overlap = anchors.new_zeros(shape)
        nearest = torch.full(shape, BACKGROUND, dtype=torch.int64, device=anchors.device)
        most = boxes.new_zeros(objects.shape)
        wanted = torch.zeros_like(objects, dtype=torch.int64)
        for part, busy, iou in _overlaps(anchors, boxes, objects):
            value, index = iou.max(dim=1)
            nearest[busy] = torch.where(value > overlap[busy], index + part.start, nearest[busy])
            overlap[busy] = overlap[busy].maximum(value)
            most[busy, part], wanted[busy, part] = iou.max(dim=2)
        claims = most > 0
        matches = torch.where(overlap >= self.positive, nearest, torch.where(overlap < self.negative, BACKGROUND, IGNORED))
        if self.claim == "tied":
            matches = torch.where(_reached(anchors, boxes, claims, most), nearest, matches)
        elif self.claim == "greedy":
            matches = _claim(matches, *_greedy(anchors, boxes, claims, wanted), last=True)
        elif self.claim != "none":
            matches = _claim(matches, claims, wanted, last=self.claim == "best")
        return without_ignored(matches, anchors, boxes, ignore=ignore, least=self.ignore_cover)


def _overlaps(anchors: Tensor, boxes: Tensor, objects: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A few objects at a time: which (n of N), which images have any of them, and their IoU (b, n, A), -1 for no object.

    Images that have only padding there are left out: one crowd does not slow down a whole batch.
    """
    for part in runs(boxes.shape[1], len(boxes) * len(anchors)):
        busy = objects[:, part].any(dim=1)
        yield part, busy, box_ops.iou(boxes[busy, part], anchors).masked_fill_(~objects[busy, part, None], -1.0)


def _reached(anchors: Tensor, boxes: Tensor, claims: Tensor, most: Tensor) -> Tensor:
    """(B, A): whether an anchor reaches the largest IoU (most, (B, N)) of any claiming object."""
    reached = torch.zeros(len(boxes), len(anchors), dtype=torch.bool, device=anchors.device)
    for part, busy, iou in _overlaps(anchors, boxes, claims):
        reached[busy] |= ((iou == most[busy, part, None]) & claims[busy, part, None]).any(dim=1)
    return reached


def _claim(matches: Tensor, claims: Tensor, wanted: Tensor, *, last: bool) -> Tensor:
    """Give every claiming object (claims, (B, N) bool) the anchor it wants (wanted, (B, N)); the last or first of several
    wins.
    """
    none = -1 if last else claims.shape[1]
    index = torch.arange(claims.shape[1], device=claims.device).expand_as(wanted).masked_fill(~claims, none)
    claimed = torch.full_like(matches, none).scatter_reduce(1, wanted, index, "amax" if last else "amin")
    return torch.where(claimed != none, claimed, matches)


def _greedy(anchors: Tensor, boxes: Tensor, claims: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Bipartite matching by rounds: every pair that is the best left for both its sides would be taken by the greedy order too,
    so all of them are settled at once; two or three rounds do for real pictures.

    claims (B, N) bool: the objects that overlap any anchor; wanted (B, N): their best anchors. Returns who got an anchor, and
    which.
    """
    waiting, settled = claims.clone(), torch.zeros_like(claims)
    taken = torch.zeros(len(boxes), len(anchors), dtype=torch.bool, device=boxes.device)
    index = torch.arange(claims.shape[1], device=boxes.device)
    while bool(waiting.any()):
        now = waiting & (_best_rival(anchors, boxes, waiting=waiting, wanted=wanted) == index)
        image, row = now.nonzero(as_tuple=True)
        taken[image, wanted[image, row]] = True
        settled |= now
        wanted, waiting = _next_wish(anchors, boxes, waiting=waiting & ~now, taken=taken, wanted=wanted)
    return settled, wanted


def _best_rival(anchors: Tensor, boxes: Tensor, *, waiting: Tensor, wanted: Tensor) -> Tensor:
    """(B, N): for the anchor that each waiting object wants, the waiting object that overlaps it most."""
    best = torch.full_like(wanted, -1)
    for part in runs(boxes.shape[1], boxes.shape[0] * boxes.shape[1]):
        busy = waiting[:, part].any(dim=1)
        iou = box_ops.iou(boxes[busy], anchors[wanted[busy, part]])
        best[busy, part] = iou.masked_fill_(~waiting[busy, :, None], -1.0).argmax(dim=1)
    return best


def _next_wish(anchors: Tensor, boxes: Tensor, *, waiting: Tensor, taken: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The best free anchor of every waiting object; those that overlap no free anchor stop waiting."""
    wanted, waiting = wanted.clone(), waiting.clone()
    image, row = waiting.nonzero(as_tuple=True)
    for part in runs(len(image), len(anchors)):
        i, n = image[part], row[part]
        iou = box_ops.iou(boxes[i, n], anchors).masked_fill_(taken[i], -1.0)
        best, wanted[i, n] = iou.max(dim=1)
        waiting[i, n] = best > 0
    return wanted, waiting
