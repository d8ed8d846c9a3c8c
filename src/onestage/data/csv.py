"""CSV: one row for each object, in the form of the d2l book's banana set and many other data sets.

Policy:
- csv_header.py says which column is which.
- Boxes are in pixels or in 0-1; all boxes of a split decide together. Where both are possible, or rows contradict each other,
  it is an error.
- Columns width and height state the picture's size, or else, where all fit them, the sides of each box.
- A row with an empty box is a picture without objects. Pictures that no row names are not part of the data set.
- Files are splits. One with a column that divides it, or that contradicts the file's name, is an error: see ``_check_splits``.
- Columns such as ``difficult`` and ``iscrowd`` flag their objects, unless they have another meaning in the data set: flags.py
  decides. A note names the columns that are not read.
- Classes are all labels in the whole data set, for any split that is read: sorted, numbers by value. If all are numbers, they
  are the data set's ids, and 1, 1.0 and 01 are one. With ``classes=`` they then count the given names from 0. Numbers in one
  file and names in another are an error.
- pairing.py finds the pictures by their names. When a folder is searched, a CSV file without any of its pictures does not
  count, nor does one far above its pictures if there is a data set in another format: such files often accompany it.

Shape letters: M objects.
"""

import csv
import io
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.csv_header import (
    HELD_OUT_COLUMNS,
    NO_HEADER,
    SCORE_COLUMNS,
    SPLIT_COLUMNS,
    Dialect,
    dialect_of,
    has_header,
    names_splits,
)
from onestage.data.csv_sizes import one_size, picture_sizes
from onestage.data.dataset import Problem
from onestage.data.files import FilePerSplit, Sources, head, one_per_split, read_text, split_above
from onestage.data.flags import Flags, answer, flagged
from onestage.data.labels import StoredClasses, look_of
from onestage.data.pairing import Named
from onestage.data.split_words import SPLIT_OF_WORD, split_name
from onestage.data.table import WHOLE, PictureFile, Row, Table, in_parts
from onestage.data.text import decimal, is_number, is_stated, lines_of, listed, no_scores, quoted, whole
from onestage.data.tree import Tree
from onestage.errors import DataError

MOST_WORDS = 20
"""A column with more different words divides nothing into splits, unless its name says so."""

LAYOUT = "CSV: label.csv beside its pictures or a folder images/, columns such as filename, label, xmin, ymin, xmax, ymax"


class Entry(NamedTuple):
    """One row: the line it ends on, the picture's name, the label, the box, None for a picture without objects, the texts of
    height and width, and whether it is difficult or a crowd region.
    """

    line: int
    image: str
    label: str
    box: list[float] | None
    size: tuple[str, str] = ("", "")
    ignore: bool = False
    crowd: bool = False


class Content(NamedTuple):
    """The good rows of a file, the errors of the bad rows, by line, and what to know of its columns."""

    entries: list[Entry]
    errors: dict[int, DataError]
    notes: list[str]


@dataclass(frozen=True)
class CsvSet(FilePerSplit):
    """A CSV data set found on disk: one file for each split. sure: a file lies near one of its pictures."""

    tree: Tree = field(repr=False)
    sources: Sources
    sure: bool = True

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
        root = self.tree.root
        texts = {file: read_text(file) for file in self.sources[""]}
        files = {file: (text, dialect_of(text, file)) for file, text in texts.items()}
        notes = _no_flags(files, self.tree)
        return {file: _read_rows(file, split_name(file.stem) or split_above(file, root), *files[file], notes) for file in files}

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
        dialect_of(head(tables[0]), tables[0])
    else:
        tables = [file for file in tables if _fits(file, tree)]
    sure = tree.chosen is not None or any(_fits(file, tree, near=True) for file in tables)
    return CsvSet(tree, one_per_split(tree.root, tables), sure) if tables else None


def holds_labels(file: Path) -> bool:
    """Whether a file looks like a data set in this format: one of its first lines tells its columns, and it has a row."""
    return file.suffix.lower() == ".csv" and (bool(_first_names(file)) or has_header(file))


def _fits(file: Path, tree: Tree, *, near: bool = False) -> bool:
    """Whether this file's columns are understood and one of its first pictures is there, once or more. near: not far down."""
    pictures = Named(tree, file)
    return any(pictures.is_near(name) if near else pictures.fits(name) for name in _first_names(file))


def _first_names(file: Path) -> list[str]:
    """The pictures of the first rows; none if the columns are not understood."""
    try:
        text = head(file)
        dialect = dialect_of(text, file)
    except DataError:
        return []
    rows = [
        next(csv.reader([line], delimiter=dialect.separator), [])
        for line in lines_of(text)[dialect.lead + dialect.header : 100]
    ]
    return [row[dialect.columns[0]] for row in rows if len(row) > max(dialect.columns)]


