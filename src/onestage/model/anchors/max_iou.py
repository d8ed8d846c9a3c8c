"""Which anchor learns which object: the interface of all assigners, and assignment by the largest IoU.

Shape letters: B images, A anchors, N objects of the fullest image of a batch (the rows of other images are padded), P anchors
that learn an object. Boxes are xyxy input pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from onestage import boxes as box_ops
from onestage.model.codec import NotAbove, Part
from onestage.model.limits import SomeShare
from onestage.structures import Targets

LevelCounts = Sequence[int]
"""The number of anchors on each map, fine to coarse. The rows of one map follow those of the map before."""

BACKGROUND = -1
"""In matches: the anchor learns background."""
IGNORED = -2
"""In matches: the anchor learns nothing. It overlaps an object by half, or a region that is marked as not to be counted."""

_PAIRS_AT_ONCE = 1 << 21
"""How many pairs of anchor and object are compared at a time: about 120 MB, whatever the number of objects."""
_PAIRS_IN_CACHE = 1 << 17
"""The same on a CPU where nothing is gained by more: half a megabyte for each number of a pair."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The objects of a batch and the anchors that learn them, from which a loss is computed.

    anchors (A, 4); matches (B, A) int64: the index of an object of that image, BACKGROUND or IGNORED; boxes (B, N, 4) and
    labels (B, N) int64: the objects, padded to the number in the fullest image.
    """

    anchors: Tensor
    matches: Tensor
    boxes: Tensor
    labels: Tensor

    def positives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, anchor and object index of the positives, (P,) each, in row order."""
        image, anchor = (self.matches >= 0).nonzero(as_tuple=True)
        return image, anchor, self.matches[image, anchor]


class Assigner(Protocol):
    """The interface of an assigner: a frozen dataclass with this call."""

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignore: Tensor, levels: LevelCounts) -> Tensor:
        """anchors (A, 4), boxes (B, N, 4), objects and ignore (B, N) bool -> matches (B, A) int64. A row of neither is padding.

        levels: the number of anchors on each map.
        """
        ...


def assign(assigner: Assigner, anchors: Tensor, targets: Sequence[Targets], *, levels: LevelCounts = ()) -> Assignment:
    """Pad the targets of B images to boxes (B, N, 4) and labels (B, N), and match them with anchors (A, 4).

    levels: the number of anchors on each map. By default all are on one map.
    """
    levels = levels or (len(anchors),)
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)
    labels = pad_sequence([t.labels for t in targets], batch_first=True)
    state = pad_sequence([1 + t.ignore.int() for t in targets], batch_first=True)  # 0: padding, 1: object, 2: not to be counted
    matches = assigner(anchors, boxes, objects=state == 1, ignore=state == 2, levels=levels)
    return Assignment(anchors, matches, boxes, labels)


@dataclass(frozen=True)
class MaxIoUAssigner(Part):
    """Every anchor is compared with the object that it overlaps most. From an IoU of ``positive`` on it learns the object,
    below ``negative`` it is background, and between the two it is ignored.

    ``claim`` decides which further anchors an object gets, with any overlap above 0:
    - "best": its best anchor. If two objects want one anchor, the later object gets it and the earlier gets none, as in
      torchvision's SSD on a CPU (models/detection/_utils.py, SSDMatcher).
    - "first": its best anchor, but the earlier object gets it, as in EfficientDet's code (object_detection/argmax_matcher.py).
    - "greedy": one anchor for each object. The pair of largest IoU comes first, and both are then settled (bipartite matching:
      SSD's original code; the d2l book, section 14.4). Ties go to the lower anchor, then to the lower object.
    - "tied": every anchor that reaches the largest IoU of an object learns the object that it overlaps most. This may be
      another object: RetinaNet in torchvision and detectron2 (models/detection/_utils.py, set_low_quality_matches_).
    - "none": no further anchors.
    An anchor that learns no object is IGNORED if ``ignore_cover`` of its area or more lies inside an ignored region.
    """

    positive: SomeShare = 0.5
    negative: Annotated[SomeShare, NotAbove("positive", "no anchor is background and learns an object")] = 0.5
    claim: Literal["best", "first", "greedy", "tied", "none"] = "best"
    ignore_cover: SomeShare = 0.5

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignore: Tensor, levels: LevelCounts = ()) -> Tensor:
        """anchors (A, 4), boxes (B, N, 4), objects and ignore (B, N) bool -> matches (B, A) int64. A row of neither is padding.

        ``levels`` does not matter here. Memory is bounded: a few objects are compared at a time. Of objects with equal IoU the
        lower index counts.
        """
        shape = (len(boxes), len(anchors))
        overlap = anchors.new_zeros(shape)
        nearest = torch.full(shape, BACKGROUND, dtype=torch.int64, device=anchors.device)
        most = torch.full_like(boxes[..., 0], -torch.inf)
        wanted = torch.zeros_like(objects, dtype=torch.int64)
        for busy, part, run, iou in _overlaps(anchors, boxes, objects):
            value, index = iou.max(dim=1)
            nearest[busy, run] = torch.where(value > overlap[busy, run], index + part.start, nearest[busy, run])
            overlap[busy, run] = overlap[busy, run].maximum(value)
            value, index = iou.max(dim=2)
            wanted[busy, part] = torch.where(value > most[busy, part], index + run.start, wanted[busy, part])
            most[busy, part] = most[busy, part].maximum(value)
        claims = most > 0
        matches = torch.where(overlap >= self.positive, nearest, torch.where(overlap < self.negative, BACKGROUND, IGNORED))
        if self.claim == "tied":
            matches = torch.where(_reached(anchors, boxes, claims, most), nearest, matches)
        elif self.claim == "greedy":
            matches = _claim(matches, *_greedy(anchors, boxes, claims, wanted), last=True)
        elif self.claim != "none":
            matches = _claim(matches, claims, wanted, last=self.claim == "best")
        return without_ignored(matches, anchors, boxes, ignore=ignore, least=self.ignore_cover)


