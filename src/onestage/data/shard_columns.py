"""What shards say, collected as columns: after each shard only arrays are kept, so a million pictures need little memory.

Shape letters: P pictures, M objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onestage.data.columns import Array, Texts
from onestage.data.dataset import Dataset, Problem
from onestage.data.labels import StoredClasses, assign_labels
from onestage.data.table import Table
from onestage.errors import counted
from onestage.files import Json
from onestage.structures import ClassSet

CLASSES = "classes.json"
"""The file beside the shards that lists their classes."""
OBJECT_COLUMNS = ("boxes", "ignore", "crowd", "area")
Places = Mapping[str, tuple[int, int]]
"""Where a picture begins in its shard, and its length, by its path; none where only the format finds it."""


class Collected:
    """The columns of the shards so far. root: the data set's folder. stored: its classes, if they are listed."""

    def __init__(self, root: Path, stored: StoredClasses | None, format: str) -> None:
        self.root, self.stored, self.format = root, stored, format
        self._names = {} if stored is None else {name: number for number, name in enumerate(stored.table.names)}
        self._kinds: dict[bool, str] = {}
        self._arrays: dict[str, list[Array]] = {}
        self._paths: list[tuple[Array, Array]] = []
        self._ids: list[Array | list[str]] = []
        self._lengths: list[int] = []
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
        self._ids.append(_packed_ids(data))
        self._lengths.append(len(data))
        self._problems += data.problems
        self._notes |= dict.fromkeys(data.notes)

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
            **self._id_columns(blob, ends),
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
        facts |= {"problems": [*map(_packed, self._problems)], "notes": [*map(_packed, self._notes)]}
        return arrays, facts

    def _joined(self, name: str) -> NDArray[np.int64]:
        """A column of all shards, which is given up."""
        return np.concatenate(self._arrays.pop(name))

    def _id_columns(self, paths: Array, ends: Array) -> dict[str, Array]:
        """The ids of the pictures: numbers, or texts if any is one; their paths if shards use an id twice, with a note."""
        numbers = [column for column in self._ids if isinstance(column, np.ndarray)]
        if len(numbers) == len(self._ids):
            ids = np.concatenate(numbers)
            twice, columns = len(ids) - len(np.unique(ids)), {"ids": ids}
        else:
            texts = [name for column in self._ids for name in map(str, column)]
            twice, columns = len(texts) - len({*texts}), dict(zip(("id_texts", "id_ends"), Texts.packed(texts), strict=True))
        self._ids.clear()
        if not twice:
            return columns
        what = f"{counted(twice, 'picture')} with an id of another shard: paths take the place of ids"
        self._notes[Problem(str(self.root), what)] = None
        return {"id_texts": paths, "id_ends": ends}


def before(root: Path) -> str:
    """How the paths of files in a folder begin."""
    return "" if root == Path() else f"{str(root).rstrip('/')}/"


def _packed_ids(data: Dataset) -> Array | list[str]:
    """The ids of the pictures of a shard: numbers (P,), or texts if any is one."""
    if all(isinstance(image_id, int) for image_id in data.image_ids):
        return np.array(data.image_ids, np.int64)
    return [*map(str, data.image_ids)]


def _packed(problem: Problem) -> list[Json]:
    return [problem.where, problem.what, problem.got, problem.expected, problem.fix, problem.fault]
