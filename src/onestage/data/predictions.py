"""Detections -> a file: COCO results, CSV or JSON lines. One picture at a time, so a million pictures need no memory.

The file gets its name when the last picture is in it. Until then the file of an earlier run stays, whatever ends the
program. An exception inside the ``with`` block discards the new rows.

| format | one entry for each | what it holds                                                                                 |
|--------|--------------------|-----------------------------------------------------------------------------------------------|
| coco   | detection          | image_id, category_id, bbox [x, y, width, height] and score: what COCO's evaluation reads     |
| csv    | detection          | image, label, xmin, ymin, xmax, ymax, score, category_id, as the CSV reader knows them        |
| jsonl  | picture            | ``Detections.to_dict()``; pictures without detections too                                     |

Boxes are pixels of the original picture, rounded to a thousandth.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypedDict

from onestage import boxes as box_ops
from onestage.files import atomic_file
from onestage.structures import Detections, PictureRecord

Format = Literal["coco", "csv", "jsonl"]

COLUMNS = ("image", "label", "xmin", "ymin", "xmax", "ymax", "score", "category_id")


class CocoResult(TypedDict):
    """An entry of a COCO results file (https://cocodataset.org/#format-results). bbox: left, top, width, height."""

    image_id: int | str
    category_id: int
    bbox: list[float]
    score: float


def coco_results(found: Detections) -> Iterator[CocoResult]:
    """The detections of one picture as entries of a COCO results file, with the data set's image and category ids."""
    boxes = _rounded(box_ops.to_xywh(found.boxes).tolist())
    for box, score, category in zip(boxes, _scores(found), found.category_ids, strict=True):
        yield {"image_id": found.image_id, "category_id": category, "bbox": box, "score": score}


def _coco(found: Detections) -> Iterator[str]:
    return (json.dumps(entry, allow_nan=False) for entry in coco_results(found))


def _csv(found: Detections) -> Iterator[str]:
    boxes = _rounded(found.boxes.tolist())
    for name, box, score, category in zip(found.class_names, boxes, _scores(found), found.category_ids, strict=True):
        yield csv_line((found.path or found.image_id, name, *box, score, category))


def csv_line(cells: Sequence[str | int | float]) -> str:
    """A row of a CSV file. The csv module quotes a cell with a carriage return only if this is a part of the end of a row."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def record_of(found: Detections) -> PictureRecord:
    """``to_dict`` with the rounded numbers of files."""
    content = found.to_dict()
    for entry, box, score in zip(content["detections"], _rounded(found.boxes.tolist()), _scores(found), strict=True):
        entry["box"], entry["score"] = box, score
    return content


def _json_line(found: Detections) -> Iterator[str]:
    yield json.dumps(record_of(found), allow_nan=False) + "\n"


def _rounded(boxes: list[list[float]]) -> list[list[float]]:
    return [[round(value, 3) for value in box] for box in boxes]


def _scores(found: Detections) -> list[float]:
    """With the digits of a float32, so that different scores stay different."""
    return [float(f"{score:.8g}") for score in found.scores.tolist()]


class Form(NamedTuple):
    """A format: its usual file name, the entries of a picture as text, and the text before, between and after all entries."""

    file_name: str
    entries: Callable[[Detections], Iterator[str]]
    head: str = ""
    between: str = ""
    tail: str = ""


FORMATS: Mapping[Format, Form] = {
    "coco": Form("predictions.json", _coco, "[\n", ",\n", "\n]\n"),
    "csv": Form("predictions.csv", _csv, csv_line(COLUMNS)),
    "jsonl": Form("predictions.jsonl", _json_line),
}


class PredictionWriter:
    """Write the detections of one picture after another to one file. A context manager: leaving it finishes the file."""

    def __init__(self, path: str | Path, format: Format) -> None:
        """Raise WriteError if the file cannot be written."""
        self.path, self.format = Path(path), format
        self._form = FORMATS[format]
        self._between = ""
        self._open = ExitStack()
        self._file = self._open.enter_context(atomic_file(self.path))
        self._open.push(self._finish)
        self._write(self._form.head)

    def add(self, found: Detections) -> None:
        """Write the detections of one picture."""
        for entry in self._form.entries(found):
            self._write(self._between + entry)
            self._between = self._form.between

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write(self._form.tail)

    def _write(self, text: str) -> None:
        self._file.write(encoded(text))


def encoded(text: str) -> bytes:
    """As UTF-8. Names of files that are not UTF-8 keep their bytes; other halves of characters are written as ``\\ud83d``."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
