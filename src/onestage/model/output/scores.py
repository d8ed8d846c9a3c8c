"""What was measured about the scores of a detector: how they become believable, and which of them to report.

Shape letters: K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from onestage.errors import require
from onestage.model.codec import Limit, Part, Range, WithoutKind
from onestage.model.limits import MANY_CLASSES, Probability, Share
from onestage.structures import Detections

Temperature = Annotated[float, Range(least=0.01, most=100)]
"""Those that are fitted lie between 0.05 and 20."""
Knots = Annotated[tuple[tuple[Probability, Probability], ...], Limit("knots of joined lines", 1000)]
"""Points (score, calibrated score) that rise in both; (0, 0) and (1, 1) are the ends."""
ROUNDING = 1e-4
"""More of a score than rounding changes, at any temperature."""


@dataclass(frozen=True)
class Scores(Part, WithoutKind):
    """What to do with the scores of final detections: numbers that were measured on labelled pictures, for the weights of one
    file. So they are no part of a config, and a training drops them.

    thresholds: the least score of each of the K classes, by label, that is reported by default; empty: none was kept.
    temperatures, lines: how the scores of each of the K classes are calibrated, before thresholds are looked at: score ->
    sigmoid(logit(score) / temperature), and what comes of it -> the height of straight lines from (0, 0) over the knots to
    (1, 1). Both rise, so the detections of a class stay in their order. Empty: scores stay as they are, as at a temperature of
    1 and without knots.
    """

    thresholds: Annotated[tuple[Share, ...], MANY_CLASSES] = ()
    temperatures: Annotated[tuple[Temperature, ...], MANY_CLASSES] = ()
    lines: Annotated[tuple[Knots, ...], MANY_CLASSES] = ()

    def check(self, classes: int) -> None:
        """Raise ConfigError unless there is something for each of so many classes, or for none, and all lines rise."""
        fix = "measure this model again"
        for name in ("thresholds", "temperatures", "lines"):
            given = len(getattr(self, name))
            rule = f"{name} are one for each of the {classes} classes, or none"
            require(given in (0, classes), rule, got=given, fix=fix)
        for knots in self.lines:
            rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(knots))
            require(rising, "the knots of joined lines rise", got=list(knots), fix=fix)

    @property
    def calibrates(self) -> bool:
        """Whether scores change."""
        return bool(self.temperatures or self.lines)

    def calibrated(self, found: Detections) -> Detections:
        """The same D detections with scores to be believed, best first again."""
        if not self.calibrates:
            return found
        scores = found.scores.double()
        if self.temperatures:
            heat = _of_each(self.temperatures, found.labels)
            scores = torch.where(heat == 1, scores, _tempered(scores, heat))
        for label in found.labels.unique().tolist() if self.lines else ():
            if knots := self.lines[label]:
                mine = found.labels == label
                scores[mine] = _on_lines(scores[mine], knots)
        scores = scores.to(found.scores.dtype)
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
        if not self.calibrates:
            return score
        least = torch.tensor([min(score, 1.0)], dtype=torch.float64, device="cpu")
        raw = torch.cat([_on_lines(least, [(b, a) for a, b in knots]) for knots in self.lines]) if self.lines else least
        if self.temperatures:
            raw = _tempered(raw, 1 / torch.tensor(self.temperatures, dtype=torch.float64, device="cpu"))
        return float(raw.min()) * (1 - ROUNDING)


def _of_each(numbers: Sequence[float], labels: Tensor) -> Tensor:
    """(D,) float64: the number of the class of each label, (D,)."""
    return torch.tensor(numbers, dtype=torch.float64, device=labels.device)[labels]


def _tempered(score: Tensor, heat: Tensor) -> Tensor:
    """sigmoid(logit(score) / heat), for scores (D,) in 0..1, whose logits may be infinite, and temperatures (D,)."""
    yes, no = score ** (1 / heat), (1 - score) ** (1 / heat)
    return yes / (yes + no)


def _on_lines(score: Tensor, knots: Sequence[tuple[float, float]]) -> Tensor:
    """(D,) float64: the heights of the lines from (0, 0) over the knots to (1, 1) at scores (D,) in 0..1."""
    x, y = torch.tensor([(0.0, 0.0), *knots, (1.0, 1.0)], dtype=torch.float64, device=score.device).T.contiguous()
    right = torch.searchsorted(x, score).clamp(1, len(x) - 1)
    part = (score - x[right - 1]) / (x[right] - x[right - 1])
    return (y[right - 1] + part * (y[right] - y[right - 1])).clamp(0, 1)
