"""How sure AP is: the figures of data sets that are drawn from the pictures, with repeats.

Shape letters: P pictures, K classes, T IoU thresholds, B draws, N detections of one class, I of them that are a hit or
ignored at some threshold, H hits at one threshold. Each picture counts as often as it was drawn, as a weight in cumulative
sums. So nothing is matched or sorted again, and the figures are those of the drawn data set (where a class has detections of
equal score, their order may be another).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onestage.errors import check_number
from onestage.metrics.ap import RECALLS, average_precision
from onestage.metrics.matches import Matches
from onestage.metrics.tables import Bools, Floats, Ints

Counts: TypeAlias = NDArray[np.int32]

DRAWS = 1000
"""So many data sets are drawn."""

WEIGHTS = 1 << 23
"""About so many weights of pictures are held at a time."""

CELLS = 1 << 18
"""About so many weights of detections are held at a time: what fits into a processor's cache."""


@dataclass(frozen=True)
class Estimate:
    """A figure of all pictures, and the range in which 95 of 100 drawn data sets have it; NaN if there is nothing to find."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassSureness:
    """How sure the figures of one class are. pictures: those with an object of it; from a single one there is no interval."""

    name: str
    AP: Estimate
    AP50: Estimate
    pictures: int


@dataclass(frozen=True)
class Sureness:
    """How sure COCO's AP is, from so many ``draws`` of all ``pictures``, with that ``seed``."""

    AP: Estimate
    AP50: Estimate
    per_class: tuple[ClassSureness, ...]
    pictures: int
    draws: int
    seed: int


def how_sure(matches: Matches, *, draws: int = DRAWS, seed: int = 0) -> Sureness:
    """The intervals of AP and AP50 over all classes and of each; the matches are at COCO's T thresholds.

    The limits are the percentiles 2.5 and 97.5 of the draws. With few pictures, the figure itself need not lie in the middle.
    """
    ap, drawn, half = average_precision(matches), drawn_ap(matches, draws=draws, seed=seed), matches.at(0.5)
    means, halves = ap.by_class.mean(0), ap.by_class[half]
    drawn_means, drawn_halves = drawn.mean(1), drawn[:, half]
    pictures, shown = len(matches.table.image_ids), pictures_with(matches).tolist()
    per_class = [
        (estimate(means[k], drawn_means[:, k], shown[k]), estimate(halves[k], drawn_halves[:, k], shown[k]), shown[k])
        for k in range(len(shown))
    ]
    return Sureness(
        AP=estimate(ap.mean, over_classes(drawn_means), pictures),
        AP50=estimate(ap.at(half), over_classes(drawn_halves), pictures),
        per_class=tuple(ClassSureness(name, *row) for name, row in zip(matches.table.classes, per_class, strict=True)),
        pictures=pictures,
        draws=draws,
        seed=seed,
    )


class ClassRows(NamedTuple):
    """What AP needs of one class with objects: the pictures (N,) of its detections, less those that are always ignored; the
    places (I,) among them of all that are a hit or ignored at some threshold; what these are, (T, I) each; and the picture of
    each counted object.
    """

    label: int
    picture: Ints
    place: Ints
    hit: Bools
    ignored: Bools
    truth_picture: Ints


def class_rows(matches: Matches) -> list[ClassRows]:
    """The rows of each class that has counted objects."""
    true, result = matches.table.true, []
    for k in np.flatnonzero(matches.truths).tolist():
        rows = matches.of(k)
        kept = ~matches.ignored[:, rows].all(0)
        hit, ignored = matches.hit[:, rows][:, kept], matches.ignored[:, rows][:, kept]
        place = np.flatnonzero((hit | ignored).any(0))
        truth_picture = true.picture[matches.counted & (true.label == k)]
        result.append(ClassRows(k, matches.picture[rows][kept], place, hit[:, place], ignored[:, place], truth_picture))
    return result


