"""The pictures with which a run began, so that it goes on with the same ones where some are gone.

checkpoints/inventory.json has each picture that trains and each that measures, in order: its id, its path from the data set's
folder, and a checksum of its objects. Runs of earlier versions have no such file; they get it when they go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onestage.data import Dataset
from onestage.data.columns import Column, Texts
from onestage.data.dataset import Problem
from onestage.data.json_stream import items
from onestage.errors import DataError
from onestage.files import Json, write_atomically
from onestage.predict.stream import batched
from onestage.training.checkpoint import CHECKPOINTS

NAME = "inventory.json"
_PIECE = 1024
"""Entries that are made at a time."""


class GoneError(DataError):
    """Of the pictures with which a run began, none is there any more to learn from, or none to measure on."""


class Entry(NamedTuple):
    """A picture. name: its path from the data set's folder. objects: their checksum."""

    image_id: int | str
    name: str
    objects: str


class Entries(Column[Entry]):
    """Entries in the memory of their texts: a million take some 80 MB."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        packed = [Texts.packed([json.dumps(entry) for entry in part]) for part in batched(entries, _PIECE)]
        self._texts = Texts(*Texts.joined(packed))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._texts)

    def _item(self, row: int) -> Entry:
        return Entry(*json.loads(self._texts[row]))

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(*json.loads(text)) for text in self._texts)


@dataclass(frozen=True)
class Inventory:
    """The pictures of a run. train: those that it learns from. val: those that measure it."""

    train: Sequence[Entry]
    val: Sequence[Entry]

    @staticmethod
    def of(train: Dataset, val: Dataset) -> Inventory:
        """The pictures of these data sets."""
        return Inventory(Entries(_entries(train)), Entries(_entries(val)))

    @staticmethod
    def load(folder: Path) -> Inventory | None:
        """That of the run in ``folder``; None if it has none, or a damaged one, which is as good as none."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            parts = {"train": Entries(()), "val": Entries(())}
            for key, group in groupby(items(_place(folder)), key=attrgetter("key")):
                if len(parts[key]):
                    raise ValueError("a list that is given twice")
                parts[key] = Entries(_checked(item.value) for item in group)
            return Inventory(**parts) if all(map(len, parts.values())) else None
        return None

    def save(self, folder: Path) -> None:
        """Keep it in the folder of the run. Raise WeightsError if that is not possible."""
        write_atomically(_place(folder), self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        """The file, some entries at a time."""
        for part, begun in (("train", "{"), ("val", ",")):
            yield f'{begun}\n"{part}": ['.encode()
            for number, group in enumerate(batched(vars(self)[part], _PIECE)):
                yield (("," if number else "") + ",".join("\n" + json.dumps(entry, indent=0) for entry in group)).encode()
            yield b"\n]" if vars(self)[part] else b"]"
        yield b"\n}"

    def divide(self, data: Dataset, val: Dataset | None) -> tuple[Dataset, Dataset, tuple[str, ...]]:
        """The pictures to learn from and to measure on, as when the run began, and the names of those that are gone.

        data: the pictures to learn from, or all if there is no ``val``. In place of a gone picture to learn from, the next one
        stands, so that the order of all others stays the same. A gone one to measure on is left out. New ones come last. Raise
        GoneError if all of one kind are gone.
        """
        learned, measured = _rows(self.train, data), _rows(self.val, data if val is None else val)
        gone = [
            entry.name for entry, row in zip(chain(self.train, self.val), (*learned, *measured), strict=True) if row is None
        ]
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
        pairs = zip(_entries(train), self.train, strict=False)
        other = [
            f"{now.name}: other labels" for now, then in pairs if now.image_id == then.image_id and now.objects != then.objects
        ]
        new = islice(_keys(train), len(self.train), None)
        return other + [f"{name}: it is new" for _, name in new]


def _checked(row: Json) -> Entry:
    """An entry of the file. Raise TypeError or ValueError if it is none."""
    entry = Entry(*row) if isinstance(row, list) else None  # type: ignore[arg-type]
    if entry is None or not isinstance(entry.image_id, int | str) or not isinstance(entry.name, str):
        raise ValueError(row)
    return entry


def _entries(data: Dataset) -> Iterator[Entry]:
    return (Entry(*key, checksum) for key, checksum in zip(_keys(data), _checksums(data), strict=True))


def _keys(data: Dataset) -> Iterator[tuple[int | str, str]]:
    """The id and the name of each picture."""
    return zip(data.image_ids, data.names, strict=True)


def _rows(entries: Sequence[Entry], data: Dataset) -> list[int | None]:
    """The row of each picture in a data set; None if it is gone. If all are there in this order, no table of them is made."""
    rows, left = list[int | None](), enumerate(_keys(data))
    for entry in entries:
        row = next((row for row, key in left if key == entry[:2]), None)
        if row is None:
            places = {key: row for row, key in enumerate(_keys(data))}
            return [places.get(entry[:2]) for entry in entries]
        rows.append(row)
    return rows


def _others(data: Dataset, rows: Sequence[int | None]) -> list[int]:
    """All other rows of a data set."""
    left = np.ones(len(data), np.bool_)
    left[[row for row in rows if row is not None]] = False
    return left.nonzero()[0].tolist()


def _checksums(data: Dataset) -> Iterator[str]:
    """Of the objects of each picture: boxes, labels, and whether they are ignored."""
    columns = [column.contiguous().numpy() for column in (data.boxes, data.labels, data.ignore | data.crowd)]
    parts = (b"".join(column[a:b].tobytes() for column in columns) for a, b in pairwise(data.offsets.tolist()))
    return (hashlib.blake2b(part, digest_size=8).hexdigest() for part in parts)


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
    return folder / CHECKPOINTS / NAME
