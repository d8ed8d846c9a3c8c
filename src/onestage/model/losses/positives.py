"""The anchors that learn an object, gathered: what every loss needs.

Shape letters: B images, A anchors, C logits per anchor, K classes, P positives, N objects in one image.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from onestage.model.anchors.assignment import IGNORED, Assignment
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import BoxLoss
from onestage.structures import HeadOutput

ScoreActivation = Literal["softmax", "sigmoid"]
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


_TINY = 1e-12
"""Below it a power has no gradient: that of x^0.5 at 0 would be infinite."""


def _of_anchors(losses: Tensor, matches: Tensor) -> Tensor:
    """(B, A, K) -> (B, A): the sum over the classes; 0 for ignored anchors."""
    return losses.sum(2).masked_fill(matches == IGNORED, 0.0)


def _positives(matches: Tensor) -> Tensor:
    """How many anchors of the batch learn an object, () float32."""
    return (matches >= 0).sum().float()
