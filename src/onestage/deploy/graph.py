"""A detector as one graph of tensor operators with fixed shapes, from resized pictures to detections, for export.

Shape letters: B images, A anchors, C logits per anchor, K classes, N candidates of each image that enter NMS, D detections, h
and w of the input. Boxes are xyxy input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onestage import boxes as box_ops
from onestage.model.anchors.levels import anchor_boxes
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.predict.contract import Ending
from onestage.predict.predictor import in_evaluation_mode
from onestage.structures import HeadOutput

Suppress = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""NMS: boxes (B, N, 4), scores (B, N), groups (B, N) and their number, IoU threshold -> scores (B, N), 0 for what goes."""

MOST_CANDIDATES = 2000
"""So many candidates of one level, or of the image, enter NMS in a graph. Runtimes take far longer to sort more numbers."""


def candidates_of(postprocess: Postprocess) -> int:
    """How many candidates of an image enter NMS in a graph; of each level if that is the scope. predict() takes more if too few
    of them survive, and ``top_k`` allows more.
    """
    return MOST_CANDIDATES if postprocess.scope == "class" else min(MOST_CANDIDATES, postprocess.top_k)


def ending_of(config: DetectorConfig) -> Ending:
    """Where a graph with NMS ends: ONNX has no operator for Soft-NMS and DIoU-NMS, so these stay outside."""
    return "detections" if isinstance(config.postprocess.nms, HardNMS) else "candidates"


class Graph(nn.Module):
    """Images (B, 3, h, w), RGB in 0..255, and frames (B, 4), where the pictures lie in them, to what the ending names.

    - "detections": boxes (B, D, 4), scores (B, D), labels (B, D) int64, num (B,) int64. Behind the last detection of an
      image, boxes and scores are 0 and labels are -1.
    - "candidates": boxes (B, N, 4), scores (B, N) descending, labels (B, N). A score is 0 where there is no candidate.
    - "outputs": logits (B, A, C) and deltas (B, A, 4), as the network gives them.

    If the scope is "level", the detections are those of ``Postprocess``. Otherwise they are, whenever the N best candidates of
    an image fill its D places, or are all that pass the threshold.
    """

    def __init__(self, detector: Detector, ending: Ending, suppress: Suppress | None = None) -> None:
        """suppress: NMS, for a graph that ends with detections."""
        super().__init__()
        self.network = in_evaluation_mode(detector)
        self.config = detector.config
        self.ending = ending
        self.suppress = suppress

    def forward(self, images: Tensor, frames: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, 3, h, w), (B, 4) -> the outputs of the ending. Without frames, each picture fills its image."""
        images = self.config.preprocess.normalize(images)
        if self.ending == "outputs":
            plain: HeadOutput = self.network(images.contiguous())
            return plain.logits, plain.deltas
        output: HeadOutput = self.network(images)
        if frames is None:
            frames = torch.tensor([[0, 0, images.shape[3], images.shape[2]]], dtype=torch.float32, device=images.device)
        found = self.candidates(output, frames)
        return self.detections(*found) if self.ending == "detections" else found

    def candidates(self, output: HeadOutput, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The N best candidates of each image, best first: boxes (B, N, 4) cut to their frames, scores (B, N), labels (B, N).

        A score is 0 if it is not above the threshold, if its box has no area, or if its scope has ``top_k`` better candidates.
        """
        post, sizes = self.config.postprocess, output.level_sizes
        anchors = anchor_boxes(self.config.levels, sizes, output.input_size).to(output.logits.device)
        counts = [anchors.shape[0]]
        if post.scope == "level":
            counts = [h * w * len(level.shapes) for (h, w), level in zip(sizes, self.config.levels, strict=True)]
        rows, top, labels = self._best(output.logits, counts)
        boxes = self.config.coder.decode(anchors[rows], _rows_of(output.deltas, rows))
        boxes = box_ops.clip_to(boxes, frames[:, None])
        top = top * (top > post.score_threshold)
        if post.scope == "class" and post.top_k < MOST_CANDIDATES:
            top = _best_of_group(top, labels, len(self.config.classes), post.top_k)
        return boxes, top * (box_ops.area(boxes) > 0), labels

    def _best(self, logits: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates in logits (B, A, C), of which ``counts`` anchors lie in each part: their anchors (B, N), scores
        (B, N) descending, labels (B, N). The n best candidates of a part stand on its n anchors of best score.
        """
        softmax, classes = self.config.loss.activation == "softmax", len(self.config.classes)
        values = logits.softmax(dim=2)[:, :, 1:] if softmax else logits
        best = values.amax(dim=2)
        best = best if softmax else best.sigmoid()  # by score: far from 0, equal scores have other logits
        limits = [torch.sym_min(candidates_of(self.config.postprocess), count) for count in counts]
        firsts = [sum(counts[:i]) for i in range(len(counts))]
        parts = [best] if len(counts) == 1 else best.split(counts, dim=1)
        rows = [part.topk(n, dim=1).indices + first for part, n, first in zip(parts, limits, firsts, strict=True)]
        scores = [_rows_of(values, some) if softmax else _rows_of(values, some).sigmoid() for some in rows]
        found = [(some, *part.flatten(1).topk(n, dim=1)) for some, part, n in zip(rows, scores, limits, strict=True)]
        joined = [(some.gather(1, flat // classes), top, flat % classes) for some, top, flat in found]
        if len(joined) == 1:
            return joined[0]
        anchor, top, label = (torch.cat(columns, dim=1) for columns in zip(*joined, strict=True))
        top, order = top.sort(dim=1, descending=True)
        return anchor.gather(1, order), top, label.gather(1, order)

    def detections(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Candidates (B, N, 4), (B, N), (B, N) -> boxes (B, D, 4), scores (B, D), labels (B, D), num (B,)."""
        post = self.config.postprocess
        assert self.suppress is not None and isinstance(post.nms, HardNMS)
        groups, number = labels, len(self.config.classes)
        if post.class_agnostic:
            groups, number = torch.zeros_like(labels), 1
        scores = self.suppress(boxes, scores, groups, number, post.nms.iou_threshold)
        scores, rank = scores.topk(torch.sym_min(post.detections, scores.shape[1]), dim=1)
        found = scores > 0
        boxes = _rows_of(boxes, rank) * found[:, :, None]
        return boxes, scores, torch.where(found, labels.gather(1, rank), -1), found.sum(dim=1)


def _rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """values (B, A, C), rows (B, N) in 0..A-1 -> (B, N, C). Runtimes copy whole rows of a table at once, and take far longer to
    gather single numbers.
    """
    first = values.shape[1] * torch.arange(values.shape[0], device=rows.device)[:, None]
    return values.flatten(0, 1).index_select(0, (rows + first).flatten()).view(*rows.shape, values.shape[2])


def _numbers(count: int, like: Tensor) -> Tensor:
    """0 .. count - 1 as a column (1, count, 1)."""
    return torch.arange(count, device=like.device)[None, :, None]


def _best_of_group(scores: Tensor, group: Tensor, groups: int, most: int) -> Tensor:
    """Scores (B, N), best first, with 0 for those that have ``most`` better ones in their group. group: (B, N), 0..G-1."""
    member = (group[:, None] == _numbers(groups, group)) & (scores[:, None] > 0)
    rank = member.cumsum(dim=2, dtype=torch.int32).gather(1, group[:, None])[:, 0]
    return scores * (rank <= most)