def misread(tree: Tree, *, sure: bool = False) -> DataError | None:
    """Why the first CSV file that has most of the columns, or that is no UTF-8 text, is no data set, if nothing else here is;
    None if there is no such file. sure: it may have none of the columns.
    """
    for file in (file for file in tree.offered if file.suffix.lower() == ".csv"):
        try:
            dialect_of(head(file), file)
            read_text(file)
        except DataError as error:
            if sure or error.fix != NO_HEADER:
                return error
    return None


def _read_rows(file: Path, split: str | None, text: str, dialect: Dialect, no_flags: Mapping[str, str]) -> Content:
    """The rows of a file of a split. no_flags: why columns of these names flag nothing in this data set.

    Raise DataError if some column divides the file into splits.
    """
    doubts = [
        f"the column {quoted(dialect.names[column].strip())} {no_flags[dialect.plain_names[column]]}"
        for column in dialect.among(no_flags)
    ]
    dialect = dialect.flagging(but=no_flags)
    content = Content([], {}, [*_notes(dialect), *doubts])
    stated: dict[int, set[str]] = {column: set() for column in dialect.unread}
    named = {column for column in stated if names_splits(name := dialect.plain_names[column]) or name in HELD_OUT_COLUMNS}
    for line, row in _rows(text, dialect):
        try:
            if isinstance(row, DataError):
                raise row
            content.entries.append(_entry(line, row, dialect))
        except DataError as error:
            content.errors[line] = error
        if not isinstance(row, DataError) and not _wrong_width(row, dialect):
            _add_words(stated, row, named)
    _check_splits(file, split, stated, dialect)
    return content


def _add_words(stated: Mapping[int, set[str]], row: Sequence[str], named: Container[int]) -> None:
    """Add what a row says in columns that may name splits, with a bad box too; "" for nothing. stated: the words in each
    column; one word above ``MOST_WORDS`` is enough for a column that is not ``named`` so.
    """
    for column, words in stated.items():
        if len(words) <= MOST_WORDS or column in named:
            word = "".join(row[column : column + 1]).strip()
            words.add(word if is_stated(word) else "")


def _no_flags(files: Mapping[Path, tuple[str, Dialect]], tree: Tree) -> dict[str, str]:
    """The names of columns whose words in these files have another meaning than a flag, such as easy and hard, and why. Rows
    with too few or too many values do not count.
    """
    flags = Flags()
    for file, (text, dialect) in files.items():
        place = tree.short(file)
        names = {column: dialect.plain_names[column] for column in (*dialect.ignore, *dialect.crowd)}
        for line, row in _rows(text, dialect) if names else ():
            if isinstance(row, DataError) or _wrong_width(row, dialect):
                continue
            for column, name in names.items():
                flags.add(name, "".join(row[column : column + 1]), f"{place}:{line}")
    return flags.no_flags()


def _wrong_width(row: Sequence[str], dialect: Dialect) -> DataError | None:
    """The error if a row has too few or too many values: they may stand in wrong columns."""
    least = max(*dialect.columns, *(dialect.size or ())) + 1
    if len(row) < least:
        fix = "write a value for each column, or remove the line"
        return DataError("too few columns", got=len(row), expected=f"at least {least}", fix=fix)
    if any(map(str.strip, row[dialect.width :])):
        fix = f"put a value with {quoted(dialect.separator)} in it into double quotes"
        return DataError("too many values", got=len(row), expected=f"{dialect.width}, one for each column", fix=fix)
    return None


def _notes(dialect: Dialect) -> list[str]:
    """What to know of the columns that are not read."""
    rest = [name for column in dialect.unread if (name := dialect.names[column].strip())]
    notes = [f"columns that are not read: {listed(rest, 30)}"] if rest else []
    if scores := [dialect.names[column].strip() for column in dialect.among(SCORE_COLUMNS)]:
        notes.append(no_scores(scores))
    return notes


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


