"""Class error and box MAE, the two figures that the d2l book gives for its TinySSD (section 14.7.2, cls_eval and bbox_eval).

They judge the anchors, before any detection is made of them.

Shape letters: B images, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BookMetrics:
    """Sums over the anchors of one or more batches. ``+`` adds the sums of two batches or of two processes.

    anchors: their number. wrong: the number of anchors whose predicted class is not the assigned one; background counts as a
    class. distance: the sum of |predicted - assigned| over the four offsets of the anchors that hold an object.
    """

    anchors: int = 0
    wrong: int = 0
    distance: float = 0.0

    @classmethod
    def of(cls, predicted: Tensor, assigned: Tensor, *, deltas: Tensor, targets: Tensor, positive: Tensor) -> BookMetrics:
        """The sums of one batch.

        predicted, assigned (B, A) int64: the most likely class of each anchor, and the class that it should have; background
        is one of them. deltas, targets (B, A, 4): predicted and assigned offsets, in the coder's units. positive (B, A) bool:
        which anchors hold an object.
        """
        distance = (deltas.double() - targets.double())[positive].abs().sum()
        return cls(predicted.numel(), int((predicted != assigned).sum()), float(distance))

    def __add__(self, other: BookMetrics) -> BookMetrics:
        return BookMetrics(self.anchors + other.anchors, self.wrong + other.wrong, self.distance + other.distance)

    @property
    def class_error(self) -> float:
        """The share of anchors whose class is wrong, 0..1. NaN without anchors."""
        return self.wrong / self.anchors if self.anchors else float("nan")

    @property
    def box_mae(self) -> float:
        """Mean absolute error of the offsets, in the coder's units. NaN without anchors.

        As in the book, the sum is divided by all anchors, not only by those that hold an object.
        """
        return self.distance / (4 * self.anchors) if self.anchors else float("nan")
