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
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import Assignment
from onestage.model.limits import NotNegative
from onestage.model.losses.boxes import AnchorLoss, BoxLoss, IoULoss, Positives, ScoreActivation
from onestage.model.losses.focal import SMALLEST_BASE, count_positives, over_classes
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class QualityFocalLoss(AnchorLoss):
    """Generalized Focal Loss, section 3.1, eq. 2: the score learns how well its box fits. The target of the object's class is
    the IoU of the object and the box that this anchor predicts; the target of every other class is 0. The factor |target -
    p|^beta reduces the loss of examples that are already right.

    All anchors that are not ignored count. The sum is divided by the number of positives.
    """

    activation: ClassVar[ScoreActivation] = "sigmoid"

    beta: NotNegative = 2.0
    box: BoxLoss = field(default_factory=IoULoss)
    box_weight: NotNegative = 2.0

    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """logits (B, A, C), deltas (B, A, 4) and matches (B, A) -> (B, A): the loss of every anchor; 0 for ignored anchors."""
        positives = Positives.of(output, assignment)
        logits = output.logits.float()
        targets = torch.zeros_like(logits)
        fit = box_ops.paired_iou(coder.decode(positives.anchors, positives.deltas.detach()), positives.boxes)
        targets[positives.image, positives.anchor, positives.labels] = fit
        off = (targets - logits.sigmoid()).abs().clamp(min=SMALLEST_BASE)
        losses = off**self.beta * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return over_classes(losses, assignment.matches)

    def normalizer(self, matches: Tensor) -> Tensor:
        """matches (B, A) -> (): the number of positives."""
        return count_positives(matches)
