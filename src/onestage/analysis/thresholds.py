"""Which score to cut detections at: the score of the best F1, or of a wanted precision or recall, of each class and of all.

Shape letters: P pictures, K classes, B draws, N detections that are not ignored, by descending score, H cuts. A cut keeps all
detections of at least its score. Detections of equal score stay together, so the only cuts are behind the last of them; and a
cut is looked at only if a hit stands among them: any other has the recall of one before and less precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from onestage.analysis.bootstrap import DRAWS, Counts, Estimate, drawn_weights, estimate, in_parts
from onestage.errors import ConfigError, check_number
from onestage.metrics.matches import Matches
from onestage.metrics.tables import Bools, Floats, Ints

USELESS = 0.2
"""A class whose best F1 is less has no score of use: it may lie near 0, where nearly all detections are false alarms."""


@dataclass(frozen=True)
class Want:
    """What a threshold is for: the best F1; the most recall with a precision of at least ``value``; or the most precision
    with a recall of at least ``value``. Raise ConfigError unless value lies in 0..1; the best F1 needs none.
    """

    figure: Literal["f1", "precision", "recall"] = "f1"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.figure not in ("f1", "precision", "recall"):
            raise ConfigError("thresholds are for no such figure", got=self.figure, expected="f1, precision or recall")
        check_number(f"the wanted {self.figure}", self.value, least=0, most=1)


@dataclass(frozen=True)
class Threshold:
    """The score to cut at, and what the detections of at least this score have, in all pictures and in drawn data sets.

    score: its interval is that of the thresholds that the draws would choose. All figures are NaN if no cut has what was
    wanted. reached: the share of the draws in which some cut has it, NaN without draws. pictures: those with an object; from a
    single one there is no interval.
    """

    name: str
    score: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    reached: float
    pictures: int


@dataclass(frozen=True)
class Thresholds:
    """The thresholds for all classes together and for each class, at an IoU; a hit takes an object with at least this IoU.

    For all classes together, every detection of every class is put into one list, those of classes without objects too.
    """

    want: Want
    iou: float
    overall: Threshold
    per_class: tuple[Threshold, ...]
    draws: int
    seed: int


def find_thresholds(
    matches: Matches, want: Want = Want(), *, iou: float = 0.5, draws: int = DRAWS, seed: int = 0
) -> Thresholds:
    """Find the thresholds for what is wanted; the matches have the threshold ``iou`` among theirs.

    Of equal figures the highest score wins. Ignored detections and objects do not count. The same seed and number of pictures
    give the same draws as in ``drawn_ap``.
    """
    every = np.arange(len(matches.score))
    lists = [_cuts(matches, every[matches.of(k)], iou, label=k) for k in range(len(matches.table.classes))]
    by_score = every[np.argsort(-matches.score, kind="stable")]
    lists.append(_cuts(matches, by_score, iou, label=None))
    chosen = _drawn(lists, want, pictures=len(matches.table.image_ids), draws=draws, seed=seed)
    names = (*matches.table.classes, "all classes")
    found = tuple(_threshold(name, cuts, want, drawn) for name, cuts, drawn in zip(names, lists, chosen, strict=True))
    return Thresholds(want, iou, found[-1], found[:-1], draws, seed)


def without_use(found: Thresholds) -> list[Threshold]:
    """The thresholds of the classes that are found so badly that the score of their best F1 reports false alarms above all: the
    one for all classes together is higher.
    """
    if found.want.figure != "f1":
        return []
    common = found.overall.score.value
    return [row for row in found.per_class if row.f1.value < USELESS and row.score.value < common]


class _Cuts(NamedTuple):
    """A list of detections: the picture of each, (N,); whether it is a hit, (N,); the last row of each cut, (H,); its score,
    (H,); and the picture of each counted object.
    """

    picture: Ints
    hit: Bools
    last: Ints
    score: Floats
    truth_picture: Ints


def _cuts(matches: Matches, rows: Ints, iou: float, *, label: int | None) -> _Cuts:
    """The cuts of these rows, (N,), which are by descending score; of all classes if label is None."""
    at = matches.at(iou)
    rows = rows[~matches.ignored[at, rows]]
    hit, score, true = matches.hit[at, rows], matches.score[rows], matches.table.true
    last = np.flatnonzero(np.diff(score, append=np.nan) != 0)
    last = last[np.diff(np.cumsum(hit)[last], prepend=0) > 0]
    counted = matches.counted if label is None else matches.counted & (true.label == label)
    return _Cuts(matches.picture[rows], hit, last, score[last], true.picture[counted])


class _Figures(NamedTuple):
    """What each cut has in each draw, (B, H) each; NaN where there is nothing to find."""

    precision: Floats
    recall: Floats
    f1: Floats


def _figures(cuts: _Cuts, weights: Counts) -> _Figures:
    """The figures of the cuts in draws in which the pictures count weights (B, P) times."""
    each = weights[:, cuts.picture]
    kept = each.cumsum(1)[:, cuts.last]
    each *= cuts.hit
    found = each.cumsum(1)[:, cuts.last]
    truths = weights[:, cuts.truth_picture].sum(1, keepdims=True)
    return _Figures(_ratio(found, kept), _ratio(found, truths), _ratio(2 * found, np.where(truths > 0, kept + truths, 0)))


def _ratio(part: Ints, whole: Ints) -> Floats:
    """part / whole; NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.broadcast_to(whole, part.shape) > 0)


