"""Text from unknown authors: what counts as a line, a number, an id or a size in it, and how messages quote it.

``float`` and ``int`` take more than a file format means: ``float("1_0")`` is 10, and digits of every script count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from reprlib import Repr
from typing import TypeAlias

from onestage.errors import DataError, shortened
from onestage.files import Json
from onestage.structures import Size

SHOWN_CHARACTERS = 80
"""Of a value in a message. A file may hold a name of a million characters."""

LARGEST_ID = 2**63 - 1
"""Ids are kept as 64-bit integers."""

LARGEST_SIDE = 1_000_000
"""Pixels that a picture may be stated to have in a row or a column. No format of ``images`` holds so many."""

Quotable: TypeAlias = "Sequence[Quotable] | Mapping[str, Quotable] | str | float | None"
"""A value of a JSON or YAML file, for a message."""

_EXACT = 2**53  # up to here a float holds every whole number
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}(?:\.0*)?")

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = SHOWN_CHARACTERS


def quoted(value: Quotable) -> str:
    """A value of a file as a message shows it: in quotes if it is text, without control characters, and short."""
    return "nothing" if value is None else _SHORT.repr(value)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Some names for a message: the first ones, each of them short."""
    names = list(names)
    return ", ".join([*(shortened(name, 40) for name in names[:most]), *["..."] * (len(names) > most)])


def no_scores(names: Iterable[str]) -> str:
    """What to know of labels that come with scores, in fields of these names."""
    return f"labels have no score: whatever {listed(names)} says, every one is an object"


def unquoted(text: str) -> str:
    """The text without blanks around it and without the quotes that enclose it."""
    bare = text.strip()
    return bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'" else bare


def misspelt(missing: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """For each missing name that one of those that are there is close to: that one, which may be meant for it."""
    known = [name for name in present if len(name) <= SHOWN_CHARACTERS]
    close = {name: get_close_matches(name, known, n=1, cutoff=0.7) for name in missing}
    return {name: found[0] for name, found in close.items() if found}


def renaming(misspelt: Mapping[str, str]) -> str:
    """What to do about names that are ``misspelt``."""
    return "; ".join(f"rename {quoted(found)} to {name}" for name, found in misspelt.items())


def repeated(names: Iterable[str]) -> list[str]:
    """The names that come more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def lines_of(text: str) -> list[str]:
    """The lines of a text. Only line feeds and carriage returns end a line, as editors and CSV have it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def decimal(text: str) -> float:
    """The number in a text, perhaps nan or infinite. Raise ValueError if it is none in ASCII digits."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def whole(text: str) -> int:
    """The whole number in a text: ``3`` and ``3.0`` are 3. Raise ValueError if it is none, or has more than 18 digits."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text.partition(".")[0])


_FLAGS = dict.fromkeys(("1", "true", "t", "yes", "y"), True)
_FLAGS |= dict.fromkeys(("0", "-1", "false", "f", "no", "n"), False)
_NOT_STATED = frozenset(("", "na", "n/a", "<na>", "nan", "none", "null", "unspecified"))


def is_stated(text: str) -> bool:
    """Whether a text says something: not nothing, nor NA, NaN, None or null, as tools write what they do not know."""
    return text.strip().lower() not in _NOT_STATED


def flag(text: str) -> bool:
    """Whether a text says yes, as 1, 1.0, true, t, yes and y do. What is not stated is no, and so is -1, which Open Images
    writes for unknown. Raise ValueError if it says neither.
    """
    if not is_stated(text):
        return False
    word = text.strip().lower()
    with suppress(ValueError):
        word = str(whole(word))
    if word not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[word]


def is_number(name: str) -> bool:
    """Whether a name is a whole number that can be an id."""
    return name.isascii() and name.isdigit() and len(name) <= 18


def whole_number(value: Json) -> int | None:
    """A number of a JSON file that is whole, such as 3 or 3.0; None for anything else, and for what 64 bits cannot hold."""
    if type(value) is float and abs(value) <= _EXACT and value.is_integer():
        return int(value)
    return value if type(value) is int and abs(value) <= LARGEST_ID else None


def stated_size(height: Json, width: Json) -> Size | None:
    """(height, width) as an annotation states them. None if one is missing, 0 or -1: then the picture itself tells.

    Raise DataError if they are no sizes.
    """
    sides = _side(height), _side(width)
    if None in sides:
        got = f"width {quoted(width)}, height {quoted(height)}"
        raise DataError("height and width should be whole numbers above 0", got=got, expected=f"1 to {LARGEST_SIDE:,}")
    rows, columns = (side or 0 for side in sides)
    return (rows, columns) if rows and columns else None


def _side(value: Json) -> int | None:
    """Pixels; 0 if the value stands for an unknown side, None if it is wrong."""
    if value in (None, "", -1):
        return 0
    side = whole_number(value)
    return side if side is not None and 0 <= side <= LARGEST_SIDE else None


def size_text(size: Size) -> str:
    """A size (height, width) as messages write it, so that the two cannot be confused."""
    height, width = size
    return f"{width} x {height} (width x height)"
