"""How far a predicted box is from its object.

Shape letters: P positives: the anchors that learn an object. A kind of box loss maps deltas (P, 4), anchors (P, 4), boxes (P,
4) in xyxy input pixels and the coder to one number per positive, (P,).
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
    """Quadratic up to ``beta`` and linear above it, per offset (Fast R-CNN, eq. 3; SSD, eq. 2). beta 0 is L1."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta of smooth L1 is not negative", got=self.beta)

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). Smooth L1 of the four offsets, summed."""
        return F.smooth_l1_loss(deltas, coder.encode(anchors, boxes), reduction="none", beta=self.beta).sum(1)


@dataclass(frozen=True)
class L1:
    """The absolute difference per offset, as in torchvision's RetinaNet."""

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). The absolute differences of the four offsets, summed."""
        return F.l1_loss(deltas, coder.encode(anchors, boxes), reduction="none").sum(1)


@dataclass(frozen=True)
class Huber:
    """Half the square up to ``delta`` and linear above it: delta times smooth L1 (EfficientDet's code: 0.1)."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        require(self.delta > 0, "delta of the Huber loss is above 0", got=self.delta)

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). The Huber loss of the four offsets, summed."""
        return F.huber_loss(deltas, coder.encode(anchors, boxes), reduction="none", delta=self.delta).sum(1)


@dataclass(frozen=True)
class IoULoss:
    """1 - GIoU, DIoU or CIoU of the decoded box and its object. AP measures IoU too, and the size of a box does not matter."""

    overlap: Literal["giou", "diou", "ciou"] = "giou"

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). 1 - the overlap of the decoded box and its object."""
        measure = {"giou": box_ops.paired_giou, "diou": box_ops.paired_diou, "ciou": box_ops.paired_ciou}[self.overlap]
        return 1 - measure(coder.decode(anchors, deltas), boxes)


BoxLoss = SmoothL1 | L1 | Huber | IoULoss
