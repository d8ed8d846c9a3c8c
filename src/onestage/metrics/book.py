"""The two figures that the d2l book gives for its TinySSD (section 14.7.2, cls_eval and bbox_eval): how the anchors fare,
before any detection is made of them.

Shape letters: B images, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BookMetrics:
    """Sums over the anchors of any number of batches; those of two batches, or of two processes, add up with ``+``.

    anchors: how many there were; wrong: how many got another class than was assigned to them, background included;
    distance: the sum of |predicted - assigned| over the four offsets of the anchors that hold an object.
    """

    anchors: int = 0
    wrong: int = 0
    distance: float = 0.0

    @classmethod
    def of(cls, predicted: Tensor, assigned: Tensor, *, deltas: Tensor, targets: Tensor, positive: Tensor) -> BookMetrics:
        """The sums of one batch.

        predicted, assigned (B, A) int64: the most likely class of each anchor and the one it should have, background among
        them; deltas, targets (B, A, 4): predicted and assigned offsets, in the coder's units; positive (B, A) bool.
        """
        distance = (deltas.double() - targets.double())[positive].abs().sum()
        return cls(predicted.numel(), int((predicted != assigned).sum()), float(distance))

    def __add__(self, other: BookMetrics) -> BookMetrics:
        return BookMetrics(self.anchors + other.anchors, self.wrong + other.wrong, self.distance + other.distance)

    @property
    def class_error(self) -> float:
        """The part of all anchors whose class is wrong, 0..1; NaN before the first anchor."""
        return self.wrong / self.anchors if self.anchors else float("nan")

    @property
    def box_mae(self) -> float:
        """Mean absolute error of the offsets, in the coder's units. As in the book it is divided by all anchors, not only by
        those that hold an object; NaN before the first anchor."""
        return self.distance / (4 * self.anchors) if self.anchors else float("nan")
