"""The list of all pictures of a batch, as a Parquet file: a row group for each shard, so that any shard is read alone.

To write it takes 8 bytes of memory for each picture, and at most as much again for a moment, with which it is checked that ids
are unlike each other; a second time if there are equal ones.

Addresses are in it without passwords and keys. Those that have some are whole in another file, which only this user may read,
and which is there as long as a command works at the batch: each one makes it from the words that the user gives.

Shape letters: N pictures, M numbers of ids that may come twice.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onestage.data.batch_folder import arrow
from onestage.errors import DataError, counted
from onestage.files import atomic_file
from onestage.scale.inputs import Listed
from onestage.scale.parts import CHECKED
from onestage.scale.stores import masked

SECRETS = ".addresses.parquet"
"""The file of whole addresses, beside the list."""
COMPARED = 3
"""Examples of what changed."""


@dataclass(frozen=True)
class Summary:
    """What a list holds. digest: a SHA-256 of all its rows. repeated: pictures that came a second time, and were left out;
    clashes: others with the id of a picture before them, which were left out too, and clash: the first of them.
    """

    pictures: int
    shards: int
    digest: str
    repeated: int = 0
    clashes: int = 0
    clash: str = ""


def write_listing(path: Path, pictures: Callable[[], Iterable[Listed]], shard_size: int) -> Summary:
    """Write the list. pictures: gives them, in the same order at each call; a second one is needed if ids come twice. Of those
    with the same id the first one is taken.

    Raise WriteError if the file cannot be written.
    """
    summary, ids = _write(path, pictures(), shard_size)
    ids.sort()
    doubted = np.unique(ids[1:][ids[1:] == ids[:-1]])
    del ids
    if not len(doubted):
        return summary
    once = _Once(doubted)
    summary, _ = _write(path, filter(once, pictures()), shard_size)
    return replace(summary, repeated=once.repeated, clashes=once.clashes, clash=once.clash)


def _write(path: Path, pictures: Iterable[Listed], shard_size: int) -> tuple[Summary, NDArray[np.uint64]]:
    """Write all pictures. Return what they are, and a number (N,) for each id."""
    from pyarrow import RecordBatch, parquet

    digest, ids, shards, schema = hashlib.sha256(), array("Q"), 0, _schema()
    path.with_name(SECRETS).unlink(missing_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(atomic_file(path, durable=True))
        writer = stack.enter_context(parquet.ParquetWriter(file, schema, compression="zstd", **CHECKED))
        secrets = _Secrets(path.with_name(SECRETS), stack)
        left = iter(pictures)
        while shard := [*islice(left, shard_size)]:
            shown = [masked(row.address) for row in shard]
            secrets.write(shards, [(number, row.address) for number, row in enumerate(shard) if row.address != shown[number]])
            rows = [
                (_text(row.id), _text(row.path), os.fsencode(address), *row[3:])
                for row, address in zip(shard, shown, strict=True)
            ]
            for row in rows:
                digest.update(repr(row).encode())
                ids.append(_number(row[0]))
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_batch(RecordBatch.from_pydict(dict(zip(schema.names, columns, strict=True)), schema), shard_size)
            shards += 1
    return Summary(len(ids), shards, digest.hexdigest()), np.frombuffer(ids, dtype=np.uint64) if ids else np.zeros(0, np.uint64)


class _Secrets:
    """Takes the whole addresses of pictures. The file is begun with the first one, and whole when the stack ends."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._writer: Any = None

    def write(self, shard: int, addresses: list[tuple[int, str]]) -> None:
        """Keep the addresses of a shard, each with its row."""
        if not addresses:
            return
        import pyarrow as pa
        from pyarrow import parquet

        if self._writer is None:
            file = self._stack.enter_context(atomic_file(self._path))
            os.chmod(file.fileno(), 0o600)  # noqa: PTH101  # before its first byte
            schema = pa.schema([("shard", pa.int64()), ("row", pa.int64()), ("address", pa.binary())])
            self._writer = self._stack.enter_context(parquet.ParquetWriter(file, schema))
        rows = [{"shard": shard, "row": row, "address": os.fsencode(address)} for row, address in addresses]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, self._writer.schema))


class _Once:
    """Whether a picture is the first one of its id. doubted (M,): the numbers of the ids that may come twice, sorted."""

    def __init__(self, doubted: NDArray[np.uint64]) -> None:
        self.repeated = self.clashes = 0
        self.clash = ""
        self._doubted = doubted
        self._first = np.zeros((len(doubted), 2), dtype=np.uint64)  # of each: its place, 0 if there was none, and its id

    def __call__(self, picture: Listed) -> bool:
        number = _number(_text(picture.id))
        at = int(np.searchsorted(self._doubted, np.uint64(number)))
        if at == len(self._doubted) or int(self._doubted[at]) != number:
            return True
        place, id = _number(repr((picture.address, picture.offset, picture.length))) or 1, _number(f"{picture.id!r}")
        known = self._first[at].tolist()
        if not known[0]:
            self._first[at] = place, id
        if not known[0] or known[1] != id:  # another id that happens to have the same number
            return True
        if known[0] == place:
            self.repeated += 1
        else:
            self.clashes += 1
            self.clash = self.clash or f"{picture.id} ({picture.path})"
        return False


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
    pa = arrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            rows = file.read_row_group(shard).to_pydict()
        rows["address"] = [os.fsdecode(address) for address in rows["address"]]
        if (secrets := path.with_name(SECRETS)).exists():
            for whole in parquet.read_table(secrets, filters=[("shard", "=", shard)]).to_pylist():
                rows["address"][whole["row"]] = os.fsdecode(whole["address"])
    except (pa.ArrowException, OSError) as error:
        what, fix = "the list of pictures of this batch cannot be read", "begin again in another folder: -o OTHER"
        raise DataError(what, where=path, got=str(error).partition("\n")[0], fix=fix) from error
    return [Listed(*row) for row in zip(*rows.values(), strict=True)]


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
