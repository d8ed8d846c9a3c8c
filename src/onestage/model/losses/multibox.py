"""SSD's loss: softmax with hard negative mining.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, N objects in one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.max_iou import BACKGROUND, Assignment
from onestage.model.limits import Candidates, NotNegative, Positive
from onestage.model.losses.boxes import AnchorLoss, BoxLoss, ScoreActivation, SmoothL1
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class MultiBoxLoss(AnchorLoss):
    """SSD's loss (section 2.2, eq. 1-3): softmax cross-entropy on the positives and the hardest negatives, smooth L1 on the
    offsets of the positives, both divided by the number of positives.

    negative_ratio: how many negatives count for every positive of an image; these have the largest loss (section 2.2,
    hard negative mining). min_negatives: how many negatives count in an image without positives, so that the network learns
    from pictures of background alone. In the divisor such an image counts as the number of positives that would give as many
    negatives. (The paper leaves such images out; in torchvision their loss is exactly 0.) box_weight: alpha of eq. (1).
    """

    activation: ClassVar[ScoreActivation] = "softmax"

    negative_ratio: Positive = 3.0
    min_negatives: Candidates = 30
    box: BoxLoss = field(default_factory=SmoothL1)
    box_weight: NotNegative = 1.0

    def class_losses(self, output: HeadOutput, assignment: Assignment, coder: BoxCoder) -> Tensor:
        """logits (B, A, C) and matches (B, A) -> (B, A): the cross-entropy of positives and hard negatives; 0 for the rest."""
        image, anchor, match = assignment.positives()
        negative_image, negative_anchor = self.hard_negatives(output.logits, assignment.matches)
        classes = torch.cat([assignment.labels[image, match] + 1, torch.zeros_like(negative_image)])
        rows = torch.cat([image, negative_image]), torch.cat([anchor, negative_anchor])
        losses = F.cross_entropy(output.logits[rows].float(), classes, reduction="none")
        return losses.new_zeros(assignment.matches.shape).index_put(rows, losses)

    def normalizer(self, matches: Tensor) -> Tensor:
        """matches (B, A) -> (): the number of positives; an image without positives counts by its negatives."""
        positives = (matches >= 0).sum(1)
        empty = self.min_negatives / self.negative_ratio
        return torch.where(positives > 0, positives.float(), empty).sum()

    @torch.no_grad()
    def hard_negatives(self, logits: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """logits (B, A, C) and matches (B, A) -> image and anchor index, one per hard negative: the background anchors of each
        image that look least like background.
        """
        logits = logits.float()  # bfloat16 cannot rank easy negatives: their differences would be 0 or 2^-6
        surprise = (logits.logsumexp(dim=2) - logits[:, :, 0]).masked_fill(matches != BACKGROUND, -torch.inf)
        positives = (matches >= 0).sum(1)
        wanted = torch.where(positives > 0, self.negative_ratio * positives, self.min_negatives).long()
        most = min(int(wanted.max()), logits.shape[1])
        values, anchors = surprise.topk(most, dim=1)
        taken = (torch.arange(most, device=logits.device) < wanted[:, None]) & (
            values != -torch.inf
        )  # NaN stays, so that it is noticed
        image, rank = taken.nonzero(as_tuple=True)
        return image, anchors[image, rank]
