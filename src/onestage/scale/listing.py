"""The list of all pictures of a batch, as a Parquet file: a row group for each shard, so that any shard is read alone.

To write it takes 8 bytes of memory for each picture, with which it is checked that ids are unlike each other.

Shape letters: N pictures.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onestage.errors import DataError, counted
from onestage.files import atomic_file
from onestage.scale.inputs import Listed

COMPARED = 3
"""Examples of what changed."""


@dataclass(frozen=True)
class Summary:
    """What a list holds. digest: a SHA-256 of all its rows. repeated: pictures that came a second time, and were left out."""

    pictures: int
    shards: int
    digest: str
    repeated: int = 0


def write_listing(path: Path, pictures: Callable[[], Iterable[Listed]], shard_size: int) -> Summary:
    """Write the list. pictures: gives them, in the same order at each call; a second one is needed if ids come twice.

    Raise DataError if two different pictures have the same id, WriteError if the file cannot be written.
    """
    summary, ids = _write(path, pictures(), shard_size)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) == len(ids):
        return summary
    once = _Once({*values[counts > 1].tolist()})
    summary, _ = _write(path, filter(once, pictures()), shard_size)
    return Summary(summary.pictures, summary.shards, summary.digest, once.repeated)


def _write(path: Path, pictures: Iterable[Listed], shard_size: int) -> tuple[Summary, NDArray[np.uint64]]:
    """Write all pictures. Return what they are, and a number (N,) for each id."""
    from pyarrow import RecordBatch, parquet

    digest, ids, shards, schema = hashlib.sha256(), array("Q"), 0, _schema()
    with atomic_file(path, durable=True) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        left = iter(pictures)
        while shard := [*islice(left, shard_size)]:
            rows = [(_text(row.id), _text(row.path), os.fsencode(row.address), *row[3:]) for row in shard]
            for row in rows:
                digest.update(repr(row).encode())
                ids.append(_number(row[0]))
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_batch(RecordBatch.from_pydict(dict(zip(schema.names, columns, strict=True)), schema), shard_size)
            shards += 1
    return Summary(len(ids), shards, digest.hexdigest()), np.frombuffer(ids, dtype=np.uint64) if ids else np.zeros(0, np.uint64)


class _Once:
    """Whether a picture is a new one. doubted: the numbers of the ids that may come twice."""

    def __init__(self, doubted: set[int]) -> None:
        self.repeated = 0
        self._doubted = doubted
        self._place: dict[str, tuple[str, int, int]] = {}

    def __call__(self, picture: Listed) -> bool:
        """Raise DataError if another picture has its id."""
        if _number(_text(picture.id)) not in self._doubted:
            return True
        place = (picture.address, picture.offset, picture.length)
        known = self._place.setdefault(picture.id, place)
        if known != place:
            what, fix = "two pictures have the same id", "leave out the column of ids, or name the folder above"
            got = f"{picture.id}: {known[0]} and {picture.address}"
            raise DataError(what, where=picture.path, got=got, expected="an id for each picture", fix=fix)
        if known is not place:
            self.repeated += 1
        return known is place


def _number(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def _text(name: str) -> str:
    """A name as UTF-8 can hold it: bytes of another encoding are shown as codes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _schema() -> Any:
    import pyarrow as pa

    whole = [(name, pa.int64()) for name in ("offset", "length", "size", "changed")]
    return pa.schema([("id", pa.string()), ("path", pa.string()), ("address", pa.binary()), *whole])


def read_shard(path: Path, shard: int) -> list[Listed]:
    """The pictures of a shard. Raise DataError if the list cannot be read."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            rows = file.read_row_group(shard).to_pydict()
    except (ArrowException, OSError) as error:
        what, fix = "the list of pictures of this batch cannot be read", "begin again in another folder: -o OTHER"
        raise DataError(what, where=path, got=str(error).partition("\n")[0], fix=fix) from error
    rows["address"] = [os.fsdecode(address) for address in rows["address"]]
    return [Listed(*row) for row in zip(*rows.values(), strict=True)]


def shard_sizes(path: Path) -> list[int]:
    """How many pictures each shard has."""
    from pyarrow import parquet

    about = parquet.read_metadata(path)
    return [about.row_group(shard).num_rows for shard in range(about.num_row_groups)]


@dataclass(frozen=True)
class Change:
    """How two lists differ: how many pictures came, went and changed, and the ids of the first of them. moved: whether the
    pictures are the same, and their order, or where the input lies, is not.
    """

    came: int
    went: int
    changed: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """In one line."""
        counts = {"came": self.came, "went": self.went, "changed": self.changed}
        parts = [f"{counted(count, 'picture')} {what}" for what, count in counts.items() if count]
        if not parts:
            return "the pictures are the same, in another order or in another place"
        return f"{', '.join(parts)}, such as {', '.join(self.examples)}"


def compare(before: Path, after: Path) -> Change:
    """How a list differs from the one before. It takes 16 bytes of memory for each picture of both, and some more to sort."""
    old, new = _marks(before), _marks(after)
    common, here, there = np.intersect1d(old.ids, new.ids, assume_unique=True, return_indices=True)
    changed = common[old.states[here] != new.states[there]]
    came, went = (np.setdiff1d(one, common, assume_unique=True) for one in (new.ids, old.ids))
    examples = _named(after, {*came[:COMPARED].tolist(), *changed[:COMPARED].tolist()}) + _named(
        before, {*went[:COMPARED].tolist()}
    )
    return Change(len(came), len(went), len(changed), tuple(examples[:COMPARED]))


class _Marks(NamedTuple):
    """ids (N,) uint64: a number for the id of each picture. states (N,) uint64: one for what it was when it was listed."""

    ids: NDArray[np.uint64]
    states: NDArray[np.uint64]


def _marks(path: Path) -> _Marks:
    ids, states = array("Q"), array("Q")
    for row in _all(path):
        ids.append(_number(row.id))
        states.append(_number(repr((row.length, row.size, row.changed))))
    return _Marks(*(np.array(column, dtype=np.uint64) for column in (ids, states)))


def _named(path: Path, numbers: set[int]) -> list[str]:
    """The ids with these numbers."""
    return [row.id for row in _all(path) if _number(row.id) in numbers] if numbers else []


def _all(path: Path) -> Iterator[Listed]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        shards = file.num_row_groups
    for shard in range(shards):
        yield from read_shard(path, shard)
