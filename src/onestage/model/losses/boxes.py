"""How far a predicted box is from its object.

Shape letters: P objects that anchors learn. Each kind maps deltas (P, 4), anchors (P, 4), boxes (P, 4) xyxy input pixels and
the coder to one number per object, (P,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import require
from onestage.model.anchors.coder import BoxCoder


@dataclass(frozen=True)
class SmoothL1:
    """Square up to ``beta``, straight from there on, per offset (Fast R-CNN, eq. 3; SSD, eq. 2). beta 0 is L1."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta of smooth L1 is not negative", got=self.beta)

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        return F.smooth_l1_loss(deltas, coder.encode(anchors, boxes), reduction="none", beta=self.beta).sum(1)


@dataclass(frozen=True)
class L1:
    """The absolute difference per offset, as in torchvision's RetinaNet."""

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        return F.l1_loss(deltas, coder.encode(anchors, boxes), reduction="none").sum(1)


@dataclass(frozen=True)
class Huber:
    """Half the square up to ``delta``, straight from there on: delta times smooth L1 (EfficientDet's code: 0.1)."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        require(self.delta > 0, "delta of the Huber loss is above 0", got=self.delta)

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        return F.huber_loss(deltas, coder.encode(anchors, boxes), reduction="none", delta=self.delta).sum(1)


@dataclass(frozen=True)
class IoULoss:
    """1 - GIoU, DIoU or CIoU of the decoded box and its object: what AP looks at, and blind to the box's size."""

    overlap: Literal["giou", "diou", "ciou"] = "giou"

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        measure = {"giou": box_ops.paired_giou, "diou": box_ops.paired_diou, "ciou": box_ops.paired_ciou}[self.overlap]
        return 1 - measure(coder.decode(anchors, deltas), boxes)


BoxLoss = SmoothL1 | L1 | Huber | IoULoss
