"""Non-maximum suppression: of boxes that show the same object, one stays.

Shape letters: N boxes, M of them that stay. Each kind maps boxes (N, 4) xyxy pixels, scores (N,) and groups (N,) int64 to the
rows that stay (M,) int64, best score first, and their scores (M,), all above ``least``. Boxes of different groups do not matter
to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.codec import Part, Range
from onestage.model.limits import Positive, Share


@dataclass(frozen=True)
class HardNMS(Part):
    """Remove a box whose IoU with a better box that stays is above ``iou_threshold`` (SSD, section 2.2: 0.45)."""

    iou_threshold: Share = 0.45

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """boxes (N, 4), scores (N,), groups (N,) -> (M,) and (M,): the rows that stay and their scores."""
        rows = box_ops.nms(boxes, scores, groups, self.iou_threshold)
        return rows, scores[rows]


@dataclass(frozen=True)
class DIoUNMS(Part):
    """As HardNMS, with DIoU instead of IoU: neighbours with different centres stay (arXiv 1911.08287, section 3.3)."""

    diou_threshold: Annotated[float, Range(least=-1, most=1)] = 0.45

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """boxes (N, 4), scores (N,), groups (N,) -> (M,) and (M,): the rows that stay and their scores."""
        rows = box_ops.diou_nms(boxes, scores, groups, self.diou_threshold)
        return rows, scores[rows]


@dataclass(frozen=True)
class SoftNMS(Part):
    """Multiply the score of a box by exp(-IoU^2 / sigma) for every better box (Soft-NMS, arXiv 1704.04503, section 3)."""

    sigma: Positive = 0.5

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """boxes (N, 4), scores (N,), groups (N,) -> (M,) and (M,): the rows whose new scores are above ``least``, and these
        scores.
        """

        def decay(iou: Tensor) -> Tensor:
            return (-iou.square() / self.sigma).exp()

        return box_ops.soft_nms(boxes, scores, groups, decay=decay, threshold=least)


@dataclass(frozen=True)
class LinearSoftNMS(Part):
    """Multiply the score of a box by 1 - IoU for every better box with an IoU above ``iou_threshold`` (Soft-NMS, section 3:
    0.3).
    """

    iou_threshold: Share = 0.3

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """boxes (N, 4), scores (N,), groups (N,) -> (M,) and (M,): the rows whose new scores are above ``least``, and these
        scores.
        """

        def decay(iou: Tensor) -> Tensor:
            return 1 - iou * (iou > self.iou_threshold)

        return box_ops.soft_nms(boxes, scores, groups, decay=decay, threshold=least)


NMS = HardNMS | DIoUNMS | SoftNMS | LinearSoftNMS
