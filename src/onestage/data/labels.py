"""Classes: how a data set stores them, and which label 0..K-1 each one gets."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from onestage.data.text import listed, quoted, repeated
from onestage.errors import ConfigError, DataError, shortened, warn_outside
from onestage.structures import ClassSet

ClassKey = int | str
"""A class as annotations write it: a category id in COCO, a number in YOLO, a name in VOC and CSV."""

MODEL = "the model"
"""Whose classes are wanted, if nothing else is said."""

SHOWN = 10
"""Class names in a message."""


@dataclass(frozen=True)
class StoredClasses:
    """The classes of a data set. table: in the data set's order. keys: the name of the class that each key stands for.

    numbered: the names are only the numbers in the files. They may be indices of a model's names.
    """

    table: ClassSet
    keys: Mapping[ClassKey, str]
    numbered: bool = False

    def __post_init__(self) -> None:
        """Raise DataError if a name is no text that can be written, or nothing to be seen, or if two look the same."""
        seen: dict[str, str] = {}
        for name in self.table.names:
            look = look_of(name)
            if (other := seen.setdefault(look, name)) != name:
                fix = "write one name in one way, without blanks at its ends"
                raise DataError("the names of two classes look the same", got=f"{_escaped(other)}, {_escaped(name)}", fix=fix)

    @classmethod
    def named(cls, names: Sequence[str], *, numbered: bool = False) -> StoredClasses:
        """Classes whose annotations write the name itself. The ids count the names from 0; numbered ones are ids already."""
        ids = tuple(map(int, names)) if numbered else tuple(range(len(names)))
        return cls(ClassSet(tuple(names), ids), {name: name for name in names}, numbered)

    @classmethod
    def by_id(cls, names: Mapping[int, str]) -> StoredClasses:
        """Classes whose annotations write the id; the names by their ids, in order."""
        return cls(ClassSet(tuple(names.values()), tuple(names)), dict(names.items()))

    @classmethod
    def by_number(cls, names: Sequence[str]) -> StoredClasses:
        """Classes whose annotations write the number of a name, counted from 0."""
        return cls.by_id(dict(enumerate(names)))

    def key_text(self, key: ClassKey) -> str:
        """A key as messages show it, with the class's name if that differs."""
        name = self.keys.get(key, key)
        return quoted(key) if name == key else f"{quoted(key)} ({quoted(name)})"


@lru_cache(4096)
def look_of(name: str) -> str:
    """The name of a class as it is seen. Raise DataError if it is no text that can be written, or nothing to be seen.

    Readers of formats whose objects bear names ask this of each: the error then has a place, and costs one object.
    """
    if any("\ud800" <= character <= "\udfff" for character in name):
        fix = "write the name in full Unicode characters"
        raise DataError("the name of a class holds half a character, a lone surrogate", got=quoted(name), fix=fix)
    if not (look := _look(name)):
        raise DataError("the name of a class is empty or invisible", got=_escaped(name), fix="write a name")
    return look


def _look(name: str) -> str:
    """A name as it is seen: each letter as one character with its accents (NFC), nothing invisible at the ends."""
    text = unicodedata.normalize("NFC", name)
    invisible = "".join({c for c in text if c.isspace() or unicodedata.category(c) in ("Cc", "Cf")})
    return text.strip(invisible)


def alike(names: Sequence[str]) -> list[str]:
    """A sentence for each pair of class names that differ in capitals or in blanks only."""
    first: dict[str, str] = {}
    rivals = [(first.setdefault(" ".join(_look(name).casefold().split()), name), name) for name in names]
    return [f"the classes {quoted(a)} and {quoted(b)} differ in capitals or blanks only" for a, b in rivals if a != b]


def _escaped(name: str) -> str:
    """A name for a message, with all but ASCII characters as codes."""
    return shortened(ascii(name), 80)


class Labels(NamedTuple):
    """The classes that labels count, and the label of each key that annotations may write. owner: whose classes these are, for
    messages.
    """

    table: ClassSet
    of: Mapping[ClassKey, int]
    owner: str = MODEL


def assign_labels(stored: StoredClasses, wanted: Sequence[str] | None, *, where: Path, owner: str = MODEL) -> Labels:
    """The labels of a data set's classes: in the order of ``wanted``, or in the data set's order if that is None.

    A wanted class that the data set does not know gets the next free id. Raise DataError if a class is wanted twice, and
    ConfigError if classes are wanted and the data set knows none of them. For messages: ``where``, the data set, and ``owner``,
    whose classes the wanted ones are.
    """
    if wanted is None:
        return _labels(stored.table, stored.keys)
    if len(set(wanted)) < len(wanted):
        got, fix = listed(repeated(wanted)), "give the classes different names"
        raise DataError("a class is named twice", where="classes", got=got, fix=fix)
    names, ids = stored.table
    if names and not set(names) & set(wanted):
        return _labels_by_number(stored, wanted, where=where, owner=owner)
    known = dict(zip(names, ids, strict=True))
    free = iter(range(max(ids, default=-1) + 1, max(ids, default=-1) + 1 + len(wanted)))
    return _labels(
        ClassSet(tuple(wanted), tuple(known[n] if n in known else next(free) for n in wanted)), stored.keys
    )._replace(owner=owner)


def _labels(table: ClassSet, keys: Mapping[ClassKey, str]) -> Labels:
    label_of = {name: label for label, name in enumerate(table.names)}
    return Labels(table, {key: label_of[name] for key, name in keys.items() if name in label_of})


def _labels_by_number(stored: StoredClasses, wanted: Sequence[str], *, where: Path, owner: str) -> Labels:
    """The labels if no name agrees: the data set's numbers count the wanted classes. Warn what each number means."""
    names = stored.table.names
    if not stored.numbered:
        fix = "use the same names"
        if owner == MODEL:
            fix += ", or train a model for these classes; in Python, onestage.create(NAME, classes=[...]) makes one"
        raise differ(where, names, wanted, fix=fix, owner=owner)
    if list(names) != [str(label) for label in range(len(wanted))]:
        raise ConfigError(
            f"the data set only numbers its classes, and not as many as {owner} has",
            where=where,
            got=f"{len(names)}: {listed(names, SHOWN)}",
            expected=f"0 to {len(wanted) - 1}, for {listed(wanted, SHOWN)}",
            fix="write the names in place of the numbers",
        )
    taken = ", ".join(f"{number} is taken for {name}" for number, name in enumerate(wanted[:SHOWN]))
    more = ", and so on" if len(wanted) > SHOWN else ""
    warn_outside([f"the data set only numbers its classes: {taken}{more}"])
    return _labels(ClassSet(tuple(wanted), tuple(range(len(wanted)))), dict(zip(names, wanted, strict=True)))


def differ(root: Path, stored: Sequence[str], wanted: Sequence[str], *, fix: str, owner: str = MODEL) -> ConfigError:
    """The error if a data set, or a split, has other classes than the model, or the split that ``owner`` names."""
    return ConfigError(
        f"{'model and data' if owner == MODEL else 'the splits'} differ in their classes",
        where=root,
        got=f"{len(stored)} in the data: {listed(stored, SHOWN)}",
        expected=f"{owner}'s {len(wanted)}: {listed(wanted, SHOWN)}",
        fix=fix,
    )
