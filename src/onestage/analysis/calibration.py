"""Scores made believable: each class gets a strictly rising function of the score, fitted to how often detections are hits.

Shape letters: K classes, P pictures, N detections. It is fitted on one half of the pictures and judged on the other. Because
it rises, the order of the detections inside a class stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch

from onestage.analysis.bootstrap import class_rows, over_classes, weighted_ap
from onestage.analysis.reliability import LocalisationReliability, Reliability, localisation_reliability, reliability
from onestage.analysis.thresholds import find_thresholds
from onestage.errors import ConfigError
from onestage.metrics.matches import Matches, match
from onestage.metrics.tables import Bools, Floats, Ints, rescored
from onestage.structures import Detections

FEWEST = 20
"""A class with fewer detections in a half of the fitted pictures has no function of that class alone."""
KNOTS = 10
"""Joined lines have at most so many knots between (0, 0) and (1, 1), and FEWEST detections at each."""
STEEPEST = 20.0
"""Temperatures lie between 1 / STEEPEST and STEEPEST."""
EDGE = 1e-6
"""For fitting, scores are kept so far away from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True)
class Temperature:
    """score -> sigmoid(logit(score) / value). A value above 1 draws scores towards .5; 1 leaves them (arXiv 1706.04599)."""

    value: float = 1.0

    def __call__(self, score: Floats) -> Floats:
        """(N,) -> (N,), each 0..1; 0, .5 and 1 stay."""
        if self.value == 1:
            return score
        yes, no = score ** (1 / self.value), (1 - score) ** (1 / self.value)
        return yes / (yes + no)


@dataclass(frozen=True)
class Lines:
    """Straight lines from (0, 0) over the knots to (1, 1). knots: score and share of hits; both rise strictly, inside 0..1."""

    knots: tuple[tuple[float, float], ...] = ()

    def __call__(self, score: Floats) -> Floats:
        """(N,) -> (N,), each 0..1; 0 and 1 stay."""
        scores, shares = zip((0.0, 0.0), *self.knots, (1.0, 1.0), strict=True)
        return np.interp(score, scores, shares)


Rule: TypeAlias = Temperature | Lines
Method = Literal["best", "temperature", "lines"]
"""What a class may get besides no change; "best": either."""


