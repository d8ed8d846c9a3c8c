"""A report as files: metrics.json, per_class.csv, pr_curves.png and index.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from PIL import Image

from onestage.errors import printable
from onestage.files import Json, make_folder, write_file
from onestage.metrics.page import Section
from onestage.metrics.plots import plot_pr_curves
from onestage.metrics.report_page import report_page
from onestage.metrics.results import ClassRow, Results, nan_as_none

EXAMPLE_SIDE = 640
"""Pixels of the longer side of a picture inside the web page."""
FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet computes."""


def save_report_files(
    results: Results,
    folder: Path,
    examples: Mapping[str, Image.Image],
    *,
    sections: Sequence[Section] = (),
    style: str = "",
) -> Path:
    """Write the four files into ``folder``, which is made if it is missing. Return the path of index.html.

    examples: pictures with their detections drawn in, by caption. sections: of the page, with the ``style`` that they need.
    """
    make_folder(folder)
    text = json.dumps(results.to_dict(), indent=2, allow_nan=False)
    write_file(folder / "metrics.json", text + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(field.name for field in fields(ClassRow))
    writer.writerows([table_cell(value) for value in astuple(row)] for row in results.rows)
    write_file(folder / "per_class.csv", table.getvalue().encode("utf-8", "replace"))
    plot_pr_curves(results.coco, folder / "pr_curves.png")
    small = {caption: as_jpeg(picture, side=EXAMPLE_SIDE) for caption, picture in examples.items()}
    page = folder / "index.html"
    content = report_page(results, examples=small, sections=sections, style=style)
    write_file(page, content.encode("utf-8", "replace"))
    return page


def table_cell(value: Json) -> Json:
    """A value for a table that people open in a spreadsheet: a name never counts as a formula there."""
    if not isinstance(value, str):
        return nan_as_none(value)
    shown = printable(value)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def as_jpeg(picture: Image.Image, *, side: int) -> bytes:
    """The picture as a JPEG, its longer side at most ``side`` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=88)
    return file.getvalue()
