"""What all class losses share: the anchors that learn an object, and the way from losses per anchor to one number.

Shape letters: B images, A anchors, C logits per anchor, K classes, N objects in one image, P positives: the anchors of a batch
that learn an object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from onestage.model.anchors.assignment import IGNORED, Assignment
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import BoxLoss
from onestage.structures import HeadOutput

ScoreActivation = Literal["softmax", "sigmoid"]
"""How logits become scores: a softmax over K + 1 logits, background first, or a sigmoid for each of K."""

SMALLEST_BASE = 1e-12
"""Below this number a power has no gradient: the gradient of x^0.5 at 0 would be infinite."""


class Positives(NamedTuple):
    """The anchors of a batch that learn an object: where they are, what they learn, and what the network said of them.

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
        """Gathers them from deltas (B, A, 4) and matches (B, A)."""
        image, anchor, match = assignment.positives()
        labels, boxes = assignment.labels[image, match], assignment.boxes[image, match]
        return cls(image, anchor, labels, boxes, assignment.anchors[anchor], output.deltas[image, anchor].float())


class AnchorLoss(ABC):
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


def over_classes(losses: Tensor, matches: Tensor) -> Tensor:
    """losses (B, A, K) and matches (B, A) -> (B, A): the sum over the classes; 0 for ignored anchors."""
    return losses.sum(2).masked_fill(matches == IGNORED, 0.0)


def count_positives(matches: Tensor) -> Tensor:
    """matches (B, A) -> (): how many anchors of the batch learn an object, float32."""
    return (matches >= 0).sum().float()
