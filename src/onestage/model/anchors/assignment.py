"""Which anchor learns which object: what every assigner is given, and what it gives.

Shape letters: B images, A anchors, N objects of the fullest image of a batch (the rows of other images are padded), P anchors
that learn an object. Boxes are xyxy input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from onestage import boxes as box_ops
from onestage.structures import Targets

LevelCounts = Sequence[int]
"""How many anchors stand on each map; their rows follow one another, fine to coarse."""

BACKGROUND = -1
"""In matches: the anchor stands on background."""
IGNORED = -2
"""In matches: the anchor teaches nothing: it overlaps an object half, or a region marked as not to be counted."""

_PAIRS_AT_ONCE = 1 << 21
"""Pairs of anchor and object compared at a time: about 120 MB, whatever the number of objects."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The objects of a batch and the anchors that learn them; what a loss is computed from.

    anchors (A, 4); matches (B, A) int64: index of an object of that image, BACKGROUND or IGNORED;
    boxes (B, N, 4) and labels (B, N) int64: the objects, padded to the fullest image.
    """

    anchors: Tensor
    matches: Tensor
    boxes: Tensor
    labels: Tensor

    def positives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, anchor and object index, (P,) each, of the anchors that learn an object, in row order."""
        image, anchor = (self.matches >= 0).nonzero(as_tuple=True)
        return image, anchor, self.matches[image, anchor]


class Assigner(Protocol):
    """Which anchor learns which object: a frozen dataclass with this call."""

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignore: Tensor, levels: LevelCounts) -> Tensor:
        """anchors (A, 4), boxes (B, N, 4), objects and ignore (B, N) bool (both False: padding) -> matches (B, A) int64."""
        ...


def assign(assigner: Assigner, anchors: Tensor, targets: Sequence[Targets], *, levels: LevelCounts = ()) -> Assignment:
    """Pad the targets of B images to one tensor and let the assigner match them. levels left out: all anchors stand on one."""
    levels = levels or (len(anchors),)
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)
    labels = pad_sequence([t.labels for t in targets], batch_first=True)
    state = pad_sequence([1 + t.ignore.int() for t in targets], batch_first=True)  # 0: padding, 1: object, 2: not to be counted
    matches = assigner(anchors, boxes, objects=state == 1, ignore=state == 2, levels=levels)
    return Assignment(anchors, matches, boxes, labels)


def without_ignored(matches: Tensor, anchors: Tensor, boxes: Tensor, *, ignore: Tensor, least: float) -> Tensor:
    """matches (B, A), IGNORED where an anchor that learns nothing lies by ``least`` or more of itself in an ignored box."""
    if not bool(ignore.any()):
        return matches
    covered = anchors.new_zeros(matches.shape)
    for part in runs(boxes.shape[1], len(boxes) * len(anchors)):
        busy = ignore[:, part].any(dim=1)
        cover = box_ops.cover(anchors, boxes[busy, part]).mT.masked_fill(~ignore[busy, part, None], 0.0)
        covered[busy] = covered[busy].maximum(cover.amax(dim=1))
    return matches.masked_fill((matches < 0) & (covered >= least), IGNORED)


def runs(rows: int, partners: int) -> list[slice]:
    """Cuts rows into runs so short that comparing the rows of one run with all their partners takes bounded memory."""
    step = max(1, _PAIRS_AT_ONCE // max(1, partners))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
