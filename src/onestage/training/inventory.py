"""The pictures with which a run began, so that it goes on with the same ones where some are gone.

checkpoints/inventory.json has each picture that trains and each that measures, in order: its id, its path from the data set's
folder, and a checksum of its objects. Runs of earlier versions have no such file; they get it when they go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from onestage.data import Dataset
from onestage.data.dataset import Problem
from onestage.errors import DataError
from onestage.files import write_atomically

NAME = "inventory.json"


class GoneError(DataError):
    """Of the pictures with which a run began, none is there any more to learn from, or none to measure on."""


class Entry(NamedTuple):
    """A picture. name: its path from the data set's folder. objects: their checksum."""

    image_id: int | str
    name: str
    objects: str


@dataclass(frozen=True)
class Inventory:
    """The pictures of a run. train: those that it learns from. val: those that measure it."""

    train: tuple[Entry, ...]
    val: tuple[Entry, ...]

    @staticmethod
    def of(train: Dataset, val: Dataset) -> Inventory:
        """The pictures of these data sets."""
        return Inventory(_entries(train), _entries(val))

    @staticmethod
    def load(folder: Path) -> Inventory | None:
        """That of the run in ``folder``; None if it has none, or a damaged one, which is as good as none."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            found = json.loads(_place(folder).read_text(encoding="utf-8"))
            parts = [tuple(Entry(*row) for row in found[part]) for part in ("train", "val")]
            if all(isinstance(e.image_id, int | str) and isinstance(e.name, str) for part in parts for e in part):
                return Inventory(*parts)
        return None

    def save(self, folder: Path) -> None:
        """Keep it in the folder of the run. Raise WeightsError if that is not possible."""
        write_atomically(_place(folder), json.dumps(vars(self), indent=0).encode())

    def divide(self, data: Dataset, val: Dataset | None) -> tuple[Dataset, Dataset, tuple[str, ...]]:
        """The pictures to learn from and to measure on, as when the run began, and the names of those that are gone.

        data: the pictures to learn from, or all if there is no ``val``. In place of a gone picture to learn from, the next one
        stands, so that the order of all others stays the same. A gone one to measure on is left out. New ones come last. Raise
        GoneError if all of one kind are gone.
        """
        learned, measured = _rows(self.train, data), _rows(self.val, data if val is None else val)
        gone = [e.name for e, row in zip((*self.train, *self.val), (*learned, *measured), strict=True) if row is None]
        kept = [row for row in measured if row is not None]
        if not kept or learned.count(None) == len(learned):
            what = "none of the pictures that this run learned from, or was measured on, are there any more"
            raise GoneError(what, where=data.root, fix="put them back, or begin another run")
        new = _others(data, learned if val is not None else [*learned, *kept])
        rest = data.subset(kept, split="held out") if val is None else val.subset([*kept, *_others(val, kept)])
        noticed = [p for part in (data, val) if part is not None for p in part.problems if p.fault == "picture"]
        return _told(data.subset([*_filled(learned), *new]), gone, noticed), rest, tuple(gone)

    def changes(self, train: Dataset) -> list[str]:
        """What has changed of the pictures to learn from that are not gone, a line each. train: as ``divide`` gives them."""
        now = _entries(train)
        same = [pair for pair in zip(now, self.train, strict=False) if pair[0].image_id == pair[1].image_id]
        other = [f"{entry.name}: other labels" for entry, before in same if entry.objects != before.objects]
        return other + [f"{entry.name}: it is new" for entry in now[len(self.train) :]]


def _entries(data: Dataset) -> tuple[Entry, ...]:
    return tuple(Entry(*key, checksum) for key, checksum in zip(_keys(data), _checksums(data), strict=True))


def _keys(data: Dataset) -> list[tuple[int | str, str]]:
    """The id and the name of each picture."""
    return [(image_id, os.path.relpath(path, data.root)) for image_id, path in zip(data.image_ids, data.paths, strict=True)]


def _rows(entries: Sequence[Entry], data: Dataset) -> list[int | None]:
    """The row of each picture in a data set; None if it is gone."""
    rows = {key: row for row, key in enumerate(_keys(data))}
    return [rows.get((entry.image_id, entry.name)) for entry in entries]


def _others(data: Dataset, rows: Sequence[int | None]) -> list[int]:
    """All other rows of a data set."""
    known = {*rows}
    return [row for row in range(len(data)) if row not in known]


def _checksums(data: Dataset) -> list[str]:
    """Of the objects of each picture: boxes, labels, and whether they are ignored."""
    columns = [column.contiguous().numpy() for column in (data.boxes, data.labels, data.ignore | data.crowd)]
    ends = data.offsets.tolist()
    parts = (b"".join(column[a:b].tobytes() for column in columns) for a, b in pairwise(ends))
    return [hashlib.blake2b(part, digest_size=8).hexdigest() for part in parts]


def _filled(rows: Sequence[int | None]) -> list[int]:
    """The rows, each that is None replaced by the next one; the row after the last is the first."""
    following = next(row for row in rows if row is not None)
    filled = []
    for row in reversed(rows):
        following = following if row is None else row
        filled.append(following)
    return filled[::-1]


def _told(data: Dataset, gone: Sequence[str], noticed: Sequence[Problem]) -> Dataset:
    """The data set with a problem for each gone picture that no reader has ``noticed``, as where a folder is listed."""
    said = "\n".join(map(str, noticed))
    missed = (name for name in gone if not re.search(rf"(?<!\w){re.escape(Path(name).stem)}(?!\w)", said))
    lost = (Problem(name, "this picture is gone since the run began", fault="picture") for name in missed)
    return replace(data, problems=(*data.problems, *lost))


def _place(folder: Path) -> Path:
    return folder / "checkpoints" / NAME
