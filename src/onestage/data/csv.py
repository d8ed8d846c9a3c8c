"""CSV: one row for each object, in the form of the d2l book's banana set and many other data sets.

Policy:
- The header says which column is which, by the synonyms in ``ROLES``, in any order; commas, semicolons or tabs. Without a
  header one form is understood: picture, x1, y1, x2, y2, class name, as keras-retinanet has it. Anything different is an error.
- Boxes are in pixels or in 0-1; all boxes of a split decide together. Where both are possible, or rows contradict each other,
  it is an error.
- A row with an empty box is a picture without objects. Pictures that no row names are not part of the data set.
- Classes are all labels in the whole data set, for any split that is read: sorted, numbers by value. If all are numbers, they
  are the data set's ids. With ``classes=`` they then count the given names from 0.
- pairing.py finds the pictures by their names. When a folder is searched, a CSV file without any of its pictures does not
  count, nor does one far above its pictures if there is a data set in another format: such files often accompany it.

Shape letters: M objects.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.files import PICTURE_SUFFIXES, Sources, head, one_per_split, read_text
from onestage.data.labels import StoredClasses
from onestage.data.pairing import Named
from onestage.data.table import WHOLE, PictureFile, Row, Table, in_parts
from onestage.data.text import decimal, is_number, lines_of, quoted
from onestage.data.tree import Tree
from onestage.errors import DataError, shortened

LAYOUT = "CSV: label.csv beside its pictures or a folder images/, columns such as filename, label, xmin, ymin, xmax, ymax"

ROLES = {
    "image": "image img imgname imagename filename file imageid imagepath imgpath path filepath imagefile",
    "label": "label class classname labelname category categoryname celltype name object",
    "x1": "xmin x1 left bboxxmin",
    "y1": "ymin y1 top bboxymin",
    "x2": "xmax x2 right bboxxmax",
    "y2": "ymax y2 bottom bboxymax",
}
"""The column names understood for each role, in lower case and without spaces, hyphens and underscores."""

_NAMES = [frozenset(names.split()) for names in ROLES.values()]
_IGNORED = str.maketrans("", "", " _-")

HEADER = 65_536
"""Characters that the first line of a file may have."""

HEADERLESS = (0, 5, 1, 2, 3, 4)
"""The column of each role in a file without a header: picture, x1, y1, x2, y2, class (keras-retinanet, README, "CSV")."""


class Dialect(NamedTuple):
    """How a file is written: the column of each role in the order of ``ROLES``, the separator, whether a header leads."""

    columns: tuple[int, ...]
    separator: str
    header: bool


class Entry(NamedTuple):
    """One row: the line it ends on, the picture's name, the label, and the box; None for a picture without objects."""

    line: int
    image: str
    label: str
    box: list[float] | None


class Content(NamedTuple):
    """The good rows of a file, and the errors of the bad rows, by line."""

    entries: list[Entry]
    errors: dict[int, DataError]


@dataclass(frozen=True)
class CsvSet:
    """A CSV data set found on disk: one file for each split. sure: a file lies near one of its pictures."""

    tree: Tree = field(repr=False)
    sources: Sources
    sure: bool = True

    @property
    def missing(self) -> Mapping[str, DataError]:
        """Nothing in this format states a split apart from its files."""
        return {}

    @property
    def label_files(self) -> frozenset[Path]:
        """The files that are read for some split."""
        return frozenset(self.sources[""])

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        table.classes = self._classes
        for file in self.sources[split]:
            pictures = Named(self.tree, file)
            _fill(table, file, self._contents[file], pictures)
            table.moved(file, pictures.moved)
        table.relative = _are_relative(table)

    @cached_property
    def _contents(self) -> dict[Path, Content]:
        return {file: _read_rows(file) for file in self.sources[""]}

    @property
    def _classes(self) -> StoredClasses:
        """All labels in the whole data set; numbers are sorted by value and are ids at once."""
        names = {entry.label for content in self._contents.values() for entry in content.entries if entry.box}
        numbered = bool(names) and all(map(is_number, names)) and len(set(map(int, names))) == len(names)
        return StoredClasses.named(sorted(names, key=int if numbered else None), numbered=numbered)


def find(tree: Tree) -> CsvSet | None:
    """The CSV data set among these files, or None. Raise DataError if a single file is named and not understood."""
    tables = [file for file in tree.offered if file.suffix.lower() == ".csv"]
    if tree.chosen is not None and tables:
        _dialect(head(tables[0]), tables[0])
    else:
        tables = [file for file in tables if _fits(file, tree)]
    sure = tree.chosen is not None or any(_fits(file, tree, near=True) for file in tables)
    return CsvSet(tree, one_per_split(tree.root, tables), sure) if tables else None


def holds_labels(file: Path) -> bool:
    """Whether a file looks like a data set in this format: its columns are understood, and it has a row."""
    return file.suffix.lower() == ".csv" and bool(_first_names(file))


def _fits(file: Path, tree: Tree, *, near: bool = False) -> bool:
    """Whether this file's columns are understood and one of its first pictures is there, once or more. near: not far down."""
    pictures = Named(tree, file)
    return any(pictures.is_near(name) if near else pictures.fits(name) for name in _first_names(file))


def _first_names(file: Path) -> list[str]:
    """The pictures of the first rows; none if the columns are not understood."""
    try:
        text = head(file)
        dialect = _dialect(text, file)
    except DataError:
        return []
    rows = [next(csv.reader([line], delimiter=dialect.separator), []) for line in lines_of(text)[dialect.header : 100]]
    return [row[dialect.columns[0]] for row in rows if len(row) > max(dialect.columns)]


