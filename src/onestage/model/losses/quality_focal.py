"""Generalized Focal Loss: the score learns how well its box fits.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, N objects in one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import require
from onestage.model.anchors.assignment import Assignment
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import BoxLoss, IoULoss
from onestage.model.losses.positives import _TINY, Positives, ScoreActivation, _of_anchors, _positives
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class QualityFocalLoss:
    """Generalized Focal Loss, section 3.1, eq. 2: the score learns how well its box fits. The target of an object's class is
    the IoU of the box that this anchor predicts, everything else 0; |target - p|^beta turns down what is right already.

    All anchors that are not ignored count; the sum is divided by the number of positives.
    """

    activation: ClassVar[ScoreActivation] = "sigmoid"

    beta: float = 2.0
    box: BoxLoss = field(default_factory=IoULoss)
    box_weight: float = 2.0

    def __post_init__(self) -> None:
        require(self.beta >= 0 and self.box_weight >= 0, "beta and box_weight are not negative", got=self)

    def __call__(
        self, output: HeadOutput, assignment: Assignment, coder: BoxCoder, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}. ``normalizer`` replaces the divisor of this batch by that of a larger one it is part of."""
        divisor = (self.normalizer(assignment.matches) if normalizer is None else normalizer).clamp(min=1.0)
        cls = self.class_losses(output, assignment, coder).sum()
        box = Positives.of(output, assignment).box_losses(self.box, coder).sum()
        return {"cls": cls / divisor, "box": self.box_weight * box / divisor}

    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """(B, A): the class loss of every anchor before the divisor; 0 for those that teach nothing."""
        positives = Positives.of(output, assignment)
        logits = output.logits.float()
        targets = torch.zeros_like(logits)
        fit = box_ops.paired_iou(coder.decode(positives.anchors, positives.deltas.detach()), positives.boxes)
        targets[positives.image, positives.anchor, positives.labels] = fit
        off = (targets - logits.sigmoid()).abs().clamp(min=_TINY)
        losses = off**self.beta * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return _of_anchors(losses, assignment.matches)

    def normalizer(self, matches: Tensor) -> Tensor:
        """The divisor of the batch, () float32. Over several batches or processes the sum divides them all, but at least 1."""
        return _positives(matches)
