"""SSD's loss: softmax with hard negative mining.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, N objects in one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from onestage.errors import require
from onestage.model.anchors.assignment import BACKGROUND, Assignment
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import BoxLoss, SmoothL1
from onestage.model.losses.positives import Positives, ScoreActivation
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class MultiBoxLoss:
    """SSD's loss (section 2.2, eq. 1-3): softmax cross-entropy on the positives and the hardest negatives, smooth L1 on the
    offsets of the positives, both divided by the number of positives.

    negative_ratio: that many negatives for every positive of an image, those of largest loss (section 2.2, hard negative
    mining). min_negatives: an image without positives teaches with that many negatives, so that pictures of nothing but
    background count; in the divisor it weighs as the positives that would have brought as many negatives. (The paper leaves
    such images out; torchvision's loss of them is exactly 0.) box_weight: eq. (1)'s alpha.
    """

    activation: ClassVar[ScoreActivation] = "softmax"

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
