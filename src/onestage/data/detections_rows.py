"""What the readers of detections collect: arrays, 56 bytes for each row; and faults, counted by their kind.

Shape letters: N rows of the file.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onestage.data.dataset import Problem
from onestage.data.text import quoted
from onestage.errors import DataError, counted

Reference = int | str
"""A picture or a class as a file names it: an id, or a name."""

Kind = Literal["coco", "coco set", "jsonl", "csv", "text", "batch"]
"""Of a file: see detections.py."""


@dataclass
class Faults:
    """Why rows are left out: how many for each reason, and the first of them. The memory does not grow with their number."""

    file: Path
    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[str, str | None, str | None]] = field(default_factory=dict)

    def add(self, where: str, what: str, *, got: str | None = None, fix: str | None = None, count: int = 1) -> None:
        """Count rows. what: the reason, the same text for all of its kind. where, got: the first row and what it has."""
        self.count[what] += count
        self.first.setdefault(what, (where, got, fix))

    def lines(self) -> list[str]:
        """A line for each reason, the most frequent first: how many, and the first of them."""
        return [f"{count:,} x {what}; first: {self._first(what)}" for what, count in self.count.most_common()]

    def fixes(self) -> list[str]:
        """What to do about them, each once."""
        fixes = (self.first[what][2] for what, _ in self.count.most_common())
        return [*dict.fromkeys(fix for fix in fixes if fix)]

    def problems(self) -> tuple[Problem, ...]:
        """One problem for each reason, the most frequent first."""
        return tuple(
            Problem(self.file.name, f"{counted(count, 'detection')} left out: {what}", f"first: {self._first(what)}")
            for what, count in self.count.most_common()
        )

    def _first(self, what: str) -> str:
        where, got, _ = self.first[what]
        return where if got is None else f"{where}: {got}"


class Numbered:
    """Different references, numbered in the order in which they come."""

    def __init__(self) -> None:
        self._number: dict[Reference, int] = {}

    def add(self, reference: Reference) -> int:
        """The number of a reference."""
        return self._number.setdefault(reference, len(self._number))

    def __iter__(self) -> Iterator[Reference]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)


@dataclass
class Rows:
    """N detections of a file, as it writes them. The data set they belong to is not known yet.

    unit: what the numbers of rows count, such as "line". picture, label: for each row a number of
    ``pictures`` and of ``classes``. box: four numbers for each row, in the form of the file; "text" has five, the score among
    them, in an order that nothing states. score: "text" has none here. number: of the row in the file. picture_name and
    class_name: what stands for a reference in the end, if the file says so. notes: how something unclear was understood.
    """

    file: Path
    kind: Kind
    unit: str = "entry"
    pictures: Numbered = field(default_factory=Numbered)
    classes: Numbered = field(default_factory=Numbered)
    picture: array[int] = field(default_factory=lambda: array("i"))
    label: array[int] = field(default_factory=lambda: array("i"))
    box: array[float] = field(default_factory=lambda: array("d"))
    score: array[float] = field(default_factory=lambda: array("d"))
    number: array[int] = field(default_factory=lambda: array("q"))
    picture_name: dict[Reference, str] = field(default_factory=dict)
    class_name: dict[Reference, str] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    faults: Faults = field(init=False)

    def __post_init__(self) -> None:
        self.faults = Faults(self.file)

    def __len__(self) -> int:
        return len(self.picture)

    def add(self, number: int, picture: Reference, label: Reference, box: Sequence[float], score: float | None = None) -> None:
        """Put a detection into the columns."""
        self.picture.append(self.pictures.add(picture))
        self.label.append(self.classes.add(label))
        self.box.extend(box)
        self.number.append(number)
        if score is not None:
            self.score.append(score)

    def refuse(self, number: int, error: DataError) -> None:
        """Count a row that is no detection."""
        got = None if error.got is None else str(error.got)
        self.faults.add(f"{self.unit} {number:,}", error.what, got=got, fix=error.fix)

    def place(self, row: int) -> str:
        """Where a row stands in the file, and what it names, for messages."""
        picture, label = [*self.pictures][self.picture[row]], [*self.classes][self.label[row]]
        kinds = ("file", "name") if self.kind == "text" else ("picture", "class")
        return f"{self.unit} {self.number[row]:,} ({kinds[0]} {quoted(picture)}, {kinds[1]} {quoted(label)})"

    def named_pictures(self) -> list[Reference]:
        """What each number of ``picture`` stands for: the name if the file has one for the id."""
        return [self.picture_name.get(reference, reference) for reference in self.pictures]

    def named_classes(self) -> list[Reference]:
        """What each number of ``label`` stands for: the name if the file has one for the id."""
        return [self.class_name.get(reference, reference) for reference in self.classes]

    def boxes(self) -> NDArray[np.float64]:
        """The numbers of all rows: (N, 4), or (N, 5) for "text"."""
        return np.frombuffer(self.box, dtype=np.float64).reshape(len(self), -1) if len(self) else np.zeros((0, 4))

    def scores(self) -> NDArray[np.float64]:
        """(N,)."""
        return np.frombuffer(self.score, dtype=np.float64) if len(self.score) else np.zeros(0)
