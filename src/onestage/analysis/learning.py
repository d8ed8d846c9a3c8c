"""Would more pictures help: AP after trainings on a quarter, half and all of them, and where that leads.

Shape letters: B draws of the measured pictures. AP is taken to follow a power law, ceiling - b * n ** -c for n pictures. Then
each doubling of n brings 2 ** -c times what the doubling before it brought. So three points at n, 2n and 4n give the point at
8n without a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onestage.analysis.bootstrap import DRAWS, Estimate, drawn_ap, estimate, over_classes
from onestage.metrics.ap import average_precision
from onestage.metrics.matches import Matches
from onestage.metrics.tables import Floats

PARTS = (1, 2, 4)
"""The trainings, in quarters of the pictures."""
LITTLE = 0.01
"""AP below which twice as many pictures bring little."""

Answer: TypeAlias = Literal["helps", "little", "unknown"]


@dataclass(frozen=True)
class CurvePoint:
    """AP after a training on so many pictures, with its interval over the measured pictures."""

    pictures: int
    AP: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """AP against the number of training pictures, and what it would be with twice as many.

    points: on a quarter, half and all of the pictures, each trained for so many ``minutes``. rise: AP with all of them less AP
    with half. doubled: AP with twice as many as all; gain: what they would add. steady: the share of the draws in which AP
    rises twice, and the second time by less, as a power law does. answer: helps: it rose, surely, and would go on to rise;
    little: the gain is surely below LITTLE; unknown: neither is sure. Intervals are over draws of the measured pictures: they
    know nothing of another seed. measured: the number of these pictures.
    """

    points: tuple[CurvePoint, ...]
    rise: Estimate
    doubled: Estimate
    gain: Estimate
    steady: float
    answer: Answer
    minutes: float
    measured: int
    draws: int
    seed: int


def learning_curve(
    trained: Sequence[tuple[int, Matches]], *, minutes: float, draws: int = DRAWS, seed: int = 0
) -> LearningCurve:
    """The curve through three trainings: the number of pictures of each, n, 2n and 4n, and the matches of its detections in the
    same measured pictures.
    """
    values = np.array([[average_precision(matches).mean for _, matches in trained]])
    every = [over_classes(drawn_ap(matches, draws=draws, seed=seed).mean(1)) for _, matches in trained]
    drawn = np.stack(every, axis=1)
    measured = len(trained[0][1].table.image_ids)
    gains, drawn_gains = gain_of_doubling(values), gain_of_doubling(drawn)
    rise = estimate(values[0, 2] - values[0, 1], drawn[:, 2] - drawn[:, 1], measured)
    gain = estimate(gains[0], drawn_gains, measured)
    first, second = np.diff(drawn, axis=1).T
    return LearningCurve(
        points=tuple(CurvePoint(n, estimate(values[0, i], drawn[:, i], measured)) for i, (n, _) in enumerate(trained)),
        rise=rise,
        doubled=estimate(values[0, 2] + gains[0], drawn[:, 2] + drawn_gains, measured),
        gain=gain,
        steady=float(((second > 0) & (second < first)).mean()) if len(drawn) else 0.0,
        answer=_answer(rise, gain),
        minutes=minutes,
        measured=measured,
        draws=draws,
        seed=seed,
    )


def gain_of_doubling(curves: Floats) -> Floats:
    """(B, 3) AP at n, 2n and 4n pictures -> (B,) what 8n pictures would add, by the power law through the three.

    Where AP does not rise from 2n to 4n, nothing is added. Where it rises by more than before, no power law fits; then the next
    doubling is taken to bring as much as the last one.
    """
    first, second = np.diff(curves, axis=1).T
    ratio = np.divide(second, first, out=np.ones(len(curves)), where=first > 0)
    return np.maximum(second, 0) * np.clip(ratio, 0, 1)


def _answer(rise: Estimate, gain: Estimate) -> Answer:
    """What can be told. Figures that are NaN tell nothing."""
    if gain.high < LITTLE:
        return "little"
    return "helps" if rise.low > 0 and gain.value >= LITTLE else "unknown"