def _choose(figures: _Figures, want: Want) -> Ints:
    """(B,) the cut that each draw chooses; -1 if none has what is wanted."""
    if not figures.f1.shape[1]:
        return np.full(len(figures.f1), -1)
    if want.figure == "f1":
        known = ~np.isnan(figures.f1).any(1)
        return np.where(known, np.argmax(figures.f1, axis=1), -1)
    if want.figure == "recall":
        good = figures.recall >= want.value
        return np.where(good.any(1), np.argmax(np.where(good, figures.precision, -1), axis=1), -1)
    good = (figures.precision >= want.value) & (figures.recall > 0)
    return np.where(good.any(1), good.shape[1] - 1 - np.argmax(good[:, ::-1], axis=1), -1)


def _drawn(lists: Sequence[_Cuts], want: Want, *, pictures: int, draws: int, seed: int) -> list[Floats]:
    """For each list, (B, 4): the score that each draw chooses, and the precision, recall and F1 that it has at the list's
    choice for all pictures; NaN where there is none.
    """
    chosen = [int(_choose(_figures(cuts, np.ones((1, pictures), np.int32)), want)[0]) for cuts in lists]
    parts: list[list[Floats]] = [[] for _ in lists]
    for drawn in drawn_weights(pictures, draws=draws, seed=seed):
        for cuts, ours, part in zip(lists, chosen, parts, strict=True):
            for weights in in_parts(drawn, len(cuts.picture)):
                figures = _figures(cuts, weights)
                scores = np.append(cuts.score, np.nan)[_choose(figures, want)]
                there = [f[:, ours] if ours >= 0 else np.full(len(weights), np.nan) for f in figures]
                part.append(np.stack([scores, *there], axis=1))
    return [np.concatenate([np.zeros((0, 4)), *part]) for part in parts]


def _threshold(name: str, cuts: _Cuts, want: Want, drawn: Floats) -> Threshold:
    """The threshold of one list, with what its draws (B, 4) say."""
    pictures = max(cuts.picture.max(initial=-1), cuts.truth_picture.max(initial=-1)) + 1
    figures = _figures(cuts, np.ones((1, pictures), np.int32))
    chosen = int(_choose(figures, want)[0])
    values = [cuts.score[chosen], *(f[0, chosen] for f in figures)] if chosen >= 0 else [np.nan] * 4
    reached = float((~np.isnan(drawn[:, 0])).mean()) if len(drawn) else math.nan
    shown = len(np.unique(cuts.truth_picture))
    score, precision, recall, f1 = (estimate(value, drawn[:, i], shown) for i, value in enumerate(values))
    return Threshold(name, score, precision, recall, f1, reached, shown)
