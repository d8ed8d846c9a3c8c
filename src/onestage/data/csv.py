"""CSV: one row for each object, in the form of the d2l book's banana set and many other data sets.

Policy:
- The header says which column is which, by the synonyms in ``ROLES``, in any order; commas, semicolons or tabs. Without a
  header one form is understood: picture, x1, y1, x2, y2, class name, as keras-retinanet has it. Anything different is an error.
  So is a header with x3 or y3: its boxes are not upright.
- Boxes are in pixels or in 0-1; all boxes of a split decide together. Where both are possible, or rows contradict each other,
  it is an error.
- Columns width and height state the picture's size, or else, where all fit them, the sides of each box.
- A row with an empty box is a picture without objects. Pictures that no row names are not part of the data set.
- Empty lines, ``sep=;``, which gives the separator, and comments after ``#`` may lead.
- Files are splits. One whose column ``split``, ``set``, ``subset`` or ``usage`` names several splits is an error.
- Classes are all labels in the whole data set, for any split that is read: sorted, numbers by value. If all are numbers, they
  are the data set's ids, and 1, 1.0 and 01 are one. With ``classes=`` they then count the given names from 0. Numbers in one
  file and names in another are an error.
- pairing.py finds the pictures by their names. When a folder is searched, a CSV file without any of its pictures does not
  count, nor does one far above its pictures if there is a data set in another format: such files often accompany it.

Shape letters: M objects.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.csv_sizes import one_size, picture_sizes, size_columns
from onestage.data.files import PICTURE_SUFFIXES, Sources, head, one_per_split, read_text, split_name
from onestage.data.labels import StoredClasses
from onestage.data.pairing import Named
from onestage.data.table import WHOLE, PictureFile, Row, Table, in_parts
from onestage.data.text import decimal, is_number, lines_of, listed, quoted, whole
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

_TITLES = {"image": "the picture", "label": "the class", "x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
"""The roles in messages."""

_NAMES = [frozenset(names.split()) for names in ROLES.values()]
_IGNORED = str.maketrans("", "", " _-#")
_SEPARATOR = re.compile(r"\"?sep=(\t|[^\w\s\"'])\"?[,;\s]*", re.IGNORECASE)

SPLIT_COLUMNS = frozenset("split set subset usage".split())  # noqa: SIM905  # as in ``ROLES``
"""Names of a column that may say which split a row belongs to."""

MORE_CORNERS = frozenset("x3 y3 x4 y4".split())  # noqa: SIM905
"""Names of columns that no upright box has: x1, y1, x2, y2 are then two of four corners."""

HEADER = 65_536
"""Characters that the first line of a file may have."""

HEADERLESS = (0, 5, 1, 2, 3, 4)
"""The column of each role in a file without a header: picture, x1, y1, x2, y2, class (keras-retinanet, README, "CSV")."""


class Dialect(NamedTuple):
    """How a file is written: the column of each role in the order of ``ROLES``, the number of all columns, the separator, the
    lines before these, whether a header leads, the column that names a split for each row, and those of height and width.
    """

    columns: tuple[int, ...]
    width: int
    separator: str
    lead: int
    header: bool
    split: int | None = None
    size: tuple[int, int] | None = None


class Entry(NamedTuple):
    """One row: the line it ends on, the picture's name, the label, the box, None for a picture without objects, and the texts
    of height and width.
    """

    line: int
    image: str
    label: str
    box: list[float] | None
    size: tuple[str, str] = ("", "")


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
            _fill(table, file, self._contents[file], pictures, self._canonical)
            table.moved(file, pictures.moved)
        table.relative = _are_relative(table)

    @cached_property
    def _contents(self) -> dict[Path, Content]:
        return {file: _read_rows(file) for file in self.sources[""]}

    @cached_property
    def _canonical(self) -> Mapping[str, str]:
        """The class of each label in the whole data set: the same, but ``01`` and ``1.0`` are 1 where all are whole numbers.

        Raise DataError if one file only has numbers and another one only names.
        """
        labels = {file: found for file, content in self._contents.items() if (found := _labels(content))}
        number_of = {label: _number(label) for found in labels.values() for label in found}
        self._check_one_kind(labels, number_of)
        mixed = None in number_of.values()
        return {label: label if mixed else str(number) for label, number in number_of.items()}

    def _check_one_kind(self, labels: Mapping[Path, set[str]], number_of: Mapping[str, int | None]) -> None:
        """Raise DataError if the labels of one file are all numbers, and those of another one all names."""
        kinds = {file: {number_of[label] is None for label in found} for file, found in labels.items()}
        numbered = next((file for file, kind in kinds.items() if kind == {False}), None)
        named = next((file for file, kind in kinds.items() if kind == {True}), None)
        if numbered and named:
            got = "; ".join(f"{self.tree.short(file)}: {listed(sorted(labels[file]))}" for file in (numbered, named))
            what = "one file numbers its classes, and another one names them"
            raise DataError(what, where=self.tree.top, got=got, fix="write the names in both")

    @property
    def _classes(self) -> StoredClasses:
        """All labels in the whole data set; numbers are sorted by value and are ids at once."""
        names = {*self._canonical.values()}
        numbered = bool(names) and all(map(is_number, names))
        return StoredClasses.named(sorted(names, key=int if numbered else None), numbered=numbered)


def _labels(content: Content) -> set[str]:
    """The labels of all objects."""
    return {entry.label for entry in content.entries if entry.box}


def _number(label: str) -> int | None:
    """The number that a label is, 0 or more; None if it is a name."""
    try:
        return number if (number := whole(label)) >= 0 else None
    except ValueError:
        return None


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
    """Whether a file looks like a data set in this format: one of its first lines tells its columns, and it has a row."""
    return file.suffix.lower() == ".csv" and (bool(_first_names(file)) or _has_header(file))


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
    rows = [
        next(csv.reader([line], delimiter=dialect.separator), [])
        for line in lines_of(text)[dialect.lead + dialect.header : 100]
    ]
    return [row[dialect.columns[0]] for row in rows if len(row) > max(dialect.columns)]


def _dialect(text: str, file: Path) -> Dialect:
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
    raise _not_understood(file, line, separators)


def _not_understood(file: Path, line: str, separators: str) -> DataError:
    """The error for a file whose first line is no header with each role once, or has more corners. It names the roles without
    a column.
    """
    rows = [next(csv.reader([line[:HEADER]], delimiter=separator), []) for separator in separators]
    row = max(rows, key=lambda row: sum(map(len, _columns_of(row))))
    if MORE_CORNERS & {*_plain(row)}:
        what, got = "this CSV file states more than two corners of each object", listed((cell.strip() for cell in row), 12)
        return DataError(
            what,
            where=file,
            got=got,
            expected="two corners, those of an upright box",
            fix="write the smallest upright box around all corners, as xmin, ymin, xmax and ymax",
        )
    found = dict(zip(ROLES, _columns_of(row), strict=True))
    missing = [role for role, columns in found.items() if not columns]
    wrong = missing or [role for role, columns in found.items() if len(columns) > 1]
    expected = "a header with one column each for the picture, the label, xmin, ymin, xmax and ymax (also x1, left, class, ...)"
    what, got, fix = "the columns of this CSV file are not understood", shortened(line), None
    if wrong and len(missing) < len(ROLES) - 1:
        what += f": {'none' if missing else 'several'} for {' and '.join(_TITLES[role] for role in wrong)}"
        got = listed((cell.strip() for cell in row), 12)
        fix = "; ".join(f"call the column of {_TITLES[role]} {ROLES[role].split()[0]}, and no other one" for role in wrong)
    return DataError(what, where=file, got=got, expected=expected, fix=fix)


def misread(tree: Tree) -> DataError | None:
    """Why the first CSV file that has most of the columns, or that is no UTF-8 text, is no data set, if nothing else here is;
    None if there is no such file.
    """
    for file in (file for file in tree.offered if file.suffix.lower() == ".csv"):
        try:
            _dialect(head(file), file)
            read_text(file)
        except DataError as error:
            if error.fix is not None:
                return error
    return None


def _told_by(line: str, number: int, separators: str) -> Dialect | None:
    """What a header or a first row tells of its file; None if it is neither. number: of the lines before it."""
    for separator in separators:
        row = next(csv.reader([line], delimiter=separator), [])
        columns = _named_columns(row)
        if columns:
            return Dialect(columns, len(row), separator, number, True, _split_column(row), size_columns(_plain(row)))
        if _is_headerless(row):
            return Dialect(HEADERLESS, len(row), separator, number, header=False)
    return None


def _has_header(file: Path) -> bool:
    """Whether one of the first lines of a file is a header that is understood, and rows follow it."""
    lines = [line for line in lines_of(head(file)) if line.strip()][:20]
    rows = [
        next(csv.reader([line], delimiter=separator), []) for separator in ",;\t" for line in lines[:-1] if len(line) < HEADER
    ]
    return any(map(_named_columns, rows))


def _split_column(header: Sequence[str]) -> int | None:
    """The column that may name a split for each row."""
    return next((i for i, cell in enumerate(_plain(header)) if cell in SPLIT_COLUMNS), None)


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


def _read_rows(file: Path) -> Content:
    """The rows of a file. Raise DataError if its columns are not understood, or it holds several splits."""
    text = read_text(file)
    dialect = _dialect(text, file)
    content, splits = Content([], {}), set[str]()
    for line, row in _rows(text, dialect):
        try:
            if isinstance(row, DataError):
                raise row
            content.entries.append(_entry(line, row, dialect))
        except DataError as error:
            content.errors[line] = error
        else:
            splits.update(row[dialect.split : dialect.split + 1] if dialect.split is not None else ())
    _check_one_split(file, {word.strip() for word in splits} - {""})
    return content


def _rows(text: str, dialect: Dialect) -> Iterator[tuple[int, list[str] | DataError]]:
    """The rows after the header that are not empty, each with the line it ends on; at last an error if one cannot be read."""
    stream = io.StringIO(text, newline="")
    for _ in range(dialect.lead):
        stream.readline()
    reader = csv.reader(stream, delimiter=dialect.separator, strict=True)
    try:
        for number, row in enumerate(reader):
            if any(map(str.strip, row)) and number >= dialect.header:
                yield dialect.lead + reader.line_num, row
    except csv.Error as error:
        yield (
            dialect.lead + reader.line_num,
            DataError("the rest of the file cannot be read", got=error, fix="close each double quote that is opened"),
        )


def _check_one_split(file: Path, stated: set[str]) -> None:
    """Raise DataError if a column names several splits. Other words in such a column are no splits."""
    names = {split_name(word) for word in stated}
    if None not in names and len(names) > 1:
        what = "a column of this file divides it into splits, and only files divide a CSV data set"
        fix = "write one file for each split, such as train.csv and val.csv"
        raise DataError(what, where=file, got=listed(sorted(stated)), fix=fix)


def _entry(line: int, row: Sequence[str], dialect: Dialect) -> Entry:
    """Raise DataError with the reason if this row is no object."""
    least = max(*dialect.columns, *(dialect.size or ())) + 1
    if len(row) < least:
        raise DataError("too few columns", got=len(row), expected=f"at least {least}")
    if any(map(str.strip, row[dialect.width :])):
        fix = f"put a value with {quoted(dialect.separator)} in it into double quotes"
        raise DataError("too many values", got=len(row), expected=f"{dialect.width}, one for each column", fix=fix)
    label, *corners = (row[column].strip() for column in dialect.columns[1:])
    image = row[dialect.columns[0]]
    if not image.strip():
        raise DataError("the picture's name is missing", fix="write it, or remove the line")
    size = ("", "") if dialect.size is None else (row[dialect.size[0]], row[dialect.size[1]])
    if not any(corners):
        return Entry(line, image, label, None, size)
    if not label:
        raise DataError("the label is missing", fix="write the class, or leave the box empty too: a picture without objects")
    try:
        return Entry(line, image, label, [decimal(corner) for corner in corners], size)
    except ValueError:
        comma = any("," in corner for corner in corners)
        what = "numbers need a decimal point, not a comma" if comma else "the box is not four numbers"
        raise DataError(what, got=", ".join(map(quoted, corners)), expected="xmin, ymin, xmax, ymax") from None


def _fill(table: Table, file: Path, content: Content, pictures: Named, canonical: Mapping[str, str]) -> None:
    """Put the rows of a file into the table. The objects of a missing picture are left out; the first is a problem.

    canonical: the class of each label.
    """
    name = table.name(file)
    for line, error in content.errors.items():
        table.problem(f"{name}:{line}", error)
    rows: dict[str, int | None] = {}
    row_of: dict[Path, int] = {}  # one picture may have several names: a.jpg and images/a.jpg
    sizes = picture_sizes((entry.image, entry.size, entry.box) for entry in content.entries)
    for line, image, label, box, _ in content.entries:
        where = f"{name}:{line}"
        if image not in rows:
            rows[image] = None
            try:
                path = pictures.find(image)
            except DataError as error:
                table.problem(where, error)
                continue
            if path not in row_of:
                row_of[path] = table.add(PictureFile(str(path), image.strip(), one_size(table, where, sizes.get(image))))
            rows[image] = row_of[path]
        row = rows[image]
        if row is not None and box is not None:
            table.objects.append(Row(row, box, canonical[label], where))


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
