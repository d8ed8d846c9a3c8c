"""An analysis as files: analysis.json, errors.csv, pictures.csv and errors.png."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from onestage.analysis.analysis import Analysis
from onestage.analysis.plots import plot_errors
from onestage.files import atomic_file, make_folder, write_file
from onestage.metrics.report_files import table_cell
from onestage.structures import Detections, Truth

NAMES = ("analysis.json", "errors.csv", "pictures.csv", "errors.png")
"""The files."""
ERROR_COLUMNS = ("image", "what", "row", "letter", "class", "score", "xmin", "ymin", "xmax", "ymax", "object")
PICTURE_COLUMNS = ("image", "objects", "found", "detections", "AP_lost", "by_false_alarms", "by_missed", "label_quality")

Cell: TypeAlias = str | int | float | None
Pair: TypeAlias = tuple[Detections, Truth]


def save_analysis(analysis: Analysis, pairs: Sequence[Pair], folder: Path) -> None:
    """Write the files into ``folder``, which is made if it is missing. pairs: the detections and the truth of each picture.

    errors.csv has a row for each detection and each object, with its letter of ``PictureErrors``; object: the row of the object
    that a detection takes, or is meant for. pictures.csv has the pictures that cost most first. errors.png shows what each type
    of error costs.
    """
    make_folder(folder)
    json_file, errors_file, pictures_file, chart = (folder / name for name in NAMES)
    write_file(json_file, analysis.to_json().encode("utf-8", "backslashreplace") + b"\n")
    write_table(errors_file, ERROR_COLUMNS, _error_rows(analysis, pairs))
    names = {found.image_id: _name(found, truth) for found, truth in pairs}
    write_table(pictures_file, PICTURE_COLUMNS, _picture_rows(analysis, names))
    if analysis.errors is not None:
        plot_errors(analysis.errors, chart)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a CSV file row by row: there may be millions. columns: their names."""
    with atomic_file(path) as file:
        writer = csv.writer(codecs.getwriter("utf-8")(file, "replace"))
        writer.writerow([table_cell(name) for name in columns])
        writer.writerows([table_cell(value) for value in row] for row in rows)


def _name(found: Detections, truth: Truth) -> str:
    """The picture's path, or its id if it has none."""
    return truth.path or found.path or str(found.image_id)


def _error_rows(analysis: Analysis, pairs: Sequence[Pair]) -> Iterator[Sequence[Cell]]:
    """The rows of errors.csv, picture after picture: its detections, and then its objects."""
    classes = analysis.classes
    letters = {picture.image_id: picture for picture in analysis.errors.pictures} if analysis.errors else {}
    for found, truth in pairs:
        picture, name = letters.get(found.image_id), _name(found, truth)
        if picture is None:
            continue
        found_columns = zip(
            picture.found, found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), picture.targets, strict=True
        )
        for row, (letter, label, score, box, target) in enumerate(found_columns):
            yield name, "detection", row, letter, classes[label], round(score, 6), *_place(box), target if target >= 0 else None
        true_columns = zip(picture.true, truth.labels.tolist(), truth.boxes.tolist(), strict=True)
        for row, (letter, label, box) in enumerate(true_columns):
            yield name, "object", row, letter, classes[label], None, *_place(box), None


def _place(box: list[float]) -> list[float]:
    return [round(side, 3) for side in box]


def _picture_rows(analysis: Analysis, names: dict[int | str, str]) -> Iterator[Sequence[Cell]]:
    """The rows of pictures.csv."""
    quality = {row.image_id: row.quality for row in analysis.labels.pictures} if analysis.labels else {}
    for loss in analysis.losses or ():
        counts = loss.objects, loss.found, loss.detections
        costs = loss.lost, loss.false_alarms, loss.missed
        yield names.get(loss.image_id, str(loss.image_id)), *counts, *costs, quality.get(loss.image_id)
