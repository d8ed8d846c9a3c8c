"""Detections in CSV, and in plain text: VOC's files for each class, and files for each picture.

Policy:
- CSV: the columns of labels (csv_header.py), and one for the score. A row without a box is a picture without detections.
- Plain text: a line is a name, then five numbers: the box and the score. VOC's devkit writes a file for each class, such as
  comp4_det_test_cat.txt, and the name is that of the picture. YOLO's programs write a file for each picture, and the name is
  that of the class, or its number. ``detections.py`` tells the two apart by the pictures of the data set.
- Numbers of classes count the names in the nearest classes.txt or .names file: beside the files, or up to two folders above.
- A line of a name and four numbers is a label. A file of such lines alone is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from onestage.data.csv_header import HEADER, SCORE_COLUMNS, Dialect, dialect_of
from onestage.data.detections_json import LABELS_FIX
from onestage.data.detections_rows import Reference, Rows
from onestage.data.files import head, is_regular, open_text, read_list
from onestage.data.text import decimal, quoted
from onestage.errors import DataError

NUMBERS = 5
"""After the name in a line: the box and the score."""
LOOK = 20
"""Lines that tell whether a text is one of detections."""


def is_csv(file: Path) -> bool:
    """Whether the first lines are a header with the columns of labels and one for a score."""
    try:
        return bool(dialect_of(head(file), file).among(SCORE_COLUMNS))
    except DataError:
        return False


def is_text(file: Path) -> bool:
    """Whether some of the first lines are a name and five numbers, or four as labels have, and most of those that are not
    empty are.
    """
    lines = [line for line in head(file, HEADER).splitlines()[:LOOK] if line.strip()]
    good = sum(_parts(line, NUMBERS) is not None or _parts(line, NUMBERS - 1) is not None for line in lines)
    return good > 0 and 2 * good >= len(lines)


def texts_in(folder: Path) -> list[Path]:
    """The texts of detections in a folder, or in its folder labels, where YOLO's programs put them. Empty ones are none."""
    texts = sorted([*folder.glob("*.txt"), *(folder / "labels").glob("*.txt")])
    return [file for file in texts if file.name != "classes.txt" and is_regular(file) and is_text(file)]


def read_csv(file: Path) -> Rows:
    """A CSV file. Raise DataError if its columns are not understood, or none is for scores."""
    dialect = dialect_of(head(file), file)
    scores = dialect.among(SCORE_COLUMNS)
    if len(scores) != 1:
        what = "no column of this CSV file has scores" if not scores else "several columns of this CSV file may have the scores"
        expected = f"one column of detections, such as score (also {', '.join(sorted(SCORE_COLUMNS - {'score'}))})"
        raise DataError(what, where=file, got=", ".join(dialect.names[:12]), expected=expected, fix=LABELS_FIX)
    rows = Rows(file, "csv", unit="line")
    with open_text(file) as stream:
        for number, row in _csv_rows(stream, dialect, rows):
            try:
                _add_row(rows, number, row, dialect=dialect, score=scores[0])
            except DataError as error:
                rows.refuse(number, error)
    return rows


def _csv_rows(stream: TextIO, dialect: Dialect, rows: Rows) -> Iterator[tuple[int, list[str]]]:
    """The rows after the header that are not empty, each with its line. What cannot be read is a fault of the whole file."""
    for _ in range(dialect.lead):
        stream.readline()
    reader = csv.reader(stream, delimiter=dialect.separator, strict=True)
    try:
        for number, row in enumerate(reader):
            if number and any(map(str.strip, row)):
                yield dialect.lead + reader.line_num, row
    except csv.Error as error:
        where, fix = f"{rows.file}:{dialect.lead + reader.line_num}", "close each double quote that is opened"
        raise DataError("the rest of the file cannot be read", where=where, got=error, fix=fix) from error


def _add_row(rows: Rows, number: int, row: Sequence[str], *, dialect: Dialect, score: int) -> None:
    """A row of a CSV file. Raise DataError with the reason if it is no detection."""
    if len(row) <= max(*dialect.columns, score) or any(map(str.strip, row[dialect.width :])):
        fix = "write a value for each column, and quote those with a separator in them"
        raise DataError("a row has too few or too many values", got=f"{len(row)} values", expected="one a column", fix=fix)
    image, label, *corners = (row[column] for column in dialect.columns)
    if not any(map(str.strip, (*corners, row[score]))):
        rows.pictures.add(image)
        return
    box = _decimals(corners)
    value = _decimals([row[score]])
    if box is None or value is None:
        got = ", ".join(map(quoted, (*corners, row[score])))
        raise DataError("a box or a score is no number", got=got, fix="write numbers with decimal points")
    rows.add(number, image, label, box, value[0])


def read_texts(files: Sequence[Path], named: Path) -> Rows:
    """Plain text. ``pictures`` of the rows are the names of the files, without .txt, and ``classes`` the names in the lines; in
    VOC's form it is the other way round. named: the file or folder that the user named.
    """
    rows, labels = Rows(named, "text", unit="line"), 0
    for file in files:
        rows.pictures.add(file.stem)  # one without detections too
        with open_text(file) as stream:
            for number, line in enumerate(stream, start=1):
                if parts := _parts(line, NUMBERS):
                    rows.add(number, file.stem, *parts)
                elif line.strip():
                    labels += _parts(line, NUMBERS - 1) is not None
                    what, got = "a line is not a name and five numbers", f"{file.name}: {quoted(line.strip())}"
                    rows.refuse(number, DataError(what, got=got, fix="write the box and the score as five numbers"))
    if labels and not len(rows):
        what, expected = "these are labels, not detections: no line has a score", "a name, four numbers and a score in a line"
        raise DataError(what, where=named, expected=expected, fix=LABELS_FIX)
    if files:
        rows.class_name = _numbered_names(files[0].parent)
    return rows


def _parts(line: str, count: int) -> tuple[str, list[float]] | None:
    """The name at the start of a line, which may have blanks in it, and so many numbers after it; None if it is no such line.
    Four numbers follow no number that looks like a score's or a box's: that would be a fifth.
    """
    words = line.split()
    if len(words) <= count:
        return None
    values = _decimals(words[-count:])
    name = " ".join(words[:-count])
    if values is None or (len(words) > count + 1 and _decimals([words[-count - 1]]) is not None):
        return None
    return name, values


def _decimals(texts: Sequence[str]) -> list[float] | None:
    try:
        return [decimal(text) for text in texts]
    except ValueError:
        return None


def _numbered_names(folder: Path) -> dict[Reference, str]:
    """The names of classes by number, from the nearest list; none if there is no list."""
    for place in (folder, *folder.absolute().parents[:2]):
        lists = [place / "classes.txt", *sorted(place.glob("*.names"))]
        if found := next(filter(is_regular, lists), None):
            return {str(number): name.strip() for number, name in enumerate(read_list(found)) if name.strip()}
    return {}
