"""CSV: one row for each object, in the form of the d2l book's banana set and many others.

Policy:
- The header says which column is which, by the synonyms in ``ROLES``, in any order; commas, semicolons or tabs. Without a
  header one form is understood: picture, x1, y1, x2, y2, class name, as keras-retinanet has it. All else is an error.
- Boxes are in pixels or in 0-1; the whole file decides. Where both would do, or rows contradict each other, it is an error.
- A row with an empty box is a picture without objects. Pictures that no row names are not part of the data set.
- Classes are all labels in the whole data set, whichever split is read: sorted, numbers by value. If all are numbers, they
  are the data set's own ids; with ``classes=`` they then count the given names from 0.
- The pictures lie beside the file or in a folder ``images`` there. A CSV file without any of its pictures is passed over when
  a folder is searched: such files often accompany a data set in another format.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from onestage.data.files import (
    PICTURE_SUFFIXES,
    Pictures,
    Sources,
    head,
    one_per_split,
    picture_folders,
    read_text,
    split_above,
    split_name,
)
from onestage.data.table import Classes, Picture, Row, Table, label_table
from onestage.errors import DataError

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


class Layout(NamedTuple):
    """How a file is written: the column of each role in the order of ``ROLES``, the separator, whether a header leads."""

    columns: tuple[int, ...]
    separator: str
    header: bool


class Entry(NamedTuple):
    """One row: the line it ends on, the picture's name, the label, and the box, which is None for a picture without objects."""

    line: int
    image: str
    label: str
    box: list[float] | None


@dataclass(frozen=True)
class CsvSet:
    """A CSV data set found on disk: one file for each split."""

    root: Path
    sources: Sources

    def read(self, table: Table, split: str, classes: Sequence[str] | None) -> Classes:
        """Put the pictures and objects of a split ("" for all) into the table."""
        entries = {file: list(_read_rows(table if file in self.sources[split] else None, file)) for file in self.sources[""]}
        names = {entry.label for rows in entries.values() for entry in rows if entry.box}
        numbered = bool(names) and all(name.isdecimal() for name in names)
        own = sorted(names, key=int) if numbered else sorted(names)
        labels = label_table(own, [int(name) for name in own] if numbered else range(len(own)), classes)
        label_of = {name: index for index, name in enumerate(labels.names)}
        if numbered and not names & set(labels.names):
            label_of |= {str(index): index for index in range(len(labels.names))}
            labels = Classes(labels.names, tuple(range(len(labels.names))))
        for file in self.sources[split]:
            pictures = Pictures(picture_folders(file, split_name(file.stem) or split_above(file, self.root)))
            _fill(table, file, entries[file], pictures=pictures, label_of=label_of)
        table.relative = _relative(table)
        return labels


def find(root: Path, files: Sequence[Path]) -> CsvSet | None:
    """The CSV data set among these files, if there is one. A single file that is not understood is a DataError."""
    tables = [file for file in files if file.suffix.lower() == ".csv"]
    if len(files) == 1 and tables:
        _layout(head(tables[0]), tables[0])
        return CsvSet(root, one_per_split(root, tables))
    tables = [file for file in tables if _fits(file, root)]
    return CsvSet(root, one_per_split(root, tables)) if tables else None


def _fits(file: Path, root: Path) -> bool:
    """Whether this file's columns are understood and one of its first pictures is there."""
    try:
        text = head(file)
        layout = _layout(text, file)
    except DataError:
        return False
    pictures = Pictures(picture_folders(file, split_name(file.stem) or split_above(file, root)))
    rows = csv.reader(text.splitlines()[layout.header : 100], delimiter=layout.separator)
    return any(len(row) > max(layout.columns) and pictures.find(row[layout.columns[0]]) for row in rows)


