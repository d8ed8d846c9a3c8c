"""Pictures that are parts of larger files: members of a tar, rows of a Parquet file.

The path of such a picture goes on behind its file: shards/train-000000.tar/000001.jpg. So it has a name and a suffix, and
messages, lists and checksums treat it as any other path. Nothing is extracted: a picture is read from its place.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from threading import Event, Lock, Semaphore
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from onestage import tars
from onestage.errors import ConfigError, DataError, absent
from onestage.pages import unpacked

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

TAR, PARQUET = ".tar", ".parquet"
IMAGE, NAME = "image", "name"
"""The columns of a Parquet file that hold a picture's bytes, and its name."""
LARGEST_GROUP = 2 * 10**9
"""Bytes of a row group. Where pictures do not lie in a file as they are, a whole group is read for each."""
KEPT = 512_000_000
"""Bytes of row groups that a process and its workers keep, and each the last one however large it is."""
AT_ONCE = 4
"""Row groups that the threads of a process read at the same time."""
ROWS, ROWS_OF_PICTURES = 256, 8
"""Rows of a Parquet file that are unpacked together, at most: what a file unpacks to is not known before."""
BYTES_TOGETHER = 2**29
"""Bytes that the rows unpacked together may have in a column, if each has the longest value that the column may hold."""
MOST_VALUES = 2**25
"""Values in a column of a row group. Lists repeat a value 2^31 times in some bytes."""
LONGEST_NAME = 4096
"""Characters of a picture's name in a Parquet file."""
TOO_LONG = object()
"""The place of what was not unpacked."""


class Stamp(NamedTuple):
    """By what a file is known not to have changed: its size in bytes, and its time of change in nanoseconds."""

    size: int
    changed: int


@dataclass(frozen=True)
class Part:
    """A picture inside a file. path: of the picture, for messages. file: that it lies in, with the ``stamp`` that it had when
    the place was found. offset and length: the place, in bytes.
    """

    path: str
    file: str
    offset: int
    length: int
    stamp: Stamp

    def __str__(self) -> str:
        """Its path."""
        return self.path

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first ``most`` of them. Raise DataError if the file has changed; OSError if it cannot be read."""
        with self.opened() as file:
            file.seek(self.offset)
            content = _whole(file.read, self.length if most is None else min(most, self.length))
            self._check(file.fileno())
        return content

    def _check(self, descriptor: int) -> None:
        """Raise DataError if the open file is another one than when the place was found."""
        if _stamp(os.fstat(descriptor)) != self.stamp:
            what, fix = "this file has changed since it was opened", "begin again: then it is read as it is now"
            got = f"another size or time of change of {self.file}"
            raise DataError(what, where=self.path, got=got, fix=fix, code="changed")

    def opened(self) -> FileIO:
        """The file that it lies in, open at its beginning. Errors: as of ``read``."""
        file = FileIO(self.file, opener=_open_at_once)
        try:
            self._check(file.fileno())
        except DataError:
            file.close()
            raise
        return file


@dataclass(frozen=True)
class Row(Part):
    """A picture in a row of a Parquet file that does not hold it as it is, but compressed. group, row: where it is."""

    group: int = 0
    row: int = 0

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first ``most`` of them. The pictures of its row group are read with it."""
        found = _groups.pictures(self.file, self.stamp, self.group)
        if self.row >= len(found):
            fix = "copy or write it again, whole"
            raise DataError("this Parquet file has fewer rows than it states", where=self.path, got=len(found), fix=fix)
        return found[self.row][:most]


def stamp_of(file: str | Path) -> Stamp:
    """The stamp of a file. Raise OSError if there is none."""
    return _stamp(Path(file).stat())


def located(path: str | Path) -> Part:
    """The picture of this path inside a file. Raise DataError if there is none."""
    place = next((parent for parent in Path(path).parents if parent.is_file()), None)
    if place is None:
        raise DataError(absent(path), where=path, fix="check the path")
    kind = {TAR: _in_tar, PARQUET: _in_parquet}.get(place.suffix.lower())
    if kind is None:
        got, fix = f"{place} is a file", "check the path"
        raise DataError("there is no such picture", where=path, got=got, expected="a folder, .tar or .parquet", fix=fix)
    stamp = stamp_of(place)
    found = kind(str(place), stamp).get(Path(path).relative_to(place).as_posix())
    if found is None:
        raise DataError(f"there is no such picture in {place.name}", where=path, fix="check the name")
    return found


def picture_names(names: list[str | None]) -> list[str]:
    """The name of the picture in each row of a Parquet file: as the file has it, without folders; numbers if names are missing
    or not all different.
    """
    own = [(name or "").replace("\\", "/").rpartition("/")[2] for name in names]
    good = len({*own}) == len(own) and all(name and "\0" not in name and name not in (".", "..") for name in own)
    return own if good else [f"{row:07d}" for row in range(len(own))]


