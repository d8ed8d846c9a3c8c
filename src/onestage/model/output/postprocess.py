"""From the outputs of the network to the few boxes that are reported.

Shape letters: B images, A anchors, C logits per anchor, K classes, P candidates looked at per image, D detections, M of N
numbers in a row, ... any dimensions. Boxes are xyxy input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import WeightsError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.codec import Part
from onestage.model.limits import Candidates, Found, Rate
from onestage.model.losses.boxes import ScoreActivation
from onestage.model.output.suppress import NMS, HardNMS
from onestage.structures import HeadOutput

DIVERGED = "its weights are damaged, or were trained until they diverged: take earlier ones"


class RawDetections(NamedTuple):
    """The detections of one image: boxes (D, 4) input pixels, scores (D,) descending, labels (D,) 0..K-1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class _Work(NamedTuple):
    """The data from which candidates are taken: logits (B, A, C), the best score of each anchor (B, A), deltas (B, A, 4),
    anchors (A, 4), the level of each (A,), and where the pictures lie in the input (B, 4).
    """

    logits: Tensor
    best: Tensor
    deltas: Tensor
    anchors: Tensor
    level: Tensor
    coder: BoxCoder
    activation: ScoreActivation
    frames: Tensor


@dataclass(frozen=True)
class Postprocess(Part):
    """Keep scores above a threshold, the best few of them, apply NMS inside each class, and keep the best few of the image.

    The defaults are SSD's (section 3.1: 0.01, IoU 0.45, 200; top 400 from SSD's code). ``top_k`` bounds how many candidates
    enter NMS, for each ``scope`` of an image: "class" (SSD), "level" of the feature maps (RetinaNet, section 4.1: 1,000) or
    "image" (EfficientDet's code: 5,000). class_agnostic: NMS does not look at classes. With hard NMS there is then one
    object at one place.

    The result is exactly this: score everything, cut each scope to its top_k, decode, apply NMS, cut to ``detections``; equal
    scores are in the order of anchors, then classes. It does not depend on the other images of the batch. But most of that
    work changes nothing. An anchor whose background logit outweighs every class needs no softmax. The n best candidates stand
    on the n anchors of best score. A box that NMS never looks at needs no decoding, and NMS may stop at the last detection
    wanted. Whether a candidate survives depends only on better candidates. So they are taken best first, in growing portions,
    until the result is full.
    """

    score_threshold: Rate = 0.01
    nms: NMS = field(default_factory=HardNMS)
    top_k: Candidates = 400
    scope: Literal["class", "level", "image"] = "class"
    detections: Found = 200
    class_agnostic: bool = False

    def __call__(
        self,
        output: HeadOutput,
        anchors: Tensor,
        coder: BoxCoder,
        *,
        activation: ScoreActivation,
        levels: Sequence[int],
        frames: Tensor | None = None,
    ) -> list[RawDetections]:
        """Logits (B, A, C), deltas (B, A, 4) and anchors (A, 4) -> one RawDetections per image.

        levels: the number of anchors on each feature map. frames: (B, 4), where the pictures lie in the input; the rest is
        padding. Boxes are cut to their frame, or else to the input, before NMS.
        """
        height, width = output.input_size
        frames = anchors.new_tensor([[0, 0, width, height]]).expand(len(output.logits), -1) if frames is None else frames
        logits = output.logits.detach()
        level = torch.arange(len(levels), device=anchors.device).repeat_interleave(torch.tensor(levels, device=anchors.device))
        best = self._best(logits, activation)
        work = _Work(logits, best, output.deltas.detach(), anchors, level, coder, activation, frames)
        total = logits.shape[1] * (logits.shape[2] - (activation == "softmax"))
        total = min(total, self.top_k) if self.scope == "image" else total  # no more enter NMS
        portion = min(total, 4 * self.detections)
        while True:
            found, full = self._survivors(portion, work)
            if full or portion == total:
                return found
            portion = min(total, 4 * portion)

    def _best(self, logits: Tensor, activation: ScoreActivation) -> Tensor:
        """(B, A, C) -> (B, A): the best score of every anchor; 0 if the softmax cannot bring one above the threshold."""
        if activation == "sigmoid":
            return _numbers(logits.amax(dim=2).float()).sigmoid()
        # p_k = 1 / (1 + exp(l_0 - l_k) + ...) > t needs l_k - l_0 > log(t / (1 - t))
        logit = math.log(self.score_threshold / (1 - self.score_threshold)) if self.score_threshold > 0 else -math.inf
        lead = _numbers(logits[:, :, 1:].amax(dim=2).float() - logits[:, :, 0].float())
        image, anchor = (lead > logit - 1e-3).nonzero(as_tuple=True)  # a little more: rounding must not cost a candidate
        best = lead.new_zeros(lead.shape)
        best[image, anchor] = _scores(logits[image, anchor], activation).amax(dim=1)
        return best

    def _survivors(self, count: int, work: _Work) -> tuple[list[RawDetections], bool]:
        """The survivors of the ``count`` best candidates of each image, and whether this is final: more candidates change
        nothing.
        """
        batch, anchors = work.best.shape
        rows = _largest(work.best, min(count, anchors))[1].sort(dim=1).values
        scores = _scores(work.logits.gather(1, rows[:, :, None].expand(-1, -1, work.logits.shape[2])), work.activation)
        classes = scores.shape[2]
        top, flat = _largest(scores.flatten(1), count)
        labels, anchor = flat % classes, rows.gather(1, flat // classes)
        scope = {"class": lambda: labels, "level": lambda: work.level[anchor], "image": lambda: torch.zeros_like(labels)}
        above = top > self.score_threshold
        passing = above & (self._rank_within(scope[self.scope]()) < self.top_k)

        image, rank = passing.nonzero(as_tuple=True)
        anchor, score, label = (column[image, rank] for column in (anchor, top, labels))
        boxes = work.coder.decode(work.anchors[anchor], work.deltas[image, anchor].float())
        boxes = box_ops.clip_to(boxes, work.frames[image])
        inside = box_ops.area(boxes) > 0  # boxes beside the picture have no area, and NaN is not above 0
        image, boxes, score, label = image[inside], boxes[inside], score[inside], label[inside]
        groups = image if self.class_agnostic else image * classes + label
        survivors, score = self.nms(boxes, score, groups, least=self.score_threshold)
        image, boxes, label = image[survivors], boxes[survivors], label[survivors]

        counts = torch.bincount(image, minlength=batch)
        order = image.argsort(stable=True)  # NMS left them best first over all images
        columns = [column[order].split(counts.tolist()) for column in (boxes, score, label)]
        found = [RawDetections(*(column[: self.detections] for column in row)) for row in zip(*columns, strict=True)]
        last = (counts.cumsum(0) - counts + self.detections - 1).clamp(max=max(len(order) - 1, 0))
        full = (counts >= self.detections) & (score[order][last] >= top[:, -1]) if len(order) else counts > 0
        return found, bool((~above.all(dim=1) | full).all())

    def _rank_within(self, scope: Tensor) -> Tensor:
        """(B, P) scopes of the candidates, best first -> (B, P): how many better candidates of its scope each image has."""
        if scope.shape[1] <= self.top_k:
            return torch.zeros_like(scope)
        grouped, order = scope.sort(dim=1, stable=True)
        position = torch.arange(scope.shape[1], device=scope.device).expand_as(scope)
        starts = torch.cat([torch.ones_like(grouped[:, :1], dtype=torch.bool), grouped[:, 1:] != grouped[:, :-1]], dim=1)
        first = torch.where(starts, position, 0).cummax(dim=1).values
        return torch.empty_like(scope).scatter_(1, order, position - first)


def _numbers(values: Tensor) -> Tensor:
    """The values (...). Raise WeightsError if one is NaN: such a network finds nothing, and this must not look like a
    result.
    """
    if bool(values.isnan().any()):
        raise WeightsError("the network's outputs are not numbers (NaN)", fix=DIVERGED)
    return values


def check_finite(deltas: Tensor) -> None:
    """Raise WeightsError if one of the deltas (B, A, 4) is NaN or infinite: it would put a box anywhere."""
    if not bool(deltas.isfinite().all()):
        raise WeightsError("the network's boxes are not numbers (NaN or infinity)", fix=DIVERGED)


def _scores(logits: Tensor, activation: ScoreActivation) -> Tensor:
    """(..., C) -> (..., K) scores of the classes."""
    return logits.float().softmax(dim=-1)[..., 1:] if activation == "softmax" else logits.float().sigmoid()


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, N) -> (B, M): the ``count`` largest of each row, descending, and their columns; of equal values the lower column
    comes first. topk does not define the order of equal values.

    Non-negative float32 numbers keep their order when their bits are read as an integer. The column fills the bits below.
    """
    last = scores.shape[1] - 1
    index = torch.arange(last, -1, -1, device=scores.device)
    keys = (scores.view(torch.int32).long() << 32) | index
    columns = last - (keys.topk(count, dim=1).values & 0xFFFFFFFF)
    return scores.gather(1, columns), columns
