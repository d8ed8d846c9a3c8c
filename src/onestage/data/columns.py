"""The columns of a data set in one file, which is mapped into memory: a million pictures are open at once, and all processes on
a machine share the memory.

The file: a line that names its kind and version, the length of the facts in eight digits of hexadecimal, the facts as JSON,
then the arrays, each at a multiple of 64 bytes. The facts list the arrays, each with its checksum. A file is written whole or
not at all. Nothing in it is code.

Shape letters: P pictures.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from onestage.errors import RowError
from onestage.files import Json, atomic_file
from onestage.parts import Part, Row, Stamp
from onestage.structures import Size

MAGIC = b"onestage columns 2\n"
KINDS = ("uint8", "bool", "int32", "int64", "float32")
_ALIGNED = 64
_DIGITS = 8
_PIECE = 4096
"""Items that are made at a time where all are wanted."""

_MOST_GROUPS = 2**32

Item = TypeVar("Item", covariant=True)
Array = NDArray[np.generic]


class Column(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are asked for. A slice of it is a tuple. It equals any sequence of the same
    items.
    """

    @abstractmethod
    def _item(self, row: int) -> Item: ...

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self._item(row) for row in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise RowError("there is no such row", got=index, expected=f"0 to {len(self) - 1}")
        return self._item(index % len(self))

    def __iter__(self) -> Iterator[Item]:
        return map(self._item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        """The first items."""
        return f"<{len(self):,}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''}>"


class Texts(Column[str]):
    """P texts. ends (P + 1,) int64: text i is the bytes ends[i]:ends[i + 1] of blob. before: what each text begins with."""

    def __init__(self, blob: Array, ends: Array, before: str = "") -> None:
        self.blob, self.ends, self.before = blob, ends, before

    def __len__(self) -> int:
        """P."""
        return len(self.ends) - 1

    def _item(self, row: int) -> str:
        return self.before + self.blob[self.ends[row] : self.ends[row + 1]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _PIECE):
            ends = self.ends[first : first + _PIECE + 1].tolist()
            piece = self.blob[ends[0] : ends[-1]].tobytes()
            for start, stop in pairwise(ends):
                yield self.before + piece[start - ends[0] : stop - ends[0]].decode("utf-8", "surrogatepass")

    def packed_rows(self, rows: Array) -> tuple[Array, Array]:
        """The blob and the ends of the texts of these rows, without what each text begins with."""
        starts, lengths = self.ends[rows], self.ends[rows + 1] - self.ends[rows]
        ends = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        return self.blob[np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])], ends

    @staticmethod
    def packed(texts: Sequence[str]) -> tuple[Array, Array]:
        """The blob and the ends of some texts."""
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=ends[1:])
        return np.frombuffer(b"".join(pieces), np.uint8), ends

    @staticmethod
    def joined(packed: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
        """The blob and the ends of several packed texts, one after another."""
        starts = np.cumsum([0, *(len(blob) for blob, _ in packed)])
        ends = [ends[1:] + start for (_, ends), start in zip(packed, starts, strict=False)]
        none = np.zeros(0, np.uint8)
        return np.concatenate([none, *(blob for blob, _ in packed)]), np.concatenate([np.zeros(1, np.int64), *ends])


class Numbers(Column[int]):
    """P whole numbers (P,)."""

    def __init__(self, numbers: Array) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        """P."""
        return len(self.numbers)

    def _item(self, row: int) -> int:
        return int(self.numbers[row])

    def __iter__(self) -> Iterator[int]:
        for first in range(0, len(self), _PIECE):
            yield from self.numbers[first : first + _PIECE].tolist()


class Sizes(Column[Size]):
    """P sizes (P, 2): height and width."""

    def __init__(self, sizes: Array) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        """P."""
        return len(self.sizes)

    def _item(self, row: int) -> Size:
        height, width = self.sizes[row].tolist()
        return height, width

    def __iter__(self) -> Iterator[Size]:
        for first in range(0, len(self), _PIECE):
            yield from map(tuple, self.sizes[first : first + _PIECE].tolist())


class InPlace(Column[Item]):
    """A column, some of whose items give way to those of another one. which (P,) bool: in these rows."""

    def __init__(self, column: Column[Item], other: Column[Item], which: Array) -> None:
        self.column, self.other, self.which = column, other, which

    def __len__(self) -> int:
        """P."""
        return len(self.column)

    def _item(self, row: int) -> Item:
        return (self.other if self.which[row] else self.column)[row]


class Chosen(Column[Item]):
    """Some items of a column, by their rows."""

    def __init__(self, column: Column[Item], rows: Array) -> None:
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        """How many are chosen."""
        return len(self.rows)

    def _item(self, row: int) -> Item:
        return self.column[int(self.rows[row])]


def chosen(items: Sequence[Item], rows: Sequence[int]) -> Sequence[Item]:
    """The items of these rows: a tuple, or of a column a column."""
    if isinstance(items, Chosen):
        return Chosen(items.column, items.rows[np.asarray(rows, np.int64)])
    if isinstance(items, Column):
        return Chosen(items, np.asarray(rows, np.int64))
    return tuple(items[row] for row in rows)


@dataclass(frozen=True, eq=False)
class Parts:
    """Where P pictures lie inside larger files. files and stamps: of each file. file (P,): which one. offset, length (P,): the
    place in it, in bytes; or, with an offset below 0, a row group of a Parquet file, as -1 - its number, and the row in it.
    With a length below 0, only a reader of the file's format finds the picture.
    """

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    file: Array
    offset: Array
    length: Array

    def part(self, row: int, path: str) -> Part | None:
        """The place of a picture with that path; None if its path has to do."""
        offset, length, file = int(self.offset[row]), int(self.length[row]), int(self.file[row])
        if length < 0:
            return None
        if offset < 0:
            return Row(path, self.files[file], -1, -1, self.stamps[file], -1 - offset, length)
        return Part(path, self.files[file], offset, length, self.stamps[file])

    @property
    def groups(self) -> Array | None:
        """(P,) int64: the number of the row group that holds each picture, where any has to be read whole; None if none has."""
        if not np.less(self.offset, 0).any():
            return None
        return self.file.astype(np.int64) * _MOST_GROUPS + np.maximum(-1 - self.offset, 0)

    def chosen(self, rows: Sequence[int]) -> Parts:
        """Those of some pictures."""
        wanted = np.asarray(rows, np.int64)
        return Parts(self.files, self.stamps, self.file[wanted], self.offset[wanted], self.length[wanted])


def write_columns(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, Json]) -> None:
    """Write a file of columns, whole or not at all. Raise WriteError if that is not possible."""
    listed: dict[str, Json] = {}
    at = 0
    for name, array in arrays.items():
        listed[name] = [array.dtype.name, [*array.shape], at, zlib.crc32(_bytes_of(array))]
        at += -(-array.nbytes // _ALIGNED) * _ALIGNED
    head = json.dumps({"arrays": listed, "bytes": at, **facts}).encode()
    begun = MAGIC + f"{len(head):0{_DIGITS}x}".encode() + head
    with atomic_file(path, durable=True) as file:
        file.write(begun.ljust(_aligned(len(begun)), b"\0"))
        for array in arrays.values():
            file.write(_bytes_of(array))
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_columns(path: Path) -> tuple[dict[str, Array], dict[str, Json]] | None:
    """The arrays and the facts of a file of columns; None if there is none, or it is damaged, which is as good as none.

    The arrays are mapped, each alone: what is changed in one changes no file, and one that is no longer used takes no memory.
    """
    try:
        with path.open("rb") as file:
            return _arrays(file)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _arrays(file: BinaryIO) -> tuple[dict[str, Array], dict[str, Json]]:
    """Raise ValueError and its like unless this is a whole file of columns."""
    length = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("another kind of file")
    size = int(file.read(_DIGITS), 16)
    if not 0 <= size <= length:
        raise ValueError("facts that end after the file")
    facts = json.loads(file.read(size))
    first = _aligned(len(MAGIC) + _DIGITS + size)
    if length != first + facts["bytes"]:
        raise ValueError("another length than it states")
    arrays: dict[str, Array] = {}
    for name, (kind, shape, at, checksum) in facts.pop("arrays").items():
        if kind not in KINDS or any(side < 0 for side in shape) or at < 0:
            raise ValueError(f"an array {name} of {kind}")
        arrays[name] = _mapped(file, first + at, np.dtype(kind), int(np.prod(shape, dtype=np.int64))).reshape(shape)
        if zlib.crc32(_bytes_of(arrays[name])) != checksum:
            raise ValueError(f"an array {name} with other bytes than it was written with")
    return arrays, facts


def _mapped(file: BinaryIO, at: int, kind: np.dtype[np.generic], count: int) -> Array:
    """So many numbers of a file, from byte ``at`` on. Raise ValueError if they do not lie in it."""
    if count == 0:
        return np.zeros(0, kind)
    before = at % mmap.ALLOCATIONGRANULARITY
    content = mmap.mmap(file.fileno(), before + count * kind.itemsize, access=mmap.ACCESS_COPY, offset=at - before)
    return np.frombuffer(content, kind, count, before)


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
