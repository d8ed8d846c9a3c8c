"""A comparison in words: what the terminal and the page share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from onestage.analysis.compare import FEWEST, LEAST, Comparison, Difference, Pairing, System
from onestage.analysis.errors import ErrorType
from onestage.analysis.wording import MEANINGS
from onestage.errors import counted
from onestage.metrics.charts import Side
from onestage.metrics.wording import figure

NAMED = 3
"""The most classes that a sentence names."""
WORTH = 0.01
"""AP50. A type of errors that costs one detector so much more than the other is named."""
MOST_TIMES = 100
"""If so many times as many pictures would be needed, none would do."""


def signed(value: float) -> str:
    """A difference with its sign, unless it is shown as 0; a dash if it is not known."""
    return "-" if math.isnan(value) else f"{value:+.3f}" if abs(value) >= LEAST else "0.000"


def between(row: Difference) -> str:
    """The interval of a difference; a dash if it is not known."""
    low, high = row.difference.low, row.difference.high
    return "-" if math.isnan(low) else f"{signed(low)} to {signed(high)}"


def verdict(row: Difference, pairing: Pairing) -> str:
    """Which of two detectors is better by a figure, if that can be told, in a few words."""
    if math.isnan(row.difference.value):
        return "nothing to find"
    if row.pictures < FEWEST:
        return f"too few pictures ({row.pictures})"
    return f"{_better(row, pairing)} is better" if row.told_apart else "cannot be told apart"


def by_difference(rows: Sequence[Difference]) -> list[Difference]:
    """The largest difference first; those with nothing to find last."""
    return sorted(rows, key=lambda row: math.inf if math.isnan(row.difference.value) else -abs(row.difference.value))


def _better(row: Difference, pairing: Pairing) -> str:
    return pairing.second if row.difference.value > 0 else pairing.first


def first_sentence(pairing: Pairing) -> str:
    """Which of two detectors is better by AP, by how much, and how sure that is; or that this cannot be told."""
    row, names = pairing.figures[0], (pairing.first, pairing.second)
    if math.isnan(row.difference.value):
        return f"Nothing tells {names[0]} from {names[1]}: in these pictures there is no object to find."
    if row.pictures < FEWEST:
        few = f"only {counted(row.pictures, 'picture')} of these {'has' if row.pictures == 1 else 'have'} objects"
        return f"{names[0]} and {names[1]} cannot be told apart: {few}."
    if row.told_apart:
        better, worse = _better(row, pairing), names[_better(row, pairing) == names[0]]
        high, low = max(row.first, row.second), min(row.first, row.second)
        limits = sorted((abs(row.difference.low), abs(row.difference.high)))
        sure = f"with other pictures of this kind it would be {limits[0]:.3f} to {limits[1]:.3f} (95 % interval)"
        return (
            f"{better} is better than {worse}: AP {figure(high)} against {figure(low)}. That is {high - low:.3f} more; {sure}."
        )
    values = f"AP is {figure(row.first)} and {figure(row.second)}"
    if max(abs(row.difference.low), abs(row.difference.high)) < LEAST:
        return f"{names[0]} and {names[1]} are equally good: {values}, and that holds with other pictures of this kind, too."
    sure = f"with other pictures of this kind the difference of {signed(row.difference.value)} would be anything from"
    return f"{names[0]} and {names[1]} cannot be told apart by these pictures: {values}; {sure} {between(row)} (95 % interval)."


def more_sentences(comparison: Comparison, number: int) -> list[str]:
    """What else a reader should know of the first detector and another one, given by its number, one sentence for each fact."""
    pairing, systems = comparison.pairings[number - 1], (comparison.systems[0], comparison.systems[number])
    sentences = [_classes(pairing), _kinds(*systems), _counts(comparison, number), _pictures_needed(comparison, pairing)]
    return [sentence for sentence in sentences if sentence]


def _classes(pairing: Pairing) -> str:
    """The classes in which the two are told apart."""
    apart = sorted((row for row in pairing.per_class if row.told_apart), key=lambda row: -abs(row.difference.value))
    if not apart:
        return "In no class alone can they be told apart." if len(pairing.per_class) > 1 else ""
    parts = []
    for name in (pairing.first, pairing.second):
        rows = [row for row in apart if _better(row, pairing) == name]
        listed = ", ".join(f"{row.name} ({signed(abs(row.difference.value))} AP)" for row in rows[:NAMED])
        more = f" and {counted(len(rows) - NAMED, 'more class')}" if len(rows) > NAMED else ""
        parts += [f"{name} is better at {listed}{more}"] if rows else []
    return "; ".join(parts) + "."


def _kinds(first: System, second: System) -> str:
    """The type of errors whose cost differs most."""
    pairs: list[tuple[ErrorType, ErrorType]] = list(zip(first.errors.types, second.errors.types, strict=True))
    a, b = max(pairs, key=lambda pair: abs(pair[0].gain - pair[1].gain))
    if not abs(a.gain - b.gain) >= WORTH:
        return ""
    costs = f"{figure(a.gain)} AP50 of {first.name}, and {figure(b.gain)} of {second.name}"
    return f"They differ most in errors of the type {a.name} ({MEANINGS[a.name]}): these cost {costs}."


def _counts(comparison: Comparison, number: int) -> str:
    """What a user of each would see, at the score of its best F1."""
    parts = [_seen_line(comparison, n) for n in (0, number)]
    return f"At the score of its best F1, {'; '.join(parts)}."


def _seen_line(comparison: Comparison, number: int) -> str:
    """The objects that a detector finds at the score of its best F1, and its false alarms."""
    system = comparison.systems[number]
    found, missed, false = seen_counts(comparison, number)
    score, objects = figure(system.threshold.score.value), counted(found + missed, "object")
    return f"{system.name} ({score}) finds {found:,} of {objects}, with {counted(false, 'false alarm')}"


class Seen(NamedTuple):
    """Objects found and missed, and false alarms, in all pictures."""

    found: int
    missed: int
    false_alarms: int


def seen_counts(comparison: Comparison, number: int) -> Seen:
    """What a user of a detector, given by its number, sees at the score of its best F1."""
    counts = [row.counts[number] for row in comparison.pictures]
    found, objects = sum(one.found for one in counts), sum(row.objects for row in comparison.pictures)
    return Seen(found, objects - found, sum(one.false_alarms for one in counts))


def _pictures_needed(comparison: Comparison, pairing: Pairing) -> str:
    """How many pictures would tell two apart that these do not, if the difference is as large as it looks.

    The width of an interval falls with the root of the number of pictures.
    """
    row = pairing.figures[0]
    change, half = abs(row.difference.value), (row.difference.high - row.difference.low) / 2
    if row.told_apart or math.isnan(half) or row.pictures < FEWEST:
        return ""
    if max(abs(row.difference.low), abs(row.difference.high)) < LEAST:
        return "What they find is the same, or differs by so little that AP does not show it."
    times = (half / change) ** 2 if change >= LEAST else math.inf
    if times > MOST_TIMES:
        return "The difference is so small that no number of pictures would tell: take the one that is faster or smaller."
    here = len(comparison.pictures)
    needed = math.ceil(max(times, 1.1) * here / 10) * 10
    return f"If the difference is real, about {needed:,} pictures of this kind would show it; these are {here:,}."


def side(row: Difference) -> Side:
    """Which of two detectors is better by a figure; empty if that cannot be told."""
    return ("second" if row.difference.value > 0 else "first") if row.told_apart else ""
