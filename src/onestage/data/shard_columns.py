"""What shards say, collected as columns: after each shard only arrays are kept, so a million pictures need little memory.

Shape letters: P pictures, M objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onestage.data.columns import Array, Texts
from onestage.data.dataset import Problem
from onestage.data.labels import StoredClasses, assign_labels
from onestage.data.table import Table
from onestage.errors import counted
from onestage.files import Json
from onestage.structures import ClassSet

CLASSES = "classes.json"
"""The file beside the shards that lists their classes."""
OBJECT_COLUMNS = ("boxes", "ignore", "crowd", "area")
Places = Mapping[str, tuple[int, int]]
"""Where a picture begins in its shard, and its length, by its path, or ``in_group``; none where only the format finds it."""


def in_group(group: int, row: int) -> tuple[int, int]:
    """The place of a picture that has to be read with its whole row group: see ``columns.Parts``."""
    return -1 - group, row


class Collected:
    """The columns of the shards so far. root: the data set's folder. stored: its classes, if they are listed. pictures: how
    many there are until now.
    """

    def __init__(self, root: Path, stored: StoredClasses | None, format: str) -> None:
        self.root, self.stored, self.format = root, stored, format
        self._names = {} if stored is None else {name: number for number, name in enumerate(stored.table.names)}
        self._kinds: dict[bool, str] = {}
        self._arrays: dict[str, list[Array]] = {}
        self._paths: list[tuple[Array, Array]] = []
        self._ids: list[Array | list[str]] = []
        self._lengths: list[int] = []
        self.pictures = 0
        self._problems: list[Problem] = []
        self._notes: dict[Problem, None] = {}

    def add(self, table: Table, places: Places) -> None:
        """Check what a shard says, and add it."""
        for row in table.objects:
            self._kinds.setdefault(isinstance(row.key, int), row.where)
        table.classes = self.stored or StoredClasses(
            ClassSet(own := tuple(dict.fromkeys(str(row.key) for row in table.objects)), tuple(range(len(own)))),
            {row.key: str(row.key) for row in table.objects},
        )
        labels = assign_labels(table.classes, None, where=table.root)
        data = table.dataset(self.format, None, labels=labels, on_bad="skip", may_be_empty=True)
        numbers = np.array([self._names.setdefault(name, len(self._names)) for name in data.classes], np.int64)
        columns: dict[str, Array] = {name: getattr(data, name).numpy() for name in OBJECT_COLUMNS}
        columns["labels"] = numbers[data.labels.numpy()] if len(numbers) else data.labels.numpy()
        columns["sizes"] = np.array([*data.sizes], np.int32).reshape(-1, 2)
        columns["counts"] = data.offsets.diff().numpy()
        columns["places"] = np.array([places.get(path, (-1, -1)) for path in data.paths], np.int64).reshape(-1, 2)
        for name, column in columns.items():
            self._arrays.setdefault(name, []).append(column)
        self._paths.append(Texts.packed([path.removeprefix(before(self.root)) for path in data.paths]))
        stated = {picture.path: picture.image_id for picture in table.pictures}
        self._ids.append(_packed_ids([stated[path] for path in data.paths]))
        self._lengths.append(len(data))
        self.pictures += len(data)
        self._problems += data.problems
        self._notes |= dict.fromkeys(table.notes)

    def columns(self) -> tuple[dict[str, Array], dict[str, Json]]:
        """One table of all shards, and its facts. What was collected is gone then."""
        names = sorted(self._names) if self.stored is None else [*self._names]
        order = np.array([names.index(name) for name in self._names], np.int64)
        blob, ends = Texts.joined(self._paths)
        self._paths.clear()
        places, labels = self._joined("places"), self._joined("labels")
        arrays: dict[str, Array] = {
            "paths": blob,
            "path_ends": ends,
            **self._id_columns(),
            "sizes": self._joined("sizes"),
            "offsets": np.concatenate([[0], self._joined("counts").cumsum()]),
            "file": np.repeat(np.arange(len(self._lengths), dtype=np.int32), self._lengths),
            "offset": np.ascontiguousarray(places[:, 0]),
            "length": np.ascontiguousarray(places[:, 1]),
            "labels": order[labels] if len(order) else labels,
            **{name: self._joined(name) for name in OBJECT_COLUMNS},
        }
        ids = range(len(names)) if self.stored is None else self.stored.table.ids
        numbered = self.stored is None and False not in self._kinds
        if self.stored is None and len(self._kinds) == 2:
            what, fix = (
                "the class of this object is a number, and others have names",
                f"write names alone, or list the classes in {CLASSES}",
            )
            self._problems.append(Problem(self._kinds[True], what, got=f"a name in {self._kinds[False]}", fix=fix))
        facts: dict[str, Json] = {"names": [*names], "ids": [*ids], "numbered": numbered}
        facts |= {"problems": [*map(self._packed, self._problems)], "notes": [*map(self._packed, self._notes)]}
        return arrays, facts

    def _packed(self, problem: Problem) -> list[Json]:
        """The parts of a problem. Where it is the whole data set, its place is empty: the next time that has another name."""
        where = "" if problem.where == str(self.root) else problem.where
        return [where, problem.what, problem.got, problem.expected, problem.fix, problem.fault]

    def _joined(self, name: str) -> NDArray[np.int64]:
        """A column of all shards, which is given up."""
        return np.concatenate(self._arrays.pop(name))

    def _id_columns(self) -> dict[str, Array]:
        """The ids of the pictures: numbers, or texts if any is one. ids_twice (P,): those that several have, with a note."""
        numbers = [column for column in self._ids if isinstance(column, np.ndarray)]
        columns: dict[str, Array] = {}
        if len(numbers) == len(self._ids):
            columns["ids"] = ids = np.concatenate(numbers)
        else:
            texts = [name for column in self._ids for name in map(str, column)]
            columns["id_texts"], columns["id_ends"] = Texts.packed(texts)
            kinds: dict[str, int] = {}
            ids = np.array([kinds.setdefault(text, len(kinds)) for text in texts], np.int64)
        self._ids.clear()
        _, number, count = np.unique(ids, return_inverse=True, return_counts=True)
        twice = count[number] > 1
        if twice.any():
            what = f"{counted(int(twice.sum()), 'picture')} with an id of another one: their paths take its place"
            self._notes[Problem(str(self.root), what)] = None
            columns["ids_twice"] = twice
        return columns


def before(root: Path) -> str:
    """How the paths of files in a folder begin."""
    return "" if root == Path() else f"{str(root).rstrip('/')}/"


def _packed_ids(ids: Sequence[int | str]) -> Array | list[str]:
    """The ids of the pictures of a shard: numbers (P,), or texts if any is one."""
    if all(isinstance(image_id, int) for image_id in ids):
        return np.array(ids, np.int64)
    return [*map(str, ids)]
