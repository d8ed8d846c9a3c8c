"""The bytes of a picture that is listed, from a file, from a place in one, or from an address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from onestage.errors import ConfigError, DataError
from onestage.images import Stored
from onestage.parts import PARQUET, Part, Row, Stamp, stamp_of
from onestage.scale.inputs import Listed
from onestage.scale.stores import UNKNOWN, Remote, is_remote, reached

TRIES, PAUSE = 3, 0.5
"""Of asking for a picture at an address, and the seconds before the second time; then twice as many."""
KEPT = 256_000_000
"""Bytes from addresses that a process keeps: a picture is read twice, for its header and for all of it."""


@dataclass(frozen=True)
class Whole(Part):
    """A picture that is a file. It must not change from when it was listed until it is read."""

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first ``most`` of them. Raise DataError if it has changed, OSError if it cannot be read."""
        content = super().read(most)
        if stamp_of(self.file) != self.stamp:
            what, fix = "this picture changed while it was read", "begin again when nothing writes into its folder"
            raise DataError(what, where=self.path, got="another size or time of change", fix=fix, code="changed")
        return content


@dataclass(frozen=True)
class Fetched(Part):
    """A picture at an address. offset and length: where in it; UNKNOWN: all of it."""

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first ``most`` of them. Raise DataError if they cannot be had."""
        content = _kept.take(self)
        if content is None:
            content = self._fetch()
            _kept.put(self, content)
        return content[:most]

    def _fetch(self) -> bytes:
        end = None if self.length == UNKNOWN else self.offset + self.length
        for attempt in range(TRIES):
            try:
                with reached(self.path):
                    content = Remote(self.file).read(self.file, self.offset, end)
                    self._check_same(content)
                return content
            except ConfigError as error:  # a package for this kind of storage is missing
                raise DataError(error.what, where=self.path, got=error.got, fix=error.fix, code="unreachable") from error
            except DataError as error:
                if attempt == TRIES - 1 or isinstance(error.__cause__, FileNotFoundError | PermissionError):
                    raise
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _check_same(self, content: bytes) -> None:
        """Raise DataError if the storage has another file now than when it was listed, or gave not all of it."""
        got, expected = f"{len(content):,} bytes", f"{self.length:,}"
        if self.length in (UNKNOWN, len(content)):
            if not self.stamp.changed:  # nothing is known of it
                return
            if Remote(self.file).is_same(self.file, *self.stamp):
                return
            got, expected = "another file", "the file that was listed"
        what, fix = "this picture is another one than when it was listed", "begin again: then it is listed as it is"
        raise DataError(what, where=self.path, got=got, expected=expected, fix=fix, code="changed")


class _Kept:
    """What was fetched and read once, by all threads."""

    def __init__(self) -> None:
        self._contents: OrderedDict[Part, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def take(self, part: Part) -> bytes | None:
        """The bytes of a part, if they are there. They are not kept any longer: where storage has no stamps, nothing would tell
        that they are old.
        """
        with self._lock:
            content = self._contents.pop(part, None)
            self._size -= len(content or b"")
            return content

    def put(self, part: Part, content: bytes) -> None:
        """Keep them, and drop the oldest if there are too many."""
        with self._lock:
            self._size += len(content) - len(self._contents.pop(part, b""))  # two threads may have fetched it
            self._contents[part] = content
            while self._size > KEPT and len(self._contents) > 1:
                self._size -= len(self._contents.popitem(last=False)[1])


_kept = _Kept()


def stored(picture: Listed) -> Stored:
    """Where the picture is stored, for the decoder."""
    stamp = Stamp(picture.size, picture.changed)
    place = (picture.path, picture.address, picture.offset, picture.length)
    if is_remote(picture.address):
        return Fetched(*place, stamp)
    if picture.size == UNKNOWN:  # it was not there when the list was made: the decoder says why it cannot be read
        return picture.address
    if picture.address.lower().endswith(PARQUET) and picture.path != picture.address:  # not a picture with an odd name
        return Row(picture.path, picture.address, -1, -1, stamp, picture.offset, picture.length)
    if picture.path == picture.address:
        return Whole(*place, stamp)
    return Part(*place, stamp)