def _dialect(text: str, file: Path) -> Dialect:
    """How the file is written, judged by its first line. Raise DataError that shows this line if that is unclear."""
    first = next((line for line in lines_of(text[:HEADER]) if line.strip()), "")
    for separator in ",;\t" if len(first) < HEADER else "":
        row = next(csv.reader([first], delimiter=separator), [])
        columns = _named_columns(row)
        if columns:
            return Dialect(columns, separator, header=True)
        if _is_headerless(row):
            return Dialect(HEADERLESS, separator, header=False)
    expected = "a header with one column each for the picture, the label, xmin, ymin, xmax and ymax (also x1, left, class, ...)"
    raise DataError("the columns of this CSV file are not understood", where=file, got=shortened(first), expected=expected)


def _named_columns(header: Sequence[str]) -> tuple[int, ...] | None:
    """The column of each role, or None unless the header has exactly one for each."""
    cells = [cell.strip().lower().translate(_IGNORED) for cell in header]
    columns = [[i for i, cell in enumerate(cells) if cell in names] for names in _NAMES]
    return tuple(found[0] for found in columns) if all(len(found) == 1 for found in columns) else None


def _is_headerless(row: Sequence[str]) -> bool:
    """Whether this is a picture, four numbers and a label that is no number, or a picture and nothing else."""
    if len(row) != len(HEADERLESS) or Path(row[0]).suffix.lower() not in PICTURE_SUFFIXES:
        return False
    _, *corners, label = row
    numbers = all(cell.strip().lstrip("-").replace(".", "", 1).isdecimal() for cell in corners)
    return (numbers and bool(label.strip()) and not label.strip().isdecimal()) or not any(row[1:])


def _read_rows(file: Path) -> Content:
    text = read_text(file)
    dialect = _dialect(text, file)
    content = Content([], {})
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=dialect.separator, strict=True)
    header = dialect.header
    try:
        for row in reader:
            if not any(map(str.strip, row)) or header:
                header = header and not any(map(str.strip, row))
                continue
            try:
                content.entries.append(_entry(reader.line_num, row, dialect))
            except DataError as error:
                content.errors[reader.line_num] = error
    except csv.Error as error:
        content.errors[reader.line_num] = DataError("the rest of the file cannot be read", got=error)
    return content


def _entry(line: int, row: Sequence[str], dialect: Dialect) -> Entry:
    """Raise DataError with the reason if this row is no object."""
    if len(row) <= max(dialect.columns):
        raise DataError("too few columns", got=len(row), expected=f"at least {max(dialect.columns) + 1}")
    label, *corners = (row[column].strip() for column in dialect.columns[1:])
    image = row[dialect.columns[0]]
    if not image.strip():
        raise DataError("the picture's name is missing")
    if not any(corners):
        return Entry(line, image, label, None)
    if not label:
        raise DataError("the label is missing")
    try:
        return Entry(line, image, label, [decimal(corner) for corner in corners])
    except ValueError:
        comma = any("," in corner for corner in corners)
        what = "numbers need a decimal point, not a comma" if comma else "the box is not four numbers"
        raise DataError(what, got=", ".join(map(quoted, corners)), expected="xmin, ymin, xmax, ymax") from None


def _fill(table: Table, file: Path, content: Content, pictures: Named) -> None:
    """Put the rows of a file into the table. The objects of a missing picture are left out; the first is a problem."""
    name = table.name(file)
    for line, error in content.errors.items():
        table.problem(f"{name}:{line}", error)
    rows: dict[str, int | None] = {}
    row_of: dict[Path, int] = {}  # one picture may have several names: a.jpg and images/a.jpg
    for line, image, label, box in content.entries:
        where = f"{name}:{line}"
        if image not in rows:
            rows[image] = None
            try:
                path = pictures.find(image)
            except DataError as error:
                table.problem(where, error)
                continue
            if path not in row_of:
                row_of[path] = table.add(PictureFile(str(path), image.strip()))
            rows[image] = row_of[path]
        row = rows[image]
        if row is not None and box is not None:
            table.objects.append(Row(row, box, label, where))


def _are_relative(table: Table) -> bool:
    """Whether the boxes are parts of their pictures, 0-1, and not pixels. Raise DataError if that is unclear.

    A box within 0-1 that is not all whole numbers is in parts. One that reaches beyond 1.5 is in pixels.
    """
    if not table.objects:
        return False
    boxes = torch.tensor([row.box for row in table.objects], dtype=torch.float64)
    parts = in_parts(boxes)
    pixels = (boxes > WHOLE).any(dim=1)
    if parts.any() and pixels.any():
        got = " and ".join(_first(table, flags) for flags in (parts, pixels))
        what = "some boxes look like parts of the picture (0-1), others like pixels"
        raise DataError(what, where=table.root, got=got, fix="write all of them in one way")
    unclear = not parts.any() and not pixels.any()
    if unclear and (boxes[:, 2:] > boxes[:, :2]).all(dim=1).any():
        what = "these boxes could be pixels as well as parts of the picture (0-1)"
        raise DataError(what, where=table.objects[0].where, got=table.objects[0].box, fix="write them in pixels")
    return bool(parts.any())


def _first(table: Table, flags: Tensor) -> str:
    """The place and the box of the first object that is flagged; flags (M,) bool."""
    row = table.objects[int(flags.nonzero()[0])]
    return f"{row.where}: {', '.join(f'{number:g}' for number in row.box)}"
