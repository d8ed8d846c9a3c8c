"""What rounding may decide in a picture, so that a test can tell rounding from a mistake.

Two programs that compute one network get numbers that differ in their last digits. Comparisons decide which candidates are
reported: of scores with scores, of counts with limits, of overlaps with the threshold of NMS. Here each comparison has three
answers: yes, no, and open, if the numbers are so near to each other that rounding decides. What follows from answers that are
not open must be the same in every program.

Shape letters: A anchors, K classes, N and M candidates of one image, D detections. Boxes are xyxy input pixels, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.levels import anchor_boxes
from onestage.model.config import DetectorConfig
from onestage.model.output.postprocess import RawDetections
from onestage.model.output.suppress import HardNMS
from onestage.structures import HeadOutput

STEPS = 2.0**-21
"""How far the scores of equal logits may be apart in two programs: eight steps of float32 just below 1."""


@dataclass(frozen=True)
class Rounding:
    """How far two programs may be apart. score: of a candidate with a score of 1/2; others by what their logits differ; pixels:
    of a side of its box; iou: of the overlap of two equal pairs of boxes, which some compute in float32.
    """

    score: float
    pixels: float
    iou: float = 1e-6

    def of(self, scores: Tensor) -> Tensor:
        """(N,) -> (N,): how far each score may be from that of the other program. The nearer to 0 or 1, the less."""
        return self.score * _slope(scores) + STEPS


def _slope(scores: Tensor) -> Tensor:
    """How much scores (...) change with their logits, as a part of what a score of 1/2 does."""
    return 4 * scores * (1 - scores)


class Candidates(NamedTuple):
    """Those of one image: boxes (N, 4) as decoded, scores (N,), labels (N,), levels (N,), and the frame (4,) of the picture."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    frame: Tensor

    def grown(self, pixels: float) -> Tensor:
        """The boxes (N, 4) with every side that many pixels further out, cut to the frame."""
        return box_ops.clip_to(self.boxes + pixels * self.boxes.new_tensor([-1, -1, 1, 1]), self.frame)


class Fates(NamedTuple):
    """Which of N candidates must be reported (N,), and which may be (N,). They differ where rounding decides."""

    must: Tensor
    may: Tensor


def candidates(config: DetectorConfig, output: HeadOutput, row: int, frame: Tensor, *, least: float) -> Candidates:
    """All candidates of one image with a score above ``least``. row: of the image in the output; frame: (4,)."""
    counts = [h * w * len(level.shapes) for (h, w), level in zip(output.level_sizes, config.levels, strict=True)]
    level = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    logits = output.logits[row].double()
    scores = logits.softmax(dim=1)[:, 1:] if config.loss.activation == "softmax" else logits.sigmoid()
    anchor, label = (scores > least).nonzero(as_tuple=True)
    anchors = anchor_boxes(config.levels, output.level_sizes, output.input_size)
    boxes = config.coder.decode(anchors[anchor].double(), output.deltas[row, anchor].double())
    return Candidates(boxes, scores[anchor, label], label, level[anchor], frame.double())


def fates(config: DetectorConfig, some: Candidates, rounding: Rounding) -> Fates:
    """What postprocessing, with hard NMS, must and may report of candidates, in whatever program."""
    post = config.postprocess
    scopes = {"class": some.labels, "level": some.levels, "image": torch.zeros_like(some.labels)}
    surely, maybe = _better(some.scores, scopes[post.scope], 2 * rounding.of(some.scores))  # both of a comparison are rounded
    enters = (surely < post.top_k).nonzero()[:, 0]
    inside = Candidates(*(column[enters] for column in some[:4]), some.frame)
    must, may = some.scores.new_zeros(2, len(some.scores), dtype=torch.bool)
    must[enters], may[enters] = _reported(config, inside, rounding, surely=maybe[enters] < post.top_k)
    return Fates(must, may)


def _reported(config: DetectorConfig, some: Candidates, rounding: Rounding, *, surely: Tensor) -> Fates:
    """The fates of candidates that may enter NMS. surely: whether they must (N,)."""
    post, slack = config.postprocess, 2 * rounding.of(some.scores)
    small, large = some.grown(-rounding.pixels), some.grown(rounding.pixels)
    must, may = surely & (box_ops.area(small) > 0), box_ops.area(large) > 0
    groups = torch.zeros_like(some.labels) if post.class_agnostic else some.labels
    assert isinstance(post.nms, HardNMS)
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        least, most = _overlaps(small[rows], large[rows])
        ahead = some.scores[rows, None] - some.scores[rows]
        removes = (ahead > slack[rows]) & (least > post.nms.iou_threshold + rounding.iou)
        may_remove = (ahead > -slack[rows]) & (most > post.nms.iou_threshold - rounding.iou)
        must[rows], may[rows] = _survivors(must[rows], may[rows], removes, may_remove.fill_diagonal_(False))
    better, worse = (_ahead(some.scores, some.scores[there], by) for there, by in ((must, slack), (may, -slack)))
    return Fates(must & (worse - may.long() < post.detections), may & (better < post.detections))


