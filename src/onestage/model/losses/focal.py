"""RetinaNet's focal loss.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, ... any dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import IGNORED, Assignment
from onestage.model.limits import NotNegative, Probability, Rate
from onestage.model.losses.boxes import AnchorLoss, BoxLoss, ScoreActivation, SmoothL1
from onestage.structures import HeadOutput

SMALLEST_BASE = 1e-12
"""Below this number a power has no gradient: the gradient of x^0.5 at 0 would be infinite."""


@dataclass(frozen=True)
class FocalLoss(AnchorLoss):
    """RetinaNet's loss (section 3): K independent sigmoids, the focal loss summed over all anchors that are not ignored, and a
    box loss on the positives, both divided by the number of positives.

    alpha: the weight of the class of the object; every other class has the weight 1 - alpha. None: no weights. gamma: how much
    the loss of easy examples is reduced; 0 is cross-entropy. label_smoothing: s makes the targets 1 - s / 2 and s / 2.
    per_image: the loss of each image is divided by the number of its positives, and the mean over the images is taken, as in
    torchvision. A picture with few objects then counts as much as a picture with many.
    """

    activation: ClassVar[ScoreActivation] = "sigmoid"

    alpha: Probability | None = 0.25
    gamma: NotNegative = 2.0
    label_smoothing: Rate = 0.0
    box: BoxLoss = field(default_factory=SmoothL1)
    box_weight: NotNegative = 1.0
    per_image: bool = False

    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """logits (B, A, C) and matches (B, A) -> (B, A): the focal loss of every anchor; 0 for ignored anchors."""
        image, anchor, match = assignment.positives()
        targets = torch.full_like(output.logits, self.label_smoothing / 2, dtype=torch.float32)
        targets[image, anchor, assignment.labels[image, match]] = 1 - self.label_smoothing / 2
        losses = focal_loss(output.logits.float(), targets, alpha=self.alpha, gamma=self.gamma, reduction="none")
        return over_classes(losses, assignment.matches)

    def normalizer(self, matches: Tensor) -> Tensor:
        """matches (B, A) -> (): the number of positives, or of images with ``per_image``."""
        return matches.new_tensor(len(matches)).float() if self.per_image else count_positives(matches)

    def totals(self, classes: Tensor, boxes: Tensor, image: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Sums class losses (B, A) and box losses (P,) over the batch: () and (). With ``per_image`` the sums of each image are
        divided by the number of its positives first.
        """
        cls = classes.sum(1)
        box = torch.zeros_like(cls).index_add(0, image, boxes)
        if self.per_image:
            positives = (matches >= 0).sum(1).clamp(min=1)
            cls, box = cls / positives, box / positives
        return cls.sum(), box.sum()


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> Tensor:
    """RetinaNet eq. (5): -alpha_t * (1 - p_t)^gamma * log(p_t), with p the sigmoid of the logits.

    logits (...) and targets (...) -> (), or (...) with the reduction "none". A target is 0 or 1, or a number between them
    (soft: p_t and alpha_t are then weighted means of the two cases). No gradient goes to the targets. alpha None: eq. (4), no
    weights.
    """
    loss: Tensor = _Focal.apply(logits, targets, alpha, gamma)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def over_classes(losses: Tensor, matches: Tensor) -> Tensor:
    """losses (B, A, K) and matches (B, A) -> (B, A): the sum over the classes; 0 for ignored anchors."""
    return losses.sum(2).masked_fill(matches == IGNORED, 0.0)


def count_positives(matches: Tensor) -> Tensor:
    """matches (B, A) -> (): how many anchors of the batch learn an object, float32."""
    return (matches >= 0).sum().float()


class _FocalContext(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    saved_tensors: tuple[Tensor, Tensor]
    alpha: float | None
    gamma: float


class _Focal(torch.autograd.Function):
    """The formula with its gradient written out. The logits of RetinaNet's 200,000 anchors of 80 classes take 64 MB a picture
    as float32. The backward pass keeps two such tensors; without this class it would keep eight.
    """

    @staticmethod
    def forward(ctx: _FocalContext, logits: Tensor, targets: Tensor, alpha: float | None, gamma: float) -> Tensor:
        """logits (...) and targets (...) -> the loss of each, (...)."""
        ctx.save_for_backward(logits, targets)
        ctx.alpha, ctx.gamma = alpha, gamma
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return cross_entropy.mul_(_wrong(logits.sigmoid(), targets).pow_(gamma)).mul_(_weight(targets, alpha))

    @staticmethod
    @once_differentiable
    def backward(ctx: _FocalContext, slope: Tensor) -> tuple[Tensor | None, ...]:
        """(...) -> (...). d/dx of w^gamma * ce: w^gamma * (p - t) + gamma * w^(gamma - 1) * w' * ce, where w' = p * (1 - p) *
        (1 - 2 t).
        """
        logits, targets = ctx.saved_tensors
        p = logits.sigmoid()
        wrong = _wrong(p, targets)
        result = (p - targets).mul_(wrong**ctx.gamma)
        if ctx.gamma > 0:
            cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            result += cross_entropy.mul_(wrong.pow_(ctx.gamma - 1)).mul_(p - p * p).mul_(ctx.gamma * (1 - 2 * targets))
        return result.mul_(_weight(targets, ctx.alpha)).mul_(slope), None, None, None


def _wrong(p: Tensor, targets: Tensor) -> Tensor:
    """1 - p_t, for p (...) and targets (...): how far each probability is from its target."""
    return (p + targets - 2 * p * targets).clamp_(min=SMALLEST_BASE)


def _weight(targets: Tensor, alpha: float | None) -> Tensor | float:
    """alpha_t, for targets (...)."""
    return 1.0 if alpha is None else 1 - alpha + (2 * alpha - 1) * targets
