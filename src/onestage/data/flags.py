"""Fields such as ``difficult`` and ``iscrowd``: whether they flag objects, or grade them in words of their authors.

All values of a field in a data set decide together:
- Nothing, NA, NaN, None, null and the like are not stated, which is no.
- If no stated value says yes or no, such as easy and hard, or if at least a tenth of the stated values are other numbers, such
  as 2 among 0, 1 and 2, the field has another meaning: it is not read, and a note says so.
- If not, each value that is neither yes nor no is a problem.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from onestage.data.text import decimal, flag, is_stated, quoted
from onestage.errors import DataError

_FREQUENT = 10
"""One stated value in so many is an other number where numbers grade the objects."""


@dataclass
class Flags:
    """What the values of each field say, by its name. other: the first that is neither yes nor no, and its place."""

    stated: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    other: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, word: str, place: str) -> None:
        """Count the value that a field of this name has in a place."""
        if not is_stated(word):
            return
        self.stated[name] += 1
        if answer(word) is not None:
            self.answers[name] += 1
            return
        self.numbers[name] += _is_decimal(word)
        self.other.setdefault(name, f"{quoted(word.strip())} in {place}")

    def no_flags(self) -> dict[str, str]:
        """The names of fields that have another meaning, and why."""
        return {
            name: f"flags no object: {first} is neither yes nor no"
            for name, first in self.other.items()
            if not self.answers[name] or _FREQUENT * self.numbers[name] >= self.stated[name]
        }


def answer(word: str) -> bool | None:
    """Whether a word says yes; None if it says neither yes nor no."""
    try:
        return flag(word)
    except ValueError:
        return None


def flagged(name: str, word: str) -> bool:
    """Whether the value of a field that flags objects says yes. Raise DataError if it says neither yes nor no."""
    if (said := answer(word)) is None:
        fix = f"write 1 or 0, or nothing for no; if {name} says something else, rename it"
        raise DataError(f"{name} should say yes or no", got=quoted(word.strip()), expected="1 or 0", fix=fix)
    return said


def _is_decimal(word: str) -> bool:
    try:
        decimal(word)
    except ValueError:
        return False
    return True