def _layout(text: str, file: Path) -> Layout:
    """How the file is written, judged by its first line. DataError that lists its columns if that cannot be told."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    rows = {separator: next(csv.reader([first], delimiter=separator), []) for separator in ",;\t"}
    for separator, row in rows.items():
        cells = [cell.strip().lower().translate({ord(c): None for c in " _-"}) for cell in row]
        found = [[i for i, cell in enumerate(cells) if cell in names.split()] for names in ROLES.values()]
        if all(len(columns) == 1 for columns in found):
            return Layout(tuple(columns[0] for columns in found), separator, header=True)
        if len(row) == 6 and Path(row[0]).suffix.lower() in PICTURE_SUFFIXES and _is_box(row[1:5], row[5]):
            return Layout((0, 5, 1, 2, 3, 4), separator, header=False)
    expected = "a header with one column each for the picture, the label, xmin, ymin, xmax and ymax (also x1, left, class, ...)"
    raise DataError("the columns of this CSV file are not understood", where=file, got=first[:200], expected=expected)


def _is_box(cells: Sequence[str], label: str) -> bool:
    """Four numbers and a label that is none, or nothing at all: then there is no doubt about the order of columns."""
    numbers = [cell.strip().lstrip("-").replace(".", "", 1).isdecimal() for cell in cells]
    return (all(numbers) and not label.strip().isdecimal() and label.strip() != "") or not any([*cells, label])


def _read_rows(table: Table | None, file: Path) -> Iterator[Entry]:
    """The rows of a file. Bad ones become problems of the table; without a table they are passed over."""
    text = read_text(file)
    layout = _layout(text, file)
    name = table.name(file) if table else ""
    reader = csv.reader(text.splitlines(keepends=True), delimiter=layout.separator, strict=True)
    try:
        for number, row in enumerate(reader):
            if any(cell.strip() for cell in row) and not (number == 0 and layout.header):
                try:
                    yield _entry(reader.line_num, row, layout)
                except ValueError as error:
                    if table:
                        table.problem(f"{name}:{reader.line_num}", str(error))
    except csv.Error as error:
        if table:
            table.problem(f"{name}:{reader.line_num}", f"the rest of the file cannot be read: {error}")


def _entry(line: int, row: Sequence[str], layout: Layout) -> Entry:
    """Raises ValueError with the reason why this row is no object."""
    if len(row) <= max(layout.columns):
        raise ValueError(f"expected at least {max(layout.columns) + 1} columns, got {len(row)}")
    image, label, *corners = (row[column].strip() for column in layout.columns)
    if not image:
        raise ValueError("the picture's name is missing")
    if not any(corners):
        return Entry(line, image, label, None)
    if not label:
        raise ValueError("the label is missing")
    try:
        return Entry(line, image, label, [float(corner) for corner in corners])
    except ValueError:
        comma = "; numbers need a decimal point, not a comma" if any("," in corner for corner in corners) else ""
        got = ", ".join(map(repr, corners))
        raise ValueError(f"expected four numbers as xmin, ymin, xmax, ymax, got {got}{comma}") from None


def _fill(table: Table, file: Path, entries: Sequence[Entry], *, pictures: Pictures, label_of: dict[str, int]) -> None:
    rows: dict[str, int | None] = {}
    name = table.name(file)
    for line, image, label, box in entries:
        where = f"{name}:{line}"
        if image not in rows:
            path = pictures.find(image)
            rows[image] = None if path is None else len(table.pictures)
            if path is None:
                table.problem(where, pictures.missing(image))
            else:
                table.pictures.append(Picture(path, image))
        row = rows[image]
        if row is None or box is None:
            continue
        if label in label_of:
            table.objects.append(Row(row, box, label_of[label], where))
        else:
            table.problem(where, f"unknown class {label!r}")


def _relative(table: Table) -> bool:
    """Whether the boxes are parts of their pictures, 0-1, and not pixels. DataError where that cannot be told.

    A box within 0-1 that is not all whole numbers is taken for parts, one that reaches beyond 1.5 for pixels.
    """
    if not table.objects:
        return False
    boxes = torch.tensor([row.box for row in table.objects], dtype=torch.float64)
    parts = ((boxes >= 0) & (boxes <= 1)).all(dim=1) & (boxes != boxes.round()).any(dim=1)
    pixels = (boxes > 1.5).any(dim=1)
    if parts.any() and pixels.any():
        rows = [table.objects[int(flags.nonzero()[0])] for flags in (parts, pixels)]
        got = " and ".join(f"{row.where}: {', '.join(f'{number:g}' for number in row.box)}" for row in rows)
        what = "some boxes look like parts of the picture (0-1), others like pixels"
        raise DataError(what, where=table.root, got=got, fix="write all of them in one way")
    if not parts.any() and not pixels.any() and (boxes[:, 2:] > boxes[:, :2]).all(dim=1).any():
        what = "these boxes could be pixels as well as parts of the picture (0-1)"
        raise DataError(what, where=table.objects[0].where, got=table.objects[0].box, fix="write them in pixels")
    return bool(parts.any())
