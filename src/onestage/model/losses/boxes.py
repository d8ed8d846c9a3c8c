"""Losses of boxes, and how a class loss and a box loss become the loss that training minimises.

Shape letters: B images, A anchors, C logits per anchor, K classes, N objects in one image, P positives: the anchors of a batch
that learn an object. Boxes are xyxy input pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import Assignment
from onestage.model.codec import Part
from onestage.model.limits import NotNegative, Positive
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class SmoothL1(Part):
    """Quadratic up to ``beta`` and linear above it, per offset (Fast R-CNN, eq. 3; SSD, eq. 2). beta 0 is L1."""

    beta: NotNegative = 1.0

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). Smooth L1 of the four offsets, summed."""
        return F.smooth_l1_loss(deltas, coder.encode(anchors, boxes), reduction="none", beta=self.beta).sum(1)


@dataclass(frozen=True)
class L1(Part):
    """The absolute difference per offset, as in torchvision's RetinaNet."""

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). The absolute differences of the four offsets, summed."""
        return F.l1_loss(deltas, coder.encode(anchors, boxes), reduction="none").sum(1)


@dataclass(frozen=True)
class Huber(Part):
    """Half the square up to ``delta`` and linear above it: delta times smooth L1 (EfficientDet's code: 0.1)."""

    delta: Positive = 1.0

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). The Huber loss of the four offsets, summed."""
        return F.huber_loss(deltas, coder.encode(anchors, boxes), reduction="none", delta=self.delta).sum(1)


@dataclass(frozen=True)
class IoULoss(Part):
    """1 - GIoU, DIoU or CIoU of the decoded box and its object. As in AP, the size of a box does not matter."""

    overlap: Literal["giou", "diou", "ciou"] = "giou"

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """deltas, anchors and boxes (P, 4) -> (P,). 1 - the overlap of the decoded box and its object."""
        measure = {"giou": box_ops.paired_giou, "diou": box_ops.paired_diou, "ciou": box_ops.paired_ciou}[self.overlap]
        return 1 - measure(coder.decode(anchors, deltas), boxes)


BoxLoss = SmoothL1 | L1 | Huber | IoULoss

ScoreActivation = Literal["softmax", "sigmoid"]
"""How logits become scores: a softmax over K + 1 logits, background first, or a sigmoid for each of K."""


class Positives(NamedTuple):
    """The anchors of a batch that learn an object: where they are, what they learn, and what the network predicts for them.

    image, anchor and labels (P,) int64; boxes (P, 4) of the objects and anchors (P, 4) in xyxy input pixels; deltas (P, 4).
    """

    image: Tensor
    anchor: Tensor
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    deltas: Tensor

    @classmethod
    def of(cls, output: HeadOutput, assignment: Assignment) -> Positives:
        """Gather them from deltas (B, A, 4) and matches (B, A)."""
        image, anchor, match = assignment.positives()
        labels, boxes = assignment.labels[image, match], assignment.boxes[image, match]
        return cls(image, anchor, labels, boxes, assignment.anchors[anchor], output.deltas[image, anchor].float())


class AnchorLoss(Part, ABC):
    """A class loss on the anchors and a box loss on the positives, both divided by a number that follows from the matches.

    A kind of loss is a frozen dataclass with these fields, and says how its class loss and its divisor are made.
    """

    activation: ClassVar[ScoreActivation]
    box: BoxLoss
    box_weight: float

    def __call__(
        self, output: HeadOutput, assignment: Assignment, coder: BoxCoder, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """logits (B, A, C), deltas (B, A, 4) and matches (B, A) -> {"cls": (), "box": ()}.

        ``normalizer``, (), is the divisor of a larger batch that these images are part of. Without it, the divisor is that of
        these images.
        """
        divisor = (self.normalizer(assignment.matches) if normalizer is None else normalizer).clamp(min=1.0)
        positives = Positives.of(output, assignment)
        classes = self.class_losses(output, assignment, coder)
        boxes = self.box(positives.deltas, positives.anchors, positives.boxes, coder)
        cls, box = self.totals(classes, boxes, positives.image, assignment.matches)
        return {"cls": cls / divisor, "box": self.box_weight * box / divisor}

    @abstractmethod
    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """logits (B, A, C) and matches (B, A) -> (B, A): the class loss of every anchor before the divisor; 0 for an anchor
        that teaches nothing.
        """

    @abstractmethod
    def normalizer(self, matches: Tensor) -> Tensor:
        """matches (B, A) -> (): the divisor of the batch, float32. The sum over several batches or processes is the divisor of
        all their images.
        """

    def totals(self, classes: Tensor, boxes: Tensor, image: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Class losses (B, A) and box losses (P,) summed over the batch: () and (). image (P,): where the positives are."""
        return classes.sum(), boxes.sum()
