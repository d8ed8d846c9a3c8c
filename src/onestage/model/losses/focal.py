"""RetinaNet's focal loss.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, N objects in one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onestage.errors import require
from onestage.model.anchors.assignment import Assignment
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import BoxLoss, SmoothL1
from onestage.model.losses.positives import _TINY, Positives, ScoreActivation, _of_anchors, _positives
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class FocalLoss:
    """RetinaNet's loss (section 3): K independent sigmoids, the focal loss summed over all anchors that are not ignored, and a
    box loss on the positives, both divided by the number of positives.

    alpha: weight of the class that is there, 1 - alpha that of those that are not; None leaves both unweighted. gamma: how much
    the easy ones are turned down; 0 is cross-entropy. label_smoothing: s makes the targets 1 - s / 2 and s / 2. per_image: each
    image is divided by its own positives and the mean over the images is taken, as in torchvision, where a picture with few
    objects weighs as much as one with many.
    """

    activation: ClassVar[ScoreActivation] = "sigmoid"

    alpha: float | None = 0.25
    gamma: float = 2.0
    label_smoothing: float = 0.0
    box: BoxLoss = field(default_factory=SmoothL1)
    box_weight: float = 1.0
    per_image: bool = False

    def __post_init__(self) -> None:
        require(self.alpha is None or 0 < self.alpha < 1, "alpha lies between 0 and 1, or is None", got=self.alpha)
        require(self.gamma >= 0 and self.box_weight >= 0, "gamma and box_weight are not negative", got=self)
        require(0 <= self.label_smoothing < 1, "label_smoothing is at least 0 and below 1", got=self.label_smoothing)

    def __call__(
        self, output: HeadOutput, assignment: Assignment, coder: BoxCoder, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}. ``normalizer`` replaces the divisor of this batch by that of a larger one it is part of."""
        divisor = (self.normalizer(assignment.matches) if normalizer is None else normalizer).clamp(min=1.0)
        positives = Positives.of(output, assignment)
        cls = self.class_losses(output, assignment, coder).sum(1)
        box = torch.zeros_like(cls).index_add(0, positives.image, positives.box_losses(self.box, coder))
        if self.per_image:
            own = (assignment.matches >= 0).sum(1).clamp(min=1)
            cls, box = cls / own, box / own
        return {"cls": cls.sum() / divisor, "box": self.box_weight * box.sum() / divisor}

    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """(B, A): the class loss of every anchor before the divisor; 0 for those that teach nothing."""
        image, anchor, match = assignment.positives()
        targets = torch.full_like(output.logits, self.label_smoothing / 2, dtype=torch.float32)
        targets[image, anchor, assignment.labels[image, match]] = 1 - self.label_smoothing / 2
        losses = focal_loss(output.logits.float(), targets, alpha=self.alpha, gamma=self.gamma, reduction="none")
        return _of_anchors(losses, assignment.matches)

    def normalizer(self, matches: Tensor) -> Tensor:
        """The divisor of the batch, () float32. Over several batches or processes the sum divides them all, but at least 1."""
        return matches.new_tensor(len(matches)).float() if self.per_image else _positives(matches)


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> Tensor:
    """RetinaNet eq. (5): -alpha_t * (1 - p_t)^gamma * log(p_t), with p the sigmoid of the logits.

    targets: as logits, 0 or 1 (hard), or anything between (soft: p_t and alpha_t are then weighed between the two cases); no
    gradient goes to them. alpha None: eq. (4), unweighted. "none" keeps the shape, "sum" and "mean" give ().
    """
    loss: Tensor = _Focal.apply(logits, targets, alpha, gamma)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


class _Focal(torch.autograd.Function):
    """With its gradient written out: RetinaNet's 200,000 anchors of 80 classes take 64 MB a picture as float32, and of such
    tensors the backward pass keeps two, not the eight that it would keep of the formula.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, alpha: float | None, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.alpha, ctx.gamma = alpha, gamma
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return cross_entropy.mul_(_wrong(logits.sigmoid(), targets).pow_(gamma)).mul_(_weight(targets, alpha))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """d/dx of w^gamma * ce: w^gamma * (p - t) + gamma * w^(gamma - 1) * w' * ce, where w' = p * (1 - p) * (1 - 2 t)."""
        logits, targets = ctx.saved_tensors
        p = logits.sigmoid()
        wrong = _wrong(p, targets)
        result = (p - targets).mul_(wrong**ctx.gamma)
        if ctx.gamma > 0:
            cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            result += cross_entropy.mul_(wrong.pow_(ctx.gamma - 1)).mul_(p - p * p).mul_(ctx.gamma * (1 - 2 * targets))
        return result.mul_(_weight(targets, ctx.alpha)).mul_(slope), None, None, None


def _wrong(p: Tensor, targets: Tensor) -> Tensor:
    """1 - p_t"""
    return (p + targets - 2 * p * targets).clamp_(min=_TINY)


def _weight(targets: Tensor, alpha: float | None) -> Tensor | float:
    """alpha_t"""
    return 1.0 if alpha is None else 1 - alpha + (2 * alpha - 1) * targets
