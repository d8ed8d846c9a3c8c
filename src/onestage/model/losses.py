"""What training minimises.

Shape letters: B images, A anchors, K classes, C logits per anchor (K, or K + 1 with background first), P positive anchors of a
batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onestage import boxes as box_ops
from onestage.errors import require
from onestage.model.assign import BACKGROUND, IGNORED, Assignment
from onestage.model.box_losses import BoxLoss, IoULoss, SmoothL1
from onestage.model.coder import BoxCoder
from onestage.structures import HeadOutput

Activation = Literal["softmax", "sigmoid"]
"""How logits become scores: softmax over K + 1 logits, background first, or a sigmoid for each of K."""


class Positives(NamedTuple):
    """The anchors of a batch that learn an object, (P, ...) each: where they are, what they learn, what they said."""

    image: Tensor
    anchor: Tensor
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    deltas: Tensor

    @classmethod
    def of(cls, output: HeadOutput, assignment: Assignment) -> Positives:
        image, anchor, match = assignment.positives()
        labels, boxes = assignment.labels[image, match], assignment.boxes[image, match]
        return cls(image, anchor, labels, boxes, assignment.anchors[anchor], output.deltas[image, anchor].float())

    def box_losses(self, loss: BoxLoss, coder: BoxCoder) -> Tensor:
        """(P,)"""
        return loss(self.deltas, self.anchors, self.boxes, coder)


@dataclass(frozen=True)
class MultiBoxLoss:
    """SSD's loss (section 2.2, eq. 1-3): softmax cross-entropy on the positives and the hardest negatives, smooth L1 on the
    offsets of the positives, both divided by the number of positives.

    negative_ratio: that many negatives for every positive of an image, those of largest loss (section 2.2, hard negative
    mining). min_negatives: an image without positives teaches with that many negatives, so that pictures of nothing but
    background count; in the divisor it weighs as the positives that would have brought as many negatives. (The paper leaves
    such images out; torchvision's loss of them is exactly 0.) box_weight: eq. (1)'s alpha.
    """

    activation: ClassVar[Activation] = "softmax"

    negative_ratio: float = 3.0
    min_negatives: int = 30
    box: BoxLoss = field(default_factory=SmoothL1)
    box_weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.negative_ratio > 0 and self.min_negatives > 0, "a detector needs negatives to learn from", got=self)
        require(self.box_weight >= 0, "box_weight is not negative", got=self)

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
        image, anchor, match = assignment.positives()
        negative_image, negative_anchor = self.hard_negatives(output.logits, assignment.matches)
        classes = torch.cat([assignment.labels[image, match] + 1, torch.zeros_like(negative_image)])
        rows = torch.cat([image, negative_image]), torch.cat([anchor, negative_anchor])
        losses = F.cross_entropy(output.logits[rows].float(), classes, reduction="none")
        return losses.new_zeros(assignment.matches.shape).index_put(rows, losses)

    def normalizer(self, matches: Tensor) -> Tensor:
        """The divisor of the batch, () float32. Over several batches or processes the sum divides them all."""
        positives = (matches >= 0).sum(1)
        empty = self.min_negatives / self.negative_ratio
        return torch.where(positives > 0, positives.float(), empty).sum()

    @torch.no_grad()
    def hard_negatives(self, logits: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Image and anchor index of the background anchors that look least like background, as many as each image is due."""
        logits = logits.float()  # in bfloat16 the difference of an easy negative would be 0 or 2^-6: no ranking at all
        surprise = (logits.logsumexp(dim=2) - logits[:, :, 0]).masked_fill(matches != BACKGROUND, -torch.inf)
        positives = (matches >= 0).sum(1)
        due = torch.where(positives > 0, self.negative_ratio * positives, self.min_negatives).long()
        most = min(int(due.max()), logits.shape[1])
        values, anchors = surprise.topk(most, dim=1)
        taken = (torch.arange(most, device=logits.device) < due[:, None]) & (values != -torch.inf)  # NaN stays, to be seen
        image, rank = taken.nonzero(as_tuple=True)
        return image, anchors[image, rank]


@dataclass(frozen=True)
class FocalLoss:
    """RetinaNet's loss (section 3): K independent sigmoids, the focal loss summed over all anchors that are not ignored, and a
    box loss on the positives, both divided by the number of positives.

    alpha: weight of the class that is there, 1 - alpha that of those that are not; None leaves both unweighted. gamma: how much
    the easy ones are turned down; 0 is cross-entropy. label_smoothing: s makes the targets 1 - s / 2 and s / 2. per_image: each
    image is divided by its own positives and the mean over the images is taken, as in torchvision, where a picture with few
    objects weighs as much as one with many.
    """

    activation: ClassVar[Activation] = "sigmoid"

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


@dataclass(frozen=True)
class QualityFocalLoss:
    """Generalized Focal Loss, section 3.1, eq. 2: the score learns how well its box fits. The target of an object's class is
    the IoU of the box that this anchor predicts, everything else 0; |target - p|^beta turns down what is right already.

    All anchors that are not ignored count; the sum is divided by the number of positives.
    """

    activation: ClassVar[Activation] = "sigmoid"

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


ClassLoss = MultiBoxLoss | FocalLoss | QualityFocalLoss

_TINY = 1e-12
"""Below it a power has no gradient: that of x^0.5 at 0 would be infinite."""


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


def _of_anchors(losses: Tensor, matches: Tensor) -> Tensor:
    """(B, A, K) -> (B, A): the sum over the classes; 0 for ignored anchors."""
    return losses.sum(2).masked_fill(matches == IGNORED, 0.0)


def _positives(matches: Tensor) -> Tensor:
    """How many anchors of the batch learn an object, () float32."""
    return (matches >= 0).sum().float()