def without_ignored(matches: Tensor, anchors: Tensor, boxes: Tensor, *, ignore: Tensor, least: float) -> Tensor:
    """matches (B, A), anchors (A, 4), boxes (B, N, 4) and ignore (B, N) -> matches (B, A) with IGNORED for anchors that learn
    no object and have ``least`` of their area or more inside an ignored box.
    """
    if not bool(ignore.any()):
        return matches
    covered = anchors.new_zeros(matches.shape)
    for part in runs(boxes.shape[1], len(boxes) * len(anchors)):
        busy = ignore[:, part].any(dim=1)
        cover = box_ops.cover(anchors, boxes[busy, part]).mT.masked_fill(~ignore[busy, part, None], 0.0)
        covered[busy] = covered[busy].maximum(cover.amax(dim=1))
    return matches.masked_fill((matches < 0) & (covered >= least), IGNORED)


def runs(rows: int, partners: int, *, limit: int | None = None) -> list[slice]:
    """Cut rows into runs so short that comparing the rows of one run with all their partners takes bounded memory.

    limit: pairs at a time.
    """
    step = max(1, (limit or _PAIRS_AT_ONCE) // max(1, partners))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _overlaps(anchors: Tensor, boxes: Tensor, objects: Tensor) -> Iterator[tuple[Tensor, slice, slice, Tensor]]:
    """A few objects and anchors at a time: which images have any of the objects (b of B), which objects (n of N), which anchors
    (a of A), and the IoU (b, n, a), -1 for padding. On a CPU the anchors are so few that all stays in the processor's cache.

    Images with only padding are left out, so that one image with many objects does not slow down a whole batch.
    """
    for part in runs(boxes.shape[1], len(boxes) * len(anchors)):
        busy = objects[:, part].any(dim=1)
        some, padding = boxes[busy, part], ~objects[busy, part, None]
        limit = _PAIRS_IN_CACHE if anchors.device.type == "cpu" else _PAIRS_AT_ONCE
        for run in runs(len(anchors), some.shape[0] * some.shape[1], limit=limit):
            yield busy, part, run, box_ops.iou(some, anchors[run]).masked_fill_(padding, -1.0)


def _reached(anchors: Tensor, boxes: Tensor, claims: Tensor, most: Tensor) -> Tensor:
    """(B, A) bool: which anchors reach the largest IoU of a claiming object. claims (B, N) bool; most (B, N): that IoU."""
    reached = torch.zeros(len(boxes), len(anchors), dtype=torch.bool, device=anchors.device)
    for busy, part, run, iou in _overlaps(anchors, boxes, claims):
        reached[busy, run] |= ((iou == most[busy, part, None]) & claims[busy, part, None]).any(dim=1)
    return reached


def _claim(matches: Tensor, claims: Tensor, wanted: Tensor, *, last: bool) -> Tensor:
    """matches (B, A) -> (B, A), where every claiming object (claims, (B, N) bool) has the anchor that it wants (wanted, (B,
    N)). Of several objects the last or the first wins.
    """
    none = -1 if last else claims.shape[1]
    index = torch.arange(claims.shape[1], device=claims.device).expand_as(wanted).masked_fill(~claims, none)
    claimed = torch.full_like(matches, none).scatter_reduce(1, wanted, index, "amax" if last else "amin")
    return torch.where(claimed != none, claimed, matches)


def _greedy(anchors: Tensor, boxes: Tensor, claims: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Bipartite matching in rounds. A pair that is the best one left for both of its sides is a pair of the greedy order too,
    so a round settles all such pairs at once. Real pictures need two or three rounds.

    claims (B, N) bool: the objects that overlap any anchor; wanted (B, N): their best anchors. Return which objects got an
    anchor, (B, N) bool, and which anchor, (B, N).
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
    """(B, N): which waiting object has the largest overlap with the anchor that each waiting object wants."""
    best = torch.full_like(wanted, -1)
    for part in runs(boxes.shape[1], boxes.shape[0] * boxes.shape[1]):
        busy = waiting[:, part].any(dim=1)
        iou = box_ops.iou(boxes[busy], anchors[wanted[busy, part]])
        best[busy, part] = iou.masked_fill_(~waiting[busy, :, None], -1.0).argmax(dim=1)
    return best


def _next_wish(anchors: Tensor, boxes: Tensor, *, waiting: Tensor, taken: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The best free anchor of every waiting object, (B, N), and which objects overlap one and still wait, (B, N) bool."""
    wanted, waiting = wanted.clone(), waiting.clone()
    image, row = waiting.nonzero(as_tuple=True)
    for part in runs(len(image), len(anchors)):
        i, n = image[part], row[part]
        iou = box_ops.iou(boxes[i, n], anchors).masked_fill_(taken[i], -1.0)
        best, wanted[i, n] = iou.max(dim=1)
        waiting[i, n] = best > 0
    return wanted, waiting
