"""The pages of a Parquet file: what they unpack to, and where the values of a column of bytes lie.

The footer of a file says how much its pages unpack to, but pyarrow unpacks what the heads of the pages say, and no more: so
these are asked. Where a value lies is found so that one picture can be read without its whole row group. That is possible
where the column is neither compressed nor in a dictionary, as ``onestage data convert`` writes it: a value is then its length
in four bytes, and its bytes. The format: https://parquet.apache.org/docs/file-format/data-pages/. The heads of the pages are
in Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). All that is
found is checked: the values fill their page to its last byte, and there are as many as the row group has rows. Otherwise
there is no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from onestage.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_HEAD = 4096
"""Bytes that are read for the head of a page at first: without statistics it takes some twenty."""
_DATA_PAGE, _PLAIN = 0, 0
"""PageType.DATA_PAGE and Encoding.PLAIN in parquet.thrift."""
_BOOLEANS, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = (1, 2), (4, 5, 6), 7, 8, 12
"""Types of the compact protocol. Others do not occur in the head of a page."""

_LONGEST_HEAD = 2**24
"""Bytes of a head with the statistics of long values, at most; also in pyarrow."""
_OF_DATA = {5: 2, 8: 4}
"""The fields of a head that tell of a page with values, DataPageHeader and DataPageHeaderV2; in each, that of its encoding."""
_DELTA_BYTE_ARRAY = 7
"""The encoding in which a value goes on where the one before it ends: it may be longer than its page."""
_AFTER = 100
"""Bytes after a column that pyarrow may read with it: old writers stated some too few."""
MOST_PAGES = 2**17
"""Pages of a column in a row group. Each takes a read."""

Place = tuple[int, int]
"""Where a value begins in the file, and its length, in bytes."""
Fields = dict[int, "int | Fields"]
"""The numbers of a Thrift structure by their ids; other fields are passed over."""


class Unpacked(NamedTuple):
    """What the pages of a column in a row group unpack to, as their heads say: how many values, how many bytes, and the bytes
    that no value exceeds.
    """

    values: int
    size: int
    longest: int


def unpacked(parquet: ParquetFile, file: BinaryIO, group: int, number: int) -> Unpacked:
    """What the column of that number has in a row group. file: the same, open. Raise DataError if its pages are damaged, or too
    many.
    """
    chunk = parquet.metadata.row_group(group).column(number)
    if chunk.data_page_offset == 0:  # where no page can be: there are no rows
        return Unpacked(0, 0, 0)
    first = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    at = first if first and first < chunk.data_page_offset else chunk.data_page_offset
    stop, values, size, pages, longest, grows = at + chunk.total_compressed_size, 0, 0, 0, 0, False
    while at < stop + _AFTER:
        try:
            head, length = _head(file, at)
            packed, field = _number(head[3]), next((field for field in _OF_DATA if field in head), 0)
            if at + length + packed > stop + _AFTER:
                raise ValueError("a page that ends after its column")
            size, longest = size + _number(head[2]), max(longest, _number(head[2]))
            if isinstance(about := head.get(field), dict):
                values, grows = values + _number(about[1]), grows or about[_OF_DATA[field]] == _DELTA_BYTE_ARRAY
        except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
            if at >= stop:  # something else follows
                break
            what, got = "a part of this Parquet file cannot be read", f"a damaged page in row group {group}, at byte {at:,}"
            raise DataError(what, got=got, fix="copy or write it again, whole") from error
        at, pages = at + length + packed, pages + 1
        if pages > MOST_PAGES:
            what, got = "a row group of this Parquet file has too many pages", chunk.path_in_schema
            raise DataError(what, got=got, expected=f"at most {MOST_PAGES:,}", fix="write it again with larger pages")
    return Unpacked(values, size, size if grows else longest)


def _head(file: BinaryIO, at: int) -> tuple[Fields, int]:
    """The head of the page at a place, and its length. Raise ValueError or IndexError if there is none."""
    most = _HEAD
    while True:
        file.seek(at)
        content = file.read(most)
        try:
            reader = _Compact(content)
            return reader.structure(), reader.at
        except (ValueError, IndexError):
            if len(content) < most or most >= _LONGEST_HEAD:
                raise
            most *= 16


def places(parquet: ParquetFile, file: BinaryIO, group: int, column: str) -> list[Place] | None:
    """The places of all values of a column in a row group; None if they do not lie there as they are. file: the same, open."""
    numbers = [i for i in range(len(parquet.schema)) if parquet.schema.column(i).path == column]
    if not numbers:
        return None
    about, rows = parquet.schema.column(numbers[0]), parquet.metadata.row_group(group).num_rows
    chunk = parquet.metadata.row_group(group).column(numbers[0])
    if chunk.compression != "UNCOMPRESSED" or about.max_repetition_level or about.max_definition_level:
        return None
    at, stop = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    found: list[Place] = []
    try:
        while len(found) < rows and at < stop:
            at = _page(file, at, stop, found)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return None
    return found if len(found) == rows else None


def _page(file: BinaryIO, at: int, stop: int, found: list[Place]) -> int:
    """Add the values of the page at a place. Return where the next one begins. Raise ValueError if this is no plain page."""
    file.seek(at)
    reader = _Compact(file.read(min(_HEAD, stop - at)))
    head = reader.structure()
    about = head[5]
    if head[1] != _DATA_PAGE or not isinstance(about, dict) or about[2] != _PLAIN:
        raise ValueError("another kind of page")
    start, size, count = at + reader.at, _number(head[3]), _number(about[1])
    position, end = start, start + size
    if end > stop:
        raise ValueError("a page that ends after its column")
    for _ in range(count):
        file.seek(position)
        length = int.from_bytes(file.read(4), "little")
        found.append((position + 4, length))
        position += 4 + length
        if position > end:
            raise ValueError("a value that ends after its page")
    if position != end:
        raise ValueError("values that do not fill their page")
    return end


def _number(value: int | Fields) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


class _Compact:
    """The reader of a structure of Thrift's compact protocol. at: how many bytes were read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def structure(self) -> Fields:
        """The numbers of a structure, and of those inside it."""
        fields: Fields = {}
        field = 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            if kind in _BOOLEANS:
                fields[field] = int(kind == 1)
            elif kind in _INTEGERS:
                fields[field] = self._zigzag()
            elif kind == _STRUCT:
                fields[field] = self.structure()
            elif kind in (_DOUBLE, _BINARY):
                self._skip(8 if kind == _DOUBLE else self._varint())
            else:
                raise ValueError(f"a field of type {kind}")
        return fields

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.content):
            raise ValueError("a field that ends after its head")

    def _varint(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
