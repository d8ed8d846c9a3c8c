"""The members of a tar file, read with care: nothing is extracted, and what is no plain file is only named.

The format: POSIX.1-1988 (ustar), the pax headers of POSIX.1-2001 for long names and large sizes, and GNU's long names. Policy:
- Every header has a right checksum and every member ends within the file, or the rest of the file is not read.
- Two blocks of zeros end a tar. One that ends without them was cut off, perhaps between two members. Nothing but zeros follows.
- A compressed tar is refused: a picture in it could not be read without all that comes before.
- Sizes, names and the number of members are bounded before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from onestage.errors import DataError

BLOCK = 512
MOST_MEMBERS = 4_000_000
LONGEST_EXTENSION = 2**20
"""Bytes of a header that gives a long name or other attributes of the next member."""
_STEP = 2**20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}

Kind = Literal["file", "folder", "a hard link", "a symbolic link", "a device", "a pipe", "a sparse file", "of an unknown kind"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Whatever their size says: some tars state that of the file that a link leads to."""
_EXTENSIONS = (b"x", b"g", b"L", b"K")
END = bytes(2 * BLOCK)
"""The end mark."""
_CUT = "copy or write it again, whole"


class Member(NamedTuple):
    """An entry of a tar. offset and size: of its content, in bytes. kind: "file", "folder", or what else it is."""

    name: str
    offset: int
    size: int
    kind: Kind


def members(file: BinaryIO, length: int) -> Iterator[Member]:
    """The members of an open tar of ``length`` bytes, in order. Between two of them the caller may read other places.

    Raise DataError, without a place, where the file stops being a tar: it is cut off, damaged or compressed. What came
    before is whole.
    """
    at, count = 0, 0
    extended: dict[str, str] = {}
    while True:
        header = _read(file, at, BLOCK)
        if header.count(0) == BLOCK:
            _check_end(file, at + BLOCK, length)
            return
        _check_header(header, at, length, count)
        size, flag = _number(header[124:136], at), header[156:157]
        if flag in _WITHOUT_CONTENT:
            size = 0
        elif flag not in _EXTENSIONS:
            size = _size_of(extended, size)
        _check_content(at, size, length, count)
        start, following = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        if flag in _EXTENSIONS:
            found = _extension(flag, _read(file, start, size) if size <= LONGEST_EXTENSION else None, at)
            extended = extended if flag == b"g" else extended | found
        else:
            count += 1
            yield _member(header, extended, start, size, flag)
            extended = {}
        at = following


def write_member(file: BinaryIO, name: str, content: bytes) -> None:
    """Add a plain file to an open tar. The bytes that are written follow from the name and the content alone."""
    raw = name.encode("utf-8", "backslashreplace")
    if len(raw) > 100:
        record = b" path=" + raw + b"\n"
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        _write_entry(file, b"long name", str(length).encode() + record, b"x")
    _write_entry(file, raw[:100], content, b"0")


def _write_entry(file: BinaryIO, name: bytes, content: bytes, flag: bytes) -> None:
    numbers = b"0000644\0" + 2 * b"0000000\0" + b"%011o\0" % len(content) + b"%011o\0" % 0
    header = name.ljust(100, b"\0") + numbers + 8 * b" " + flag + bytes(100) + b"ustar\00000"
    header = header.ljust(BLOCK, b"\0")
    file.write(header[:148] + b"%06o\0 " % sum(header) + header[156:])
    file.write(content + bytes(-len(content) % BLOCK))


def _member(header: bytes, extended: dict[str, str], start: int, size: int, flag: bytes) -> Member:
    name = extended.get("path")
    if name is None:
        own, above = (
            _text(header[:100]),
            _text(header[345:500]) if header[257:262] == b"ustar" and header[262:263] == b"\0" else "",
        )
        name = f"{above}/{own}" if above else own
    kind = _KINDS.get(flag, "of an unknown kind")
    if kind == "file" and any(key.startswith("GNU.sparse") for key in extended):
        kind = "a sparse file"
    if kind == "file" and name.endswith("/"):  # as tars before POSIX mark a folder
        kind = "folder"
    return Member(name, start, size, kind)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _check_header(header: bytes, at: int, length: int, count: int) -> None:
    """Raise DataError unless this is the header of another member."""
    if at == 0 and (kind := next((kind for mark, kind in _COMPRESSED.items() if header.startswith(mark)), None)):
        fix = "unpack it: its pictures are compressed already"
        raise DataError(f"this tar is compressed with {kind}", fix=f"{fix}, and then a tar is as small")
    if length == 0:
        raise DataError("this tar is empty", got="0 bytes", fix=_CUT)
    if len(header) < BLOCK:
        got = f"{length:,} bytes, {count:,} whole members, and no end mark"
        raise DataError("this tar is cut off", got=got, expected="two blocks of zeros at its end", fix=_CUT)
    sums = sum(header[:148]) + sum(header[156:]) + 8 * 32
    if _octal(header[148:156]) != sums:
        what = "this tar is damaged" if count or at else "this is no tar"
        raise DataError(what, got=f"no header at byte {at:,}, after {count:,} whole members", fix=_CUT)
    if count >= MOST_MEMBERS:
        raise DataError("this tar has too many members", expected=f"at most {MOST_MEMBERS:,}", fix="divide it")


def _check_content(at: int, size: int, length: int, count: int) -> None:
    if at + BLOCK + size > length:
        got = f"{length:,} bytes, {count:,} whole members, and a part of another one"
        raise DataError("this tar is cut off", got=got, expected=f"at least {at + BLOCK + size:,} bytes", fix=_CUT)


def _check_end(file: BinaryIO, at: int, length: int) -> None:
    """Raise DataError if something follows the end mark: it may be another tar, whose members would be lost."""
    while at < length:
        piece = _read(file, at, _STEP)
        if piece.count(0) != len(piece):
            what, fix = "something follows the end of this tar", "write its members into one tar; tar -A joins two"
            raise DataError(what, got=f"data after byte {at:,}", expected="zeros", fix=fix)
        at += max(len(piece), 1)


def _size_of(extended: dict[str, str], size: int) -> int:
    stated = extended.get("size", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 19 else size


def _extension(flag: bytes, content: bytes | None, at: int) -> dict[str, str]:
    """What a header says of the next member: its name under "path", and its size."""
    if content is None:
        what, expected = "a header of this tar is too long", f"at most {LONGEST_EXTENSION:,} bytes"
        raise DataError(what, got=f"a longer one at byte {at:,}", expected=expected, fix="write it with plain names")
    if flag in b"LK":
        return {"path": _text(content)} if flag == b"L" else {}
    found: dict[str, str] = {}
    while content:
        digits, _, rest = content.partition(b" ")
        count = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = content[len(digits) + 1 : count]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not rest or not equals or count > len(content):
            raise DataError("a header of this tar is damaged", got=f"one at byte {at:,}", fix=_CUT)
        found[_text(key)] = value.decode("utf-8", "backslashreplace")
        content = content[count:]
    return found


def _number(field: bytes, at: int) -> int:
    """A size: octal digits, or binary ones where its first bit is set."""
    value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if value is None or value >= 2**63:
        raise DataError("this tar is damaged", got=f"a member at byte {at:,} without a size", fix=_CUT)
    return value


def _octal(field: bytes) -> int | None:
    digits = field.replace(b"\0", b" ").strip() or b"0"
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _text(field: bytes) -> str:
    """A text up to its first NUL. Bytes that are no UTF-8 are shown as codes."""
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")