@dataclass(frozen=True)
class Calibration:
    """What to do with scores: a rule for each of the K classes, by label."""

    rules: tuple[Rule, ...]

    def __call__(self, score: Floats, label: Ints) -> Floats:
        """Scores (N,) of detections with these labels (N,) -> calibrated scores (N,)."""
        result, order = np.array(score, np.float64), np.argsort(label, kind="stable")
        labels, starts = np.unique(label[order], return_index=True)
        for k, rows in zip(labels.tolist(), np.split(order, starts[1:]), strict=True) if len(order) else ():
            result[rows] = self.rules[k](result[rows])
        return result

    def apply(self, detections: Detections) -> Detections:
        """The same detections with calibrated scores, best first again; those of one class stay in their order."""
        scores = self(detections.scores.cpu().double().numpy(), detections.labels.cpu().numpy())
        changed = replace(detections, scores=torch.from_numpy(scores).to(detections.scores))
        return changed.select(changed.scores.argsort(descending=True, stable=True))


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and what it does to the pictures that it was not fitted on, whose number is ``pictures``.

    shown: the detections of at least the score of the best F1 before, those that a user would see; most others have scores near
    0. AP is COCO's, of these pictures. It changes only if calibrated scores become equal or lie too near for their type.
    """

    calibration: Calibration
    method: Method
    seed: int
    fitted_pictures: int
    pictures: int
    before: Reliability
    after: Reliability
    shown_before: Reliability
    shown_after: Reliability
    localisation_before: LocalisationReliability
    localisation_after: LocalisationReliability
    AP_before: float
    AP_after: float

    @property
    def helps(self) -> bool:
        """Whether D-ECE is less than before, and not more among the detections that are shown, on the pictures that the
        calibration was not fitted on.
        """
        return self.after.error < self.before.error and not self.shown_after.error > self.shown_before.error


def calibrate(matches: Matches, *, method: Method = "best", seed: int = 0) -> Calibrated:
    """Fit a calibration on one half of the pictures and judge it on the other half; the seed says which half is which.

    A hit is one at IoU .5, which is among the thresholds of the matches; ignored detections teach nothing. Each class takes,
    of no change, a rule for all classes, and a rule for it alone, of each kind that the method has, the one of least log loss
    when the fitted half is divided once more. Raise ConfigError for an unknown method.
    """
    if method not in FITS:
        raise ConfigError("no such way to calibrate", got=repr(method), expected=" or ".join(FITS))
    count = len(matches.table.image_ids)
    part = np.empty(count, np.int64)  # 0, 1: the two halves to fit on; 2, 3: the pictures to judge on
    part[np.random.default_rng(seed).permutation(count)] = np.arange(count) * 4 // max(count, 1)
    calibration = Calibration(_fit_classes(matches, part[matches.picture], FITS[method]))
    changed = match(rescored(matches.table, calibration(matches.score, matches.table.found.label)), ious=matches.ious)
    judged = part >= 2
    shown = matches.score >= find_thresholds(matches, draws=0).overall.score.value  # none, if the score is NaN
    before, after = judged[matches.picture], judged[changed.picture]  # rows stay where they are: rules rise
    return Calibrated(
        calibration=calibration,
        method=method,
        seed=seed,
        fitted_pictures=int((~judged).sum()),
        pictures=int(judged.sum()),
        before=reliability(matches, rows=before),
        after=reliability(changed, rows=after),
        shown_before=reliability(matches, rows=before & shown),
        shown_after=reliability(changed, rows=after & shown),
        localisation_before=localisation_reliability(matches.table, pictures=judged),
        localisation_after=localisation_reliability(changed.table, pictures=judged),
        AP_before=_ap(matches, judged),
        AP_after=_ap(changed, judged),
    )


def fit_temperature(score: Floats, hit: Bools) -> Temperature:
    """The temperature of least log loss for detections (N,). The loss is convex in 1 / temperature: its slope is bisected."""
    clipped = np.clip(score, EDGE, 1 - EDGE)
    logit = np.log(clipped) - np.log1p(-clipped)
    low, high = 1 / STEEPEST, STEEPEST
    for _ in range(50):
        middle = (low + high) / 2
        slope = (logit * (1 / (1 + np.exp(-logit * middle)) - hit)).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return Temperature(2 / (low + high)) if len(score) else Temperature()


def fit_lines(score: Floats, hit: Bools) -> Lines:
    """Joined lines through the shares of hits in groups of about equal size; neighbours that do not rise are joined.

    A share is (hits + 1) / (detections + 2), so that it is never 0 or 1.
    """
    groups = np.array_split(np.argsort(score, kind="stable"), max(1, min(KNOTS, len(score) // FEWEST)))
    blocks: list[tuple[float, float, int]] = []  # sum of scores, hits, detections
    for rows in groups:
        block = float(score[rows].sum()), float(hit[rows].sum()), len(rows)
        while blocks and not _rises(blocks[-1], block):
            last = blocks.pop()
            block = last[0] + block[0], last[1] + block[1], last[2] + block[2]
        blocks.append(block)
    return Lines(tuple(knot for block in blocks if block[2] and 0 < (knot := _knot(*block))[0] < 1))


Fit: TypeAlias = Callable[[Floats, Bools], Rule]
FITS: dict[Method, tuple[Fit, ...]] = {
    "best": (fit_temperature, fit_lines),
    "temperature": (fit_temperature,),
    "lines": (fit_lines,),
}


def _knot(scores: float, hits: float, count: int) -> tuple[float, float]:
    return scores / count, (hits + 1) / (count + 2)


def _rises(last: tuple[float, float, int], block: tuple[float, float, int]) -> bool:
    """Whether the knot of a block lies above and to the right of the knot of the last one."""
    return all(a < b for a, b in zip(_knot(*last), _knot(*block), strict=True))


def _fit_classes(matches: Matches, part: Ints, fits: Sequence[Fit]) -> tuple[Rule, ...]:
    """The rule of each class; part (N,): 0 or 1 for the detections of the two halves to fit on."""
    at = matches.at(0.5)
    kept = ~matches.ignored[at] & (part < 2)
    score, hit, part, label = matches.score[kept], matches.hit[at, kept], part[kept], matches.table.found.label[kept]
    halves = [part == 0, part == 1]
    pooled = [(fit(score, hit), [fit(score[half], hit[half]) for half in halves]) for fit in fits]
    rules: list[Rule] = []
    starts = np.searchsorted(label, np.arange(len(matches.table.classes) + 1)).tolist()  # the rows of a class stand together
    for mine in map(slice, starts[:-1], starts[1:]):
        parts = [(score[mine][half[mine]], hit[mine][half[mine]]) for half in halves]
        candidates: list[tuple[Rule, list[Rule]]] = [(Temperature(), [Temperature()] * 2), *pooled]
        if all(len(rows) >= FEWEST for rows, _ in parts):
            candidates += [(fit(score[mine], hit[mine]), [fit(*part) for part in parts]) for fit in fits]
        losses = [_held_out(fitted, parts) for _, fitted in candidates]
        rules.append(candidates[int(np.argmin(losses))][0] if mine.start < mine.stop else pooled[0][0])
    return tuple(rules)


def _held_out(fitted: list[Rule], halves: list[tuple[Floats, Bools]]) -> float:
    """The log loss of each half's detections under the rule that was fitted on the other half."""
    loss = 0.0
    for rule, (score, hit) in zip(fitted[::-1], halves, strict=True):
        chance = np.clip(rule(score), EDGE, 1 - EDGE)
        loss -= float(np.log(np.where(hit, chance, 1 - chance)).sum())
    return loss


def _ap(matches: Matches, pictures: Bools) -> float:
    """COCO's AP of these pictures, (P,), alone."""
    shape = len(matches.ious), len(matches.table.classes)
    ap = weighted_ap(class_rows(matches), pictures[None].astype(np.int32), shape)
    return float(over_classes(ap.mean(1))[0])