def _check_splits(file: Path, split: str | None, stated: Mapping[int, set[str]], dialect: Dialect) -> None:
    """Raise DataError if a column names several splits, or by its name should and has several words that are not known; if it
    names a split for some rows only, or another one than that of the file.

    stated: the words in each column that is not read.
    """
    for column, words in stated.items():
        name = dialect.plain_names[column]
        named, denied = _splits_in(words, name), _ruled_out(words, name)
        got = f"{dialect.names[column].strip()}: {listed(sorted(word or 'nothing' for word in words))}"
        if len(named) > 1 or len(denied) > 1:
            what = "a column of this file divides it into splits, and only files divide a CSV data set"
            fix = "write one file for each split, such as train.csv and val.csv, or remove the column"
            raise DataError(what, where=file, got=got, fix=fix)
        if _has_unknown_splits(words, name):
            what = "a column of this file may divide it into splits, in words that are not known"
            fix = "write one file for each split, such as train.csv and val.csv; if the column says something else, rename it"
            raise DataError(what, where=file, got=got, expected="only files that divide a CSV data set", fix=fix)
        if split and (named - {split, ""} or split in frozenset().union(*denied.values())):
            what = f"a column of this file names another split than the file or its folder, which is {split}"
            raise DataError(what, where=file, got=got, fix="rename the file or its folder, or remove the column")


def _splits_in(words: set[str], column: str) -> set[str]:
    """The splits that the words of a column name, "" for no word. None if all rows lack a word, or if some word is no split.
    column: its name, written as in ``ROLES``; if it says nothing of splits, two or more must stand there alone.
    """
    if words <= {""}:
        return set()
    if not names_splits(column):
        if len(words) > MOST_WORDS:
            return set()
        found = {SPLIT_OF_WORD.get(word.lower(), "") for word in words}
        return set() if "" in found or len(found) == 1 else found
    named = {split_name(word) if word else "" for word in words}
    return {name for name in named if name is not None} if None not in named else set()


def _ruled_out(words: set[str], column: str) -> Mapping[bool, frozenset[str]]:
    """The splits that rows cannot belong to, by the answers that the words of a column give, yes or no. No answers if some word
    is neither, if all rows lack a word, or if the column asks nothing.
    """
    answers = {answer(word) for word in words} if words - {""} else set()
    known = HELD_OUT_COLUMNS.get(column, {})
    return {} if None in answers else {said: ruled_out for said, ruled_out in known.items() if said in answers}


def _has_unknown_splits(words: set[str], column: str) -> bool:
    """Whether a column whose name says that it names splits, or divides the rows in two, has different words, and not only
    known ones. With more words than ``MOST_WORDS``, and no split among them, a set or a subset may be of other things; a
    phase, a fold or a data set may be in any case, unless two splits are among them.
    """
    if len({word.lower() for word in words}) < 2:
        return False
    if column in HELD_OUT_COLUMNS:
        return any(answer(word) is None for word in words)
    known = {word: split for word in words if (split := split_name(word))}
    of_splits = column == "split" or (column in SPLIT_COLUMNS and (bool(known) or len(words) <= MOST_WORDS))
    of_splits = of_splits or (names_splits(column) and len({*known.values()}) > 1)
    return of_splits and bool(words - known.keys() - {""})


def _entry(line: int, row: Sequence[str], dialect: Dialect) -> Entry:
    """Raise DataError with the reason if this row is no object."""
    if wrong := _wrong_width(row, dialect):
        raise wrong
    label, *corners = (row[column].strip() for column in dialect.columns[1:])
    image = row[dialect.columns[0]]
    if not image.strip():
        raise DataError("the picture's name is missing", fix="write it, or remove the line")
    size = ("", "") if dialect.size is None else (row[dialect.size[0]], row[dialect.size[1]])
    if not any(corners):
        return Entry(line, image, label, None, size)
    if not label:
        raise DataError("the label is missing", fix="write the class, or leave the box empty too: a picture without objects")
    look_of(label)
    ignore, crowd = (any([_flagged(row, column, dialect) for column in found]) for found in (dialect.ignore, dialect.crowd))
    try:
        return Entry(line, image, label, [decimal(corner) for corner in corners], size, ignore, crowd)
    except ValueError:
        comma = any("," in corner for corner in corners)
        what = "numbers need a decimal point, not a comma" if comma else "the box is not four numbers"
        fix = "replace the commas in the numbers of all rows by points" if comma else "correct them, or remove the line"
        raise DataError(what, got=", ".join(map(quoted, corners)), expected="xmin, ymin, xmax, ymax", fix=fix) from None


def _flagged(row: Sequence[str], column: int, dialect: Dialect) -> bool:
    """Whether a row says yes in a column of flags. Raise DataError if it says neither yes nor no."""
    return flagged(dialect.names[column].strip(), "".join(row[column : column + 1]))


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
    table.notes.extend(Problem(name, note) for note in content.notes)
    for line, image, label, box, _, ignore, crowd in content.entries:
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
            table.objects.append(Row(row, box, canonical[label], where, ignore, crowd))


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
