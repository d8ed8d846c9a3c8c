"""Names for files about pictures, such as their labels: two pictures never get the same, on any system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import PurePosixPath

LONGEST = 150
"""Bytes of a stem: most systems take 255 in a name, and the suffix and a temporary name need some of them."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)
"""Names that Windows keeps for devices."""


class Stems:
    """Give out stems that differ, whatever the case of letters and Unicode's normal form: some systems see no difference."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, *wished: str) -> str:
        """The first of these that is free. If none is, the last one with a number after it."""
        numbered = (f"{wished[-1]}-{number}" for number in count(2))
        for stem in chain(wished, numbered):
            if (key := same_file(stem)) not in self._taken:
                self._taken.add(key)
                return stem
        raise AssertionError("numbers end never")


def same_file(name: str) -> str:
    """A key that is the same for all names that some system takes for one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def flat_stems(names: Iterable[str]) -> Iterator[str]:
    """A stem for each picture, all for one folder. names: the pictures' paths, with forward slashes, in a fixed order.

    a/x.jpg becomes a_x. So does each character that some program or list of names would not take. Of two pictures with one stem
    the second one keeps its suffix: x.jpg and x.png become x and x_png.
    """
    stems = Stems()
    for name in names:
        path = PurePosixPath(name)
        yield stems.take(plain(str(path.with_suffix("")) if path.suffix else name), plain(name.replace(".", "_")))


def plain(name: str) -> str:
    """The name with letters, digits, "_", "." and "-" alone, not hidden, not reserved and not too long. The end of a long name
    stays.
    """
    stem = re.sub(r"[^\w.-]", "_", name.encode(errors="replace").decode())
    stem = re.sub(r"\A[.-]|\.\Z", "_", stem) or "_"
    if _RESERVED.match(stem):
        stem = f"_{stem}"
    if len(stem.encode()) > LONGEST:
        digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
        stem = f"{digest}_{stem.encode()[-(LONGEST - 9) :].decode(errors='ignore')}"
    return stem
