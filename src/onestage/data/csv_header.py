"""How a CSV file is written, as its first lines tell: the separator, and which column is which.

Policy:
- The header says which column is which, by the synonyms in ``ROLES``, in any order; commas, semicolons or tabs. Without a
  header one form is understood: picture, x1, y1, x2, y2, class name, as keras-retinanet has it. Anything different is an error.
  So is a header with x3 or y3: its boxes are not upright.
- Empty lines, ``sep=;``, which gives the separator, and comments after ``#`` may lead.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from onestage.data.csv_sizes import size_columns
from onestage.data.csv_words import foreign_columns, foreign_sides, from_sides
from onestage.data.files import PICTURE_SUFFIXES, head
from onestage.data.text import lines_of, listed, misspelt, renaming
from onestage.errors import DataError, shortened

ROLES = {
    "image": "image img imgname imagename filename file imageid imagepath imgpath path filepath imagefile",
    "label": "label class classname labelname category categoryname celltype name object",
    "x1": "xmin x1 left bboxxmin",
    "y1": "ymin y1 top bboxymin",
    "x2": "xmax x2 right bboxxmax",
    "y2": "ymax y2 bottom bboxymax",
}
"""The column names understood for each role, in lower case and without spaces, hyphens and underscores."""

_TITLES = {"image": "the picture", "label": "the class", "x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
"""The roles in messages."""

_USUAL = _TITLES | {"image": "filename", "label": "label"}
"""The name of a column that messages advise, for each role."""

_CONTENTS = {"x1": "the left edges", "y1": "the top edges", "x2": "the right edges", "y2": "the bottom edges"}
"""What the columns of the corners hold, in messages."""

_COMMAS = re.compile(r"(?:^|[;\t])\s*-?\d+,\d+\s*(?=[;\t]|$)")
"""A number with a decimal comma, in a file with other separators."""

_NAMES = [frozenset(names.split()) for names in ROLES.values()]
_IGNORED = str.maketrans("", "", " _-#")
_SEPARATOR = re.compile(r"\"?sep=(\t|[^\w\s\"'])\"?[,;\s]*", re.IGNORECASE)

SPLIT_COLUMNS = frozenset("split set subset usage".split())  # noqa: SIM905  # as in ``ROLES``
"""Names of a column that may say which split a row belongs to, perhaps in words that are not known."""

_OF_SPLITS = re.compile("split|partition|phase|stage|fold(?!er)|set$|^usage$|^datatype$")
"""What the name of a column has in it that says so, or else that it is a fold, or the data set that a row comes from."""

_HELD_OUT = {True: frozenset({"train"}), False: frozenset({"val"})}
HELD_OUT_COLUMNS = {
    "isvalid": _HELD_OUT,
    "isval": _HELD_OUT,
    "isvalidation": _HELD_OUT,
    "istest": {True: frozenset({"train", "trainval"}), False: frozenset({"test"})},
    "istrain": {True: frozenset({"val", "test"}), False: frozenset({"train", "trainval"})},
}
"""Names of a column that divides the rows in two, as fastai's is_valid does, and the splits that yes and no rule out. The rows
that is_valid holds out may be in a file for val or test.
"""


def names_splits(column: str) -> bool:
    """Whether a column of this name, written as in ``ROLES``, may say which split a row belongs to."""
    return bool(_OF_SPLITS.search(column))


IGNORE_COLUMNS = frozenset("ignore ignored difficult isdifficult".split())  # noqa: SIM905
CROWD_COLUMNS = frozenset("iscrowd crowd isgroupof groupof".split())  # noqa: SIM905
"""Names of columns that flag an object as difficult, or as a region of several ones: those of COCO, VOC and Open Images."""

SCORE_COLUMNS = frozenset("score scores confidence conf probability".split())  # noqa: SIM905
"""Names of a column that labels do not have: how sure a detector was."""

MORE_CORNERS = frozenset("x3 y3 x4 y4".split())  # noqa: SIM905
"""Names of columns that no upright box has: x1, y1, x2, y2 are then two of four corners."""

CORNERS = ("x1", "y1", "x2", "y2")
OTHER_BOXES = frozenset("bbox box boundingbox x y w h width height cx cy xcenter ycenter centerx centery".split())  # noqa: SIM905
"""The roles of the corners, and names of columns that state a box in another way."""

_AS_CORNERS = (
    "write the corners of each box into columns xmin, ymin, xmax and ymax: for one that is left, top, width and height,"
    " xmax is left + width and ymax is top + height"
)

HEADER = 65_536
"""Characters that the first line of a file may have."""

NO_HEADER = "give the columns these names, in the first line, such as filename,xmin,ymin,xmax,ymax,label"
"""What to do about a file whose first line has few of the names."""

HEADERLESS = (0, 5, 1, 2, 3, 4)
"""The column of each role in a file without a header: picture, x1, y1, x2, y2, class (keras-retinanet, README, "CSV")."""


class Dialect(NamedTuple):
    """How a file is written.

    columns: that of each role, in the order of ``ROLES``. names: of all columns; empty without a header. width: the number of
    columns. lead: the lines before the header or the first row. size: the columns of height and width. ignore, crowd:
    those that flag an object.
    """

    columns: tuple[int, ...]
    width: int
    separator: str
    lead: int
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    ignore: tuple[int, ...] = ()
    crowd: tuple[int, ...] = ()

    @property
    def header(self) -> bool:
        """Whether a header leads."""
        return bool(self.names)

    @property
    def plain_names(self) -> list[str]:
        """The names of all columns, written as in ``ROLES``."""
        return _plain(self.names)

    @property
    def unread(self) -> tuple[int, ...]:
        """The columns that say nothing of an object here."""
        read = {*self.columns, *(self.size or ()), *self.ignore, *self.crowd}
        return tuple(column for column in range(len(self.names)) if column not in read)

    def flagging(self, *, but: Container[str] = ()) -> Dialect:
        """The same, but the columns of these names flag nothing, so they are not read."""
        names = self.plain_names
        ignore, crowd = (tuple(column for column in found if names[column] not in but) for found in (self.ignore, self.crowd))
        return self._replace(ignore=ignore, crowd=crowd)

    def among(self, known: Container[str]) -> tuple[int, ...]:
        """The columns with one of these names, written as in ``ROLES``."""
        return tuple(column for column, name in enumerate(self.plain_names) if name in known)


def dialect_of(text: str, file: Path) -> Dialect:
    """How the file is written, judged by its first line that is not empty, no ``sep=`` and no comment after ``#``.

    Raise DataError that shows this line if that is unclear.
    """
    separators, line = ",;\t", ""
    for number, line in enumerate(lines_of(text[:HEADER])):
        found = _told_by(line, number, separators) if len(line) < HEADER else None
        if found:
            return found
        stated = _SEPARATOR.fullmatch(line.strip(" "))
        separators = stated[1] if stated else separators
        if line.strip() and not stated and not line.lstrip().startswith("#"):
            break
    error = _not_understood(file, line, separators)
    if error.fix != NO_HEADER and any(len(_COMMAS.findall(row)) > 1 for row in lines_of(text[:HEADER])):
        fix = f"{error.fix}; and write the numbers with decimal points: 5.5, not 5,5"
        error = DataError(error.what, where=file, got=error.got, expected=error.expected, fix=fix)
    raise error


def _not_understood(file: Path, line: str, separators: str) -> DataError:
    """The error for a file whose first line is no header with each role once, or has more corners. The remedy is
    ``NO_HEADER`` if the line has little of a header.
    """
    rows = [next(csv.reader([line[:HEADER]], delimiter=separator), []) for separator in separators]
    row = max(rows, key=lambda row: sum(map(len, _columns_of(row))) + len(foreign_columns(row, [*ROLES])))
    expected = "a header with one column each for the picture, the label, xmin, ymin, xmax and ymax (also x1, left, class, ...)"
    what, got, fix = "the columns of this CSV file are not understood", listed((cell.strip() for cell in row), 12), NO_HEADER
    if MORE_CORNERS & {*_plain(row)}:
        what, expected = "this CSV file states more than two corners of each object", "two corners, those of an upright box"
        fix = "write the smallest upright box around all corners, as xmin, ymin, xmax and ymax"
    elif any(Path(cell.strip()).suffix.lower() in PICTURE_SUFFIXES for cell in row):
        what += ": it has no header"
        fix = "write the names of the columns into the first line, such as filename,xmin,ymin,xmax,ymax,label"
    elif told := _wrong_roles(row):
        what, fix = f"{what}: {told[0]}", told[1]
    else:
        got = shortened(line)
    return DataError(what, where=file, got=got, expected=expected, fix=fix)


def _wrong_roles(row: Sequence[str]) -> tuple[str, str] | None:
    """Which roles have no column of a header, or else several, and what to do about it. None if only one role has a column, or
    two in another language, unless it is the picture and boxes are stated in another way than by corners.
    """
    found = dict(zip(ROLES, _columns_of(row), strict=True))
    missing = [role for role, columns in found.items() if not columns]
    wrong = missing or [role for role, columns in found.items() if len(columns) > 1]
    foreign = foreign_columns(row, missing)
    if not wrong or _says_little(found, len(foreign), row):
        return None
    told = f"{'none' if missing else 'several'} for {' and '.join(_TITLES[role] for role in wrong)}"
    return told, _renamed(missing, row) or _right_columns([role for role in wrong if role not in foreign], foreign, row)


def _says_little(found: Mapping[str, Sequence[int]], foreign: int, row: Sequence[str]) -> bool:
    """Whether a row is hardly a header. found: the columns of each role. foreign: how many have one in another language."""
    known = sum(map(bool, found.values()))
    other = bool(found["image"]) and not all(map(found.get, CORNERS)) and not OTHER_BOXES.isdisjoint(_plain(row))
    return known <= 1 and known + foreign <= 2 and not other


def _renamed(missing: Sequence[str], row: Sequence[str]) -> str:
    """Which columns to rename if there is a misspelt one for each of the roles that are missing; nothing otherwise."""
    strangers = {*_plain(row)}.difference(*_NAMES)
    near = [misspelt(ROLES[role].split(), strangers) for role in missing]
    return renaming({name: cell for found in near for name, cell in [*found.items()][:1]}) if all(near) else ""


def _right_columns(roles: Sequence[str], foreign: Mapping[str, str], row: Sequence[str]) -> str:
    """What to do about columns that are missing, or of which there are several. foreign: those of other roles, in another
    language.
    """
    corners = [role for role in roles if role in CORNERS]
    boxes = _right_boxes(corners, row) if corners else ""
    named = [role for role in roles if not boxes or role not in CORNERS]
    texts = [f"call one column {_USUAL[role]}, that of {_CONTENTS.get(role, _TITLES[role])}" for role in named]
    renamed = renaming({_USUAL[role]: name for role, name in foreign.items()})
    return "; ".join(filter(None, [renamed, *texts, boxes]))


def _right_boxes(corners: Sequence[str], row: Sequence[str]) -> str:
    """What to do about these corners, which have no column, if boxes are stated in another way; nothing if they are not."""
    sides, other = foreign_sides(row), not OTHER_BOXES.isdisjoint(_plain(row))
    if sides and not other and {*corners} <= {*sides}:
        return from_sides(sides)
    return _AS_CORNERS if sides or other else ""


def _told_by(line: str, number: int, separators: str) -> Dialect | None:
    """What a header or a first row tells of its file; None if it is neither. number: of the lines before it."""
    for separator in separators:
        row = next(csv.reader([line], delimiter=separator), [])
        columns = _named_columns(row)
        if columns:
            told = Dialect(columns, len(row), separator, number, tuple(row), size_columns(_plain(row)))
            return told._replace(ignore=told.among(IGNORE_COLUMNS), crowd=told.among(CROWD_COLUMNS))
        if _is_headerless(row):
            return Dialect(HEADERLESS, len(row), separator, number)
    return None


def has_header(file: Path) -> bool:
    """Whether one of the first lines of a file is a header that is understood, and rows follow it."""
    lines = [line for line in lines_of(head(file)) if line.strip()][:20]
    rows = [
        next(csv.reader([line], delimiter=separator), []) for separator in ",;\t" for line in lines[:-1] if len(line) < HEADER
    ]
    return any(map(_named_columns, rows))


def _named_columns(header: Sequence[str]) -> tuple[int, ...] | None:
    """The column of each role, or None unless the header has exactly one for each, and no further corners."""
    columns = _columns_of(header)
    upright = not MORE_CORNERS & {*_plain(header)}
    return tuple(found[0] for found in columns) if upright and all(len(found) == 1 for found in columns) else None


def _columns_of(header: Sequence[str]) -> list[list[int]]:
    """The columns of each role, in the order of ``ROLES``."""
    cells = _plain(header)
    return [[i for i, cell in enumerate(cells) if cell in names] for names in _NAMES]


def _plain(header: Sequence[str]) -> list[str]:
    """The names of columns in lower case and without spaces, hyphens and underscores."""
    return [cell.strip().lower().translate(_IGNORED) for cell in header]


def _is_headerless(row: Sequence[str]) -> bool:
    """Whether this is a picture, four numbers and a label that is no number, or a picture and nothing else."""
    if len(row) != len(HEADERLESS) or Path(row[0]).suffix.lower() not in PICTURE_SUFFIXES:
        return False
    _, *corners, label = row
    numbers = all(cell.strip().lstrip("-").replace(".", "", 1).isdecimal() for cell in corners)
    return (numbers and bool(label.strip()) and not label.strip().isdecimal()) or not any(row[1:])
