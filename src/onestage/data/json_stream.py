"""JSON read entry by entry, so that a file of ten million detections needs the memory of one.

Policy: NaN and Infinity are read as such, because detectors write them, and the reader of the entries refuses them one by one.
A key that is given twice in one object, nesting that is too deep and an entry of more than ``LONGEST`` characters spoil the
file. Outlines and key points are left out at once: they are most of a file's size.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from onestage.data.files import open_text
from onestage.data.text import quoted
from onestage.errors import DataError
from onestage.files import Json

PIECE = 2**20
"""Characters that are read at once."""
LONGEST = 16 * 2**20
"""Characters that an entry may have. A picture with 100,000 detections in one line has less."""

_BLANKS = re.compile(r"[ \t\n\r]*")
_WORD = 20  # characters of a number that may be cut
_CUT = "the file ends too early: it is cut off"
_FIX = "write the file again with the program that wrote it"


class Item(NamedTuple):
    """An entry of a list, or a value that stands alone. key: of the list or the value in the outermost object, or "". number:
    of the entry in its list, counted from 0. alone: it stands alone.
    """

    key: str
    number: int
    value: Json
    alone: bool = False


def items(file: Path) -> Iterator[Item]:
    """The entries of a list; or the entries of all lists in an object, and its other values, one after another.

    Raise DataError if the file cannot be read, or is no such JSON.
    """
    with open_text(file) as stream:
        scanner = _Scanner(stream, file)
        if scanner.take("["):
            yield from scanner.entries("")
        elif scanner.take("{"):
            yield from scanner.members()
        else:
            raise scanner.error(f"{scanner.peek() or 'the end of the file'} in place of a list or an object")
        if rest := scanner.peek():
            raise scanner.error(f"{rest} after the end")


def values(file: Path) -> Iterator[Item]:
    """The values of a file that holds several, one after another, as JSON lines do. Raise DataError as ``items`` does."""
    with open_text(file) as stream:
        scanner = _Scanner(stream, file)
        while scanner.peek():
            yield Item("", scanner.done, scanner.value())


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Twice(Counter(key for key, _ in pairs).most_common(1)[0][0])
    content.pop("segmentation", None)
    content.pop("keypoints", None)
    return content


class _Twice(Exception):
    """A key is given twice in one object."""


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=float)


class _Scanner:
    """A place in a JSON text that is read piece by piece. done: the values that were read so far."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self.stream, self.file = stream, file
        self.text, self.at, self.done = "", 0, 0

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]  # it fits everywhere
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def take(self, character: str) -> bool:
        """Whether this character comes next; it is passed over then."""
        taken = self.peek() == character
        self.at += taken
        return taken

    def entries(self, key: str) -> Iterator[Item]:
        """The entries of a list whose bracket is passed."""
        if self.take("]"):
            return
        number = 0
        while True:
            yield Item(key, number, self.value())
            number += 1
            if self.take("]"):
                return
            self._demand(",")

    def members(self) -> Iterator[Item]:
        """The values of an object whose brace is passed; a list entry by entry."""
        seen: set[str] = set()
        while not self.take("}"):
            if seen:
                self._demand(",")
            key = self.value()
            if not isinstance(key, str) or key in seen:
                raise self.error("the key " + quoted(key) + " is given twice" if isinstance(key, str) else "no key in quotes")
            seen.add(key)
            self._demand(":")
            if self.take("["):
                yield from self.entries(key)
            else:
                yield Item(key, 0, self.value(), alone=True)

    def value(self) -> Json:
        """The next value as a whole."""
        self.peek()
        told = ""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise self.error("it is nested too deeply") from error
            except _Twice as error:
                raise self.error(f"the key {quoted(str(error))} is given twice in one object") from error
            except json.JSONDecodeError as error:
                in_string = error.msg.startswith("Unterminated")
                said, cut = f"{error.msg}, {error.pos - self.at}", in_string or error.pos > len(self.text) - _WORD
                if (said == told and not in_string) or not self._more():
                    raise self.error(_CUT if cut else error.msg) from error
                told = said  # the same once more, with more text, is a fault of the text
            except ValueError as error:  # a number of more than 4,300 digits
                raise self.error(str(error)) from error
            else:
                if end < len(self.text) or not self._more():  # at the end of a piece a number may go on
                    self.at, self.done = end, self.done + 1
                    return value

    def error(self, got: str) -> DataError:
        """The error for a text that is no JSON here."""
        what = f"this is not valid JSON, after {self.done:,} values"
        return DataError(what, where=self.file, got=got, fix=_FIX)

    def _demand(self, character: str) -> None:
        if not self.take(character):
            found = self.peek()
            raise self.error(f"{found} in place of {character}" if found else _CUT)

    def _more(self) -> bool:
        """Read on, and forget what is done. Return whether there was more. Raise DataError if an entry is too long."""
        if len(self.text) - self.at > LONGEST:
            raise self.error(f"an entry of more than {LONGEST:,} characters")
        piece = self.stream.read(max(PIECE, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)