def unexplained(
    config: DetectorConfig, some: Candidates, found: RawDetections, rounding: Rounding, *, least: float
) -> list[str]:
    """What rounding does not explain in the detections of a program with scores above ``least``: those that are no candidate
    which may be reported, and candidates which must be and are not there.
    """
    must, may = fates(config, some, rounding)
    apart = (some.scores[:, None] - found.scores.double()).abs()
    sides = torch.cdist(some.grown(0), found.boxes.double(), p=torch.inf)
    near = rounding.of(some.scores)
    same = (some.labels[:, None] == found.labels) & (apart <= near[:, None]) & (sides <= rounding.pixels)
    missing = must & (some.scores > least + near) & ~same.any(dim=1)
    foreign = (found.scores > least) & ~(same & may[:, None]).any(dim=0)
    lost = [f"missing: score {some.scores[i]:.6f}, box {some.grown(0)[i].tolist()}" for i in missing.nonzero()[:, 0]]
    return lost + [f"foreign: score {found.scores[i]:.6f}, box {found.boxes[i].tolist()}" for i in foreign.nonzero()[:, 0]]


def measured(pairs: Iterable[tuple[RawDetections, RawDetections]], *, iou: float, score: float) -> Rounding:
    """Twice the largest differences between the detections of two programs in the same images. Detections are the same if they
    have one label, an IoU of at least ``iou``, and scores within ``score``.
    """
    scores, pixels = [0.0], [0.0]
    for one, other in pairs:
        apart = (one.scores[:, None] - other.scores).abs()
        overlaps = box_ops.iou(one.boxes.double(), other.boxes.double())
        same = (one.labels[:, None] == other.labels) & (apart <= score) & (overlaps >= iou)
        sides = torch.cdist(one.boxes.double(), other.boxes.double(), p=torch.inf)
        slope = _slope(one.scores)[:, None].expand_as(apart)[same]
        scores += (apart[same] / slope)[slope > 0.1].tolist()
        pixels += sides[same].tolist()
    return Rounding(2 * max(scores), 2 * max(pixels))


def _ahead(scores: Tensor, others: Tensor, by: Tensor) -> Tensor:
    """(N,), (M,) and (N,) -> (N,): how many of the others are ahead of each score by more than ``by``."""
    return len(others) - torch.searchsorted(others.sort().values, scores + by, right=True)


def _better(scores: Tensor, scopes: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """(N,), (N,) and (N,) -> how many others of its scope are surely better than each candidate (N,), and how many may be."""
    surely, maybe = torch.zeros_like(scopes), torch.zeros_like(scopes)
    for scope in scopes.unique():
        inside = scopes == scope
        surely[inside] = _ahead(scores[inside], scores[inside], slack[inside])
        maybe[inside] = _ahead(scores[inside], scores[inside], -slack[inside]) - 1  # all but itself
    return surely, maybe


def _overlaps(small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) as small and as large as they may be -> the least and the largest IoU that each pair can have (N, N)."""
    least, most = box_ops.intersection(small, small), box_ops.intersection(large, large)
    areas, whole = box_ops.area(small), box_ops.area(large)
    union = (areas[:, None] + areas - most).clamp(min=1e-12)
    return least / (whole[:, None] + whole - least).clamp(min=1e-12), most / union


def _survivors(must: Tensor, may: Tensor, removes: Tensor, may_remove: Tensor) -> tuple[Tensor, Tensor]:
    """NMS among candidates that must enter (N,) and that may (N,). removes, may_remove: whether the first of a pair removes the
    second (N, N), surely and perhaps. Return which must stay (N,) and which may.

    What surely stays removes others, and what surely goes removes nothing more, so both grow until nothing changes.
    """
    enters, may_enter, must, before = must, may, torch.zeros_like(must), torch.ones_like(must)
    while not torch.equal(must, before):
        before, may = must, may_enter & ~(removes & must[:, None]).any(dim=0)
        must = enters & ~(may_remove & may[:, None]).any(dim=0)
    return must, may