def open_parquet(file: str | Path, content: BinaryIO | None = None) -> ParquetFile:
    """A Parquet file. content: where its bytes are read, if it is open already, or not of this machine.

    Raise DataError, which names the file, if it is none or is damaged; ConfigError without pyarrow.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        what, fix = "Parquet files are read by a package that is not installed", "pip install 'onestage[parquet]'"
        raise ConfigError(what, where=file, got="no pyarrow", fix=fix) from error
    try:
        opened = ParquetFile(file if content is None else content)
        encrypted = _footer_size(file, content) != opened.metadata.serialized_size
    except (ArrowException, OSError) as error:
        what, fix = "this Parquet file is cut off or damaged", "copy or write it again, whole"
        raise DataError(what, where=file, got=_first_line(error), fix=fix) from error
    if encrypted:
        opened.close()
        what, fix = "this Parquet file is encrypted", "write it again without encryption"
        raise DataError(what, where=file, got="a signed footer", fix=fix)
    return opened


def _footer_size(file: str | Path, content: BinaryIO | None) -> int:
    """The bytes of a Parquet file's footer. A plain footer over encrypted columns is signed, so it is longer than what it says
    (the format's Encryption.md, section 4.2); pyarrow ends the process when it is asked about such a column.
    """
    with Path(file).open("rb") if content is None else nullcontext(content) as opened:
        opened.seek(-8, os.SEEK_END)
        return int.from_bytes(opened.read(4), "little")


def image_column(file: ParquetFile) -> str | None:
    """The path of the column of bytes that holds the pictures, such as image or image.bytes; None if there is none."""
    columns = [file.schema.column(i) for i in range(len(file.schema))]
    paths = {column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "STRING"}
    return next((path for path in (IMAGE, f"{IMAGE}.bytes") if path in paths), None)


def name_column(file: ParquetFile) -> str | None:
    """The path of the column that holds the names of the pictures; None if there is none."""
    paths = {file.schema.column(i).path for i in range(len(file.schema))}
    return next((path for path in (NAME, "file_name", f"{IMAGE}.path") if path in paths), None)


def names_of(file: ParquetFile, content: BinaryIO) -> list[str | None]:
    """The name of the picture in each row, as the file states it; None where it states none. content: of the same file. Raise
    DataError if they cannot be read, or if there are too many rows or too long names.
    """
    path, count = name_column(file), file.metadata.num_rows
    if count > tars.MOST_MEMBERS:
        got, expected = f"{count:,} rows", f"at most {tars.MOST_MEMBERS:,}"
        raise DataError("this Parquet file has too many rows", got=got, expected=expected, fix="divide it")
    if path is None:
        return [None] * count
    found: list[str | None] = []
    for value in (value for group in range(file.num_row_groups) for (value,) in rows_of(file, group, [path], content=content)):
        found.append(value if isinstance(value, str) else None)
        if isinstance(value, str) and len(value) > LONGEST_NAME:
            got, expected = f"{len(value):,} characters in row {len(found) - 1}", f"at most {LONGEST_NAME:,}"
            raise DataError("a name in this Parquet file is too long", got=got, expected=expected, fix="write a shorter one")
    if len(found) != count:
        what, fix = "this Parquet file does not have the rows that it states", "copy or write it again, whole"
        raise DataError(what, got=f"{len(found):,} rows", expected=f"{count:,}", fix=fix)
    return found


def rows_of(
    file: ParquetFile,
    group: int,
    paths: Sequence[str],
    *,
    content: BinaryIO,
    together: int = ROWS,
    most: int | None = None,
) -> Iterator[tuple[object, ...]]:
    """The values of some columns in each row of a row group, read ``together`` so many rows at a time, or fewer. paths: of the
    columns, with a dot where one is inside another. content: of the same file. Raise DataError if they cannot be read, or
    are too many or too large.

    most: bytes of a row. In place of a longer one come as many ``TOO_LONG``.
    """
    from pyarrow import ArrowException

    together = min(together, max(1, BYTES_TOGETHER // _longest_value(file, group, paths, content)))
    batches = file.iter_batches(together, row_groups=[group], columns=[*paths], use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            long = most is not None and batch.nbytes > most
            for part in (batch.slice(row, 1) for row in range(len(batch))) if long else (batch,):
                if most is not None and part.nbytes > most:
                    yield tuple(TOO_LONG for _ in paths)
                    continue
                yield from zip(*(_values(part, path) for path in paths), strict=True)
        except (ArrowException, OSError, UnicodeDecodeError) as error:
            what, fix = "a part of this Parquet file cannot be read", "copy or write it again, whole"
            raise DataError(what, got=f"row group {group}: {_first_line(error)}", fix=fix) from error


def _longest_value(file: ParquetFile, group: int, paths: Sequence[str], content: BinaryIO) -> int:
    """The bytes, 1 or more, that no value of these columns exceeds: a text that many rows have is stored once. The pages
    say it, because the footer may say less than they hold. Raise DataError if there are too many values, or bytes.
    """
    roots, row_group, longest = {path.partition(".")[0] for path in paths}, file.metadata.row_group(group), 1
    for number in range(row_group.num_columns):
        column = row_group.column(number)
        if column.path_in_schema.partition(".")[0] not in roots:
            continue
        values, size, value = unpacked(file, content, group, number)
        for count, most, unit, fault in (
            (max(values, column.num_values), MOST_VALUES, "values", "has too many values"),
            (size, LARGEST_GROUP, "bytes", "is too large"),
        ):
            if count > most:
                got, fix = f"{count:,} {unit} in {column.path_in_schema}", "write it again with smaller row groups"
                raise DataError(f"a row group of this Parquet file {fault}", got=got, expected=f"at most {most:,}", fix=fix)
        longest = max(longest, value)
    return longest


def _values(batch: RecordBatch, path: str) -> list[object]:
    """The values of a column in some rows."""
    outer, _, inner = path.partition(".")
    values = batch.column(outer).to_pylist()
    return [value and value.get(inner) for value in values] if inner else values


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _whole(read: Callable[[int], bytes | None], length: int) -> bytes:
    """So many bytes, in as many reads as the system wants."""
    found = read(length) or b""
    while len(found) < length and (more := read(length - len(found))):
        found += more
    return found


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_size, found.st_mtime_ns)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file. A pipe that has taken its place is not waited for."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError.no_file(path, "the file that was there before")
    return descriptor


@lru_cache(maxsize=16)
def _in_tar(file: str, stamp: Stamp) -> Mapping[str, Part]:
    """The pictures and other files of a tar by their names, up to where it is cut off or damaged; the first of each name."""
    found: dict[str, Part] = {}
    with Path(file).open("rb") as tar:
        try:
            for name, offset, size, kind in tars.members(tar, stamp.size):
                if kind == "file":
                    found.setdefault(name.removeprefix("./"), Part(f"{file}/{name}", file, offset, size, stamp))
        except DataError:
            if not found:
                raise
    return found


@lru_cache(maxsize=16)
def _in_parquet(file: str, stamp: Stamp) -> Mapping[str, Part]:
    """The pictures of a Parquet file by their names."""
    with open_parquet(file) as parquet, Path(file).open("rb") as content:
        names = picture_names(names_of(parquet, content))
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    rows = ((group, row) for group, count in enumerate(counts) for row in range(count))
    return {name: Row(f"{file}/{name}", file, -1, -1, stamp, *place) for name, place in zip(names, rows, strict=True)}


class _Groups:
    """The pictures of the row groups that were read last."""

    def __init__(self) -> None:
        self.begin()

    def begin(self, processes: int = 1) -> None:
        """Keep nothing, and from now on as much as one of so many processes may."""
        self._most = KEPT // processes
        self._kept: OrderedDict[tuple[str, Stamp, int], list[bytes]] = OrderedDict()
        self._read: dict[tuple[str, Stamp, int], Event] = {}
        self._lock, self._seats = Lock(), Semaphore(AT_ONCE)

    def pictures(self, file: str, stamp: Stamp, group: int) -> list[bytes]:
        """The bytes of the pictures of a row group; none for a row without a picture. Threads read several groups at the same
        time, and one group once.
        """
        key = file, stamp, group
        while (found := self._known(key)) is None:
            with self._lock:
                other = self._read.get(key)
                if other is None:
                    mine = self._read[key] = Event()
            if other is not None:
                other.wait()
                continue
            try:
                with self._seats:
                    self._keep(key, _read_group(file, stamp, group))
            finally:
                with self._lock:
                    del self._read[key]
                mine.set()
        return found

    def _known(self, key: tuple[str, Stamp, int]) -> list[bytes] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, Stamp, int], found: list[bytes]) -> None:
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > 1 and sum(sum(map(len, kept)) for kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)


def _read_group(file: str, stamp: Stamp, group: int) -> list[bytes]:
    if stamp_of(file) != stamp:
        what, fix = "this file has changed since it was opened", "begin again: then it is read as it is now"
        raise DataError(what, where=file, fix=fix, code="changed")
    found, size = list[bytes](), 0
    with open_parquet(file) as parquet, Path(file).open("rb") as content:
        path = image_column(parquet)
        if path is None:
            raise DataError("this Parquet file has no pictures", where=file, expected=f"a column {IMAGE} of bytes")
        for (value,) in rows_of(parquet, group, [path], content=content, together=ROWS_OF_PICTURES):
            found.append(value if isinstance(value, bytes) else b"")
            size += len(found[-1])
            if size > LARGEST_GROUP:
                got, expected = f"more in row group {group}", f"at most {LARGEST_GROUP:,} bytes"
                fix = "write it again with smaller row groups: some hundred pictures each"
                raise DataError(
                    "a row group of this Parquet file is too large", where=file, got=got, expected=expected, fix=fix
                )
    return found


_groups = _Groups()


def share_kept(processes: int) -> None:
    """Let this process, a new one, keep as many row groups as one of so many may."""
    _groups.begin(processes)
