"""What was measured about the scores of a detector: how they become believable, and which of them to report.

Shape letters: K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from onestage.errors import require
from onestage.model.codec import Part, Range, WithoutKind
from onestage.model.limits import MANY_CLASSES, Share
from onestage.structures import Detections

Temperature = Annotated[float, Range(least=0.01, most=100)]
"""Those that are fitted lie between 0.05 and 20."""
ROUNDING = 1e-4
"""More of a score than rounding changes, at any temperature."""


@dataclass(frozen=True)
class Scores(Part, WithoutKind):
    """What to do with the scores of final detections: numbers that were measured on labelled pictures, for the weights of one
    file. So they are no part of a config, and a training drops them.

    thresholds: the least score of each of the K classes, by label, that is reported by default; empty: none was kept.
    temperatures: of each of the K classes: score -> sigmoid(logit(score) / temperature), before thresholds are looked at. It
    rises, so the detections of a class stay in their order. Empty: scores stay as they are.
    """

    thresholds: Annotated[tuple[Share, ...], MANY_CLASSES] = ()
    temperatures: Annotated[tuple[Temperature, ...], MANY_CLASSES] = ()

    def check(self, classes: int) -> None:
        """Raise ConfigError unless there is a number for each of so many classes, or none at all."""
        for name, numbers in (("thresholds", self.thresholds), ("temperatures", self.temperatures)):
            rule, fix = f"{name} are one for each of the {classes} classes, or none", "measure this model again"
            require(len(numbers) in (0, classes), rule, got=f"{len(numbers)} numbers", fix=fix)

    def calibrated(self, found: Detections) -> Detections:
        """The same D detections with scores to be believed, best first again."""
        if not self.temperatures:
            return found
        raw, heat = found.scores.double(), _of_each(self.temperatures, found.labels)
        scores = torch.where(heat == 1, raw, _tempered(raw, heat)).to(found.scores.dtype)
        return replace(found, scores=scores).select(scores.argsort(descending=True, stable=True))

    def reported(self, found: Detections, score: float | None) -> Detections:
        """Those of D detections that are reported, with calibrated scores: by the thresholds, or above a ``score``."""
        found = self.calibrated(found)
        if score is not None:
            return found.select(found.scores > score)
        if not self.thresholds:
            return found
        return found.select(found.scores.double() >= _of_each(self.thresholds, found.labels))

    def before(self, score: float) -> float:
        """A score from 0 to 1 before calibration: what lies below it does not reach ``score`` in any class afterwards."""
        if not self.temperatures:
            return score
        heat = torch.tensor(self.temperatures, dtype=torch.float64, device="cpu")
        raw = _tempered(torch.full_like(heat, min(score, 1.0)), 1 / heat)
        return float(raw.min()) * (1 - ROUNDING)


def _of_each(numbers: Sequence[float], labels: Tensor) -> Tensor:
    """(D,) float64: the number of the class of each label, (D,)."""
    return torch.tensor(numbers, dtype=torch.float64, device=labels.device)[labels]


def _tempered(score: Tensor, heat: Tensor) -> Tensor:
    """sigmoid(logit(score) / heat), for scores (D,) in 0..1, whose logits may be infinite, and temperatures (D,)."""
    yes, no = score ** (1 / heat), (1 - score) ** (1 / heat)
    return yes / (yes + no)
