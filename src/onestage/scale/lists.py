"""Lists of pictures: a text with a path in each line, or the rows of a CSV or Parquet file with a column of paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from onestage.errors import DataError, closest, shortened
from onestage.parts import open_parquet, rows_of
from onestage.scale.stores import Store

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

TEXTS, TABLES, PARQUET = frozenset({".txt", ".lst", ".list"}), frozenset({".csv", ".tsv"}), ".parquet"
"""The ends of the names of lists."""
PATHS = ("path", "file_name", "filename", "file", "image_path", "image", "picture", "url", "uri", "address", "name")
"""Names of a column of paths or addresses, the most telling first."""
IDS = ("id", "image_id", "picture_id")
"""Names of a column of ids."""
LONGEST = 32_768
"""Characters of a path. A longer line shows that the file is no list."""
_ROWS = 4096


class Entry(NamedTuple):
    """A picture of a list: its path or address as the list has it, and its id, if the list has one."""

    path: str
    id: str | None = None


def is_list(name: str) -> bool:
    """Whether a file of this name is read as a list of pictures."""
    end = _end(name)
    return end in TEXTS or end in TABLES or end == PARQUET


def entries(store: Store, address: str) -> Iterator[Entry]:
    """The pictures that a list names, in its order. Raise DataError, which names the list, if it cannot be read."""
    if _end(address) == PARQUET:
        yield from _of_parquet(store, address)
        return
    with _text(store, address) as lines:
        rows = _of_table(lines, address) if _end(address) in TABLES else map(Entry, _lines(lines, address))
        for entry in rows:
            if entry.path.strip():
                yield entry


def _end(name: str) -> str:
    _, dot, end = name.rpartition(".")
    return f".{end.lower()}" if dot else ""


@contextmanager
def _text(store: Store, address: str) -> Iterator[io.TextIOWrapper]:
    """The text of a file. Bytes that are no UTF-8 stay in the paths, as the system has them."""
    with store.open(address) as file, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield text


def _lines(text: io.TextIOWrapper, address: str) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST):
        number += 1
        line = line.rstrip("\r\n")
        if "\0" in line or len(line) >= LONGEST - 2:
            what, got = "this is no list of pictures", f"line {number:,}: {shortened(repr(line[:400]), 60)}"
            raise DataError(what, where=address, got=got, expected="a text with a path in each line", fix="name another file")
        yield line


def _of_table(text: io.TextIOWrapper, address: str) -> Iterator[Entry]:
    """The rows of a CSV or TSV file. Without a header it has one column, which is that of paths."""
    lines = _lines(text, address)
    first = next(lines, "")
    mark = max("\t,;", key=first.count)
    rows = csv.reader(_both(first, lines), delimiter=mark)
    try:
        header = next(rows, [])
        path, own = column_of(header, PATHS), column_of(header, IDS)
        if path is None:
            if len(header) > 1 or not any(mark in "".join(header) for mark in "./\\"):  # a heading, and no path
                raise _no_column(header, address)
            yield Entry(header[0] if header else "")
        for row in rows:
            if row and len(row) <= max(path or 0, own or 0):
                got, fix = f"line {rows.line_num:,} has {len(row)}", "correct this line"
                raise DataError("a row has too few columns", where=address, got=got, expected=str(len(header)), fix=fix)
            if row:
                yield Entry(row[path or 0], None if own is None else row[own])
    except csv.Error as error:
        what, got = "this CSV file cannot be read", f"line {rows.line_num:,}: {error}"
        raise DataError(what, where=address, got=got, fix="correct this line") from error


def _both(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first + "\n"
    for line in rest:
        yield line + "\n"


def column_of(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """The number of the first column with one of the wanted names, capitals aside; None if there is none."""
    plain = [name.strip().lower() for name in names]
    return next((plain.index(name) for name in wanted if name in plain), None)


def _no_column(names: Sequence[str], address: str) -> DataError:
    near = closest(names[0], PATHS) if names else []
    expected = f"a column named {', '.join(PATHS[:-1])} or {PATHS[-1]}"
    fix = f"rename the column of paths, such as {near[0] if near else PATHS[0]}"
    return DataError("no column of this list holds paths", where=address, got=", ".join(names), expected=expected, fix=fix)


@contextmanager
def opened_parquet(store: Store, address: str) -> Iterator[tuple[ParquetFile, BinaryIO]]:
    """A Parquet file and its bytes. Raise DataError, which names it, if it is damaged or none; ConfigError without pyarrow."""
    with store.open(address) as content, open_parquet(address, content) as file:
        yield file, content


def _of_parquet(store: Store, address: str) -> Iterator[Entry]:
    with opened_parquet(store, address) as (file, content):
        names = file.schema_arrow.names
        path, own = column_of(names, PATHS), column_of(names, IDS)
        if path is None:
            raise _no_column(names, address)
        columns = [names[path]] + ([] if own is None else [names[own]])
        for group in range(file.num_row_groups):
            try:
                for text, *ids in rows_of(file, group, columns, content=content, together=_ROWS):
                    if not isinstance(text, str):
                        what, got = "a row of this list has no path", repr(text)[:60]
                        raise DataError(what, got=got, expected="a text", fix="leave such rows out")
                    yield Entry(text, None if not ids or ids[0] is None else str(ids[0]))
            except DataError as error:
                raise error.at(address) from error
