"""How sure a search can be of its best trial. All its trials are measured on the same pictures, so they are compared in the
same draws of them: what makes a draw easy or hard for all is not in the differences.

Shape letters: B draws, N trials other than the one that they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onestage.analysis.bootstrap import Estimate, drawn_ap, over_classes
from onestage.analysis.compare import Difference
from onestage.data import Dataset
from onestage.metrics.matches import match
from onestage.metrics.tables import Floats, tabulate
from onestage.structures import Detections

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEVEL = 95.0
"""Of 100 drawn data sets, so many have all differences of a trial inside their intervals at once."""
DIGITS = 5
"""Digits of the AP of a draw that are kept: a thousand of them stand in the database with each trial."""
DRAWN, SHOWN, STEPS = "drawn", "shown", "steps"
"""What is kept with a trial: its AP in each draw, the number of pictures that have an object, and the steps of its training."""
COSTLY = ("model", "size", "batch_size")
"""What decides how long a step takes on the same machine."""
EVEN = 1.5
"""Steps that differ by a larger factor have taught differently much."""


@dataclass(frozen=True)
class Drawn:
    """The AP of a trial in each of B draws of the pictures, and the number of pictures that have an object."""

    AP: tuple[float, ...] = ()
    pictures: int = 0


UNKNOWN = Drawn()


def drawn_of(found: Sequence[Detections], data: Dataset) -> Drawn:
    """The AP of what was found in pictures of a data set, in draws that are the same for all that is found there."""
    rows = {image_id: row for row, image_id in enumerate(data.image_ids)}
    matches = match(tabulate(found, [data.truth(rows[one.image_id]) for one in found], data.classes))
    drawn = np.nan_to_num(over_classes(drawn_ap(matches).mean(1)))  # a draw without objects has none for any trial
    pictures = len(np.unique(matches.table.true.picture[matches.counted]))
    return Drawn(tuple(round(float(AP), DIGITS) for AP in drawn), pictures)


def differences(base: FrozenTrial, others: Sequence[FrozenTrial]) -> dict[int, Difference]:
    """The AP of each of N other trials less that of ``base``, by number; those without draws are left out.

    The best of many trials is picked because it looks good, so each interval is wide enough for all N at once: that many
    standard deviations to both sides as the largest deviation in 95 of 100 draws (the bootstrap of the largest deviation).
    """
    known = [other for other in others if _draws(other).size == _draws(base).size > 0]
    if not known:
        return {}
    drawn = np.stack([_draws(other) - _draws(base) for other in known])  # (N, B)
    spread = drawn.std(1)
    away = np.abs(drawn - drawn.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)[:, None]
    reach = np.percentile(away.max(0), LEVEL) * spread
    result = {}
    for other, half in zip(known, reach.tolist(), strict=True):
        first, second = base.value or 0.0, other.value or 0.0
        gain = Estimate(second - first, second - first - half, second - first + half)
        pictures = min(base.user_attrs.get(SHOWN, 0), other.user_attrs.get(SHOWN, 0))
        result[other.number] = Difference("AP", first, second, gain, pictures)
    return result


def _draws(trial: FrozenTrial) -> Floats:
    """(B,) the AP of a trial in each draw."""
    return np.array(trial.user_attrs.get(DRAWN, ()), np.float64)


@dataclass(frozen=True)
class Verdict:
    """What a search has found. best, rule: trials; rule: that of the default settings, None if it was not measured.

    gains: each other trial less the rule, by number; none if the rule was not measured. equals:
    trials that cannot be told from the best one. pictures: that all were measured on. trials: that were measured.
    uneven: the fewest and the most steps of trials that should have had equally many; None if they nearly had.
    """

    best: FrozenTrial
    rule: FrozenTrial | None
    gains: Mapping[int, Difference]
    equals: tuple[int, ...]
    pictures: int
    trials: int
    uneven: tuple[int, int] | None = None

    @property
    def gain(self) -> Difference | None:
        """The best trial less the default settings; None if these were not measured or are the best."""
        return self.gains.get(self.best.number)

    @property
    def better(self) -> bool:
        """Whether the best trial is better than the default settings, and not by the choice of pictures or a faster machine."""
        return self.gain is not None and self.gain.told_apart and self.gain.difference.value > 0 and self.uneven is None

    @property
    def gain_text(self) -> str:
        """How the best trial compares with the default settings, in a sentence."""
        if self.rule is None:
            return "the default settings were not measured, so nothing says that these are better"
        if self.rule.number == self.best.number:
            return "nothing was found that is better than the default settings"
        default = f"the default settings have {self.rule.value:.3f}"
        if self.gain is None:
            return f"{default}; nothing says how sure that is"
        one = self.gain.difference
        text = f"{default}, {one.value:.3f} less; 95 % interval of the difference, as one of {self.trials} trials:"
        apart = self.gain.told_apart and one.value > 0
        says = "the best is better" if self.better else "so the best is not better than they are, as far as these pictures tell"
        says = "but the trials were not of equal length" if apart and not self.better else says
        return f"{text} {one.low:.3f} to {one.high:.3f}; {says}"

    @property
    def uneven_text(self) -> str:
        """That the machine was not equally fast for all trials, in a sentence; empty if it was."""
        if self.uneven is None:
            return ""
        few, many = self.uneven
        return (
            f"the machine was not equally fast for all trials ({few:,} to {many:,} steps with the same model, input and batch),"
            " so the differences may come from that: search while nothing else runs"
        )

    @property
    def equals_text(self) -> str:
        """Which trials are as good as the best one, in a sentence; empty if it is told apart from all."""
        if not self.equals:
            return ""
        named = ", ".join(map(str, self.equals[:10])) + (" and others" if len(self.equals) > 10 else "")
        return f"{'trial' if len(self.equals) == 1 else 'trials'} {named} cannot be told from it on these pictures"


LUCK = "These intervals hold for the choice of pictures, not for luck in the training: with another --seed AP differs too."


def verdict(trials: Sequence[FrozenTrial], rule: FrozenTrial | None, best: FrozenTrial, *, pictures: int) -> Verdict:
    """What the complete trials of a search say about the best one. rule: the one of the default settings."""
    gains = {} if rule is None else differences(rule, [each for each in trials if each.number != rule.number])
    rivals = differences(best, [each for each in trials if each.number != best.number])
    equals = tuple(number for number, one in rivals.items() if not one.told_apart)
    return Verdict(best, rule, gains, equals, pictures, len(trials), _uneven(trials))


def _uneven(trials: Sequence[FrozenTrial]) -> tuple[int, int] | None:
    """The fewest and the most steps of trials of one model, input and batch, where they differ much: other work ran then."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for trial in trials:
        if steps := trial.user_attrs.get(STEPS):
            groups.setdefault(tuple(trial.params.get(name) for name in COSTLY), []).append(steps)
    few, many = max(((min(each), max(each)) for each in groups.values()), key=lambda pair: pair[1] / pair[0], default=(1, 1))
    return (few, many) if many > EVEN * few else None