def drawn_ap(matches: Matches, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """(B, T, K) the AP of each class in each of B draws of P of the P pictures; NaN where a draw has no object of the class.

    The draws depend on the seed and the number of pictures alone: two detectors on the same pictures get the same ones.
    """
    rows, shape = class_rows(matches), (len(matches.ious), len(matches.table.classes))
    parts = drawn_weights(len(matches.table.image_ids), draws=draws, seed=seed)
    return np.concatenate([np.zeros((0, *shape)), *(weighted_ap(rows, weights, shape) for weights in parts)])


def weighted_ap(rows: Sequence[ClassRows], weights: Counts, shape: tuple[int, int]) -> Floats:
    """(B, T, K) the AP of each class if the pictures count weights (B, P) times. shape: T and K."""
    result = np.full((len(weights), *shape), np.nan)
    for row in rows:
        result[:, :, row.label] = np.concatenate([_class_ap(row, part) for part in in_parts(weights, len(row.picture))])
    return result


def drawn_weights(pictures: int, *, draws: int, seed: int) -> Iterator[Counts]:
    """Yield (B', P): how often each picture is in each draw, some draws at a time.

    One call of ``integers(0, P, P)`` of numpy's default generator makes a draw. Raise ConfigError for less than no draws.
    """
    check_number("draws", draws, least=0, whole=True)
    generator = np.random.default_rng(seed)
    step = max(1, WEIGHTS // max(pictures, 1))
    for start in range(0, draws, step):
        counts = np.zeros((min(step, draws - start), pictures), np.int32)
        for row in counts if pictures else ():
            row += np.bincount(generator.integers(0, pictures, pictures), minlength=pictures).astype(np.int32)
        yield counts


def in_parts(weights: Counts, rows: int) -> Iterator[Counts]:
    """Yield the weights (B, P) some draws at a time, the fewer the more ``rows`` get a weight each; at least one part."""
    step = max(1, CELLS // max(rows, 1))
    for start in range(0, max(len(weights), 1), step):
        yield weights[start : start + step]


def over_classes(values: Floats) -> Floats:
    """(B, K) -> (B,) the mean of each draw over the classes that it has; NaN if it has none."""
    known = ~np.isnan(values)
    count = known.sum(1)
    return np.divide(np.where(known, values, 0).sum(1), count, out=np.full(len(values), np.nan), where=count > 0)


def pictures_with(matches: Matches) -> Ints:
    """(K,) the number of pictures that have a counted object of each class."""
    true, classes = matches.table.true, len(matches.table.classes)
    groups = np.unique((true.picture * classes + true.label)[matches.counted])
    return np.bincount(groups % max(classes, 1), minlength=classes)


def estimate(value: float, drawn: Floats, pictures: int | None = None) -> Estimate:
    """The figure with the percentiles 2.5 and 97.5 of the draws, (B,), in which it is known.

    pictures: those with the objects that it is about. All draws of a single one are the same, so there is no interval.
    """
    known = drawn[~np.isnan(drawn)] if pictures != 1 else drawn[:0]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (np.nan, np.nan)
    return Estimate(float(value), low, high)


def _class_ap(rows: ClassRows, weights: Counts) -> Floats:
    """(B, T) the AP of one class in draws in which the pictures count weights (B, P) times."""
    result = np.zeros((len(weights), len(rows.hit)))
    truths = weights[:, rows.truth_picture].sum(1)
    reached = _recalls_reached(truths)
    each = weights[:, rows.picture]  # (B, N)
    total = each.cumsum(1, dtype=np.int32)[:, rows.place]  # (B, I)
    each = each[:, rows.place]
    for t, (hit, ignored) in enumerate(zip(rows.hit, rows.ignored, strict=True)):
        kept = total - (each * ignored).cumsum(1) if ignored.any() else total
        found = each[:, hit].cumsum(1)  # (B, H)
        precision = found / (kept[:, hit] + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # The sum over the recalls that each hit is the first to reach, of the best precision there. A hit reaches a number of
        # recalls; the best precision falls from hit to hit, and each fall is shared by all recalls reached so far.
        fall = -np.diff(best, axis=1, append=0.0)
        result[:, t] = (fall * np.take_along_axis(reached, found, axis=1)).sum(1) / len(RECALLS)
    result[truths == 0] = np.nan
    return result


def _recalls_reached(truths: Ints) -> Ints:
    """(B, most + 1): how many of RECALLS a draw with truths (B,) objects reaches with 0, 1, 2 ... of them found."""
    found = np.arange(truths.max(initial=0) + 1)
    return np.searchsorted(RECALLS, found / np.maximum(truths, 1)[:, None], side="right")
