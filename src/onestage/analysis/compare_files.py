"""A comparison as files: index.html, compare.json, and compare.csv with a row for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onestage.analysis.compare import Comparison
from onestage.analysis.compare_page import comparison_page
from onestage.analysis.compare_pictures import DrawnPair
from onestage.analysis.files import Cell, write_table
from onestage.files import make_folder, write_file

NAMES = ("index.html", "compare.json", "compare.csv")
"""The files."""


def save_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    paths: Mapping[int | str, str],
    drawn: Sequence[Sequence[DrawnPair]] = (),
    remarks: Sequence[str] = (),
) -> Path:
    """Write the files into ``folder``, which is made if it is missing. Return the path of index.html.

    paths: of the pictures, by their ids. drawn, remarks: of the page. In compare.csv the pictures on which the numbers of
    errors differ most come first.
    """
    make_folder(folder)
    page, json_file, table = (folder / name for name in NAMES)
    write_file(json_file, comparison.to_json().encode("utf-8", "backslashreplace") + b"\n")
    names = [system.name for system in comparison.systems]
    columns = [f"{name}: {what}" for name in names for what in ("found", "false alarms", "errors", "AP lost")]
    write_table(table, ["image", "objects", *columns], _rows(comparison, paths))
    write_file(page, comparison_page(comparison, drawn, remarks=remarks).encode("utf-8", "replace"))
    return page


def _rows(comparison: Comparison, paths: Mapping[int | str, str]) -> Iterator[Sequence[Cell]]:
    numbers = range(len(comparison.systems))

    def spread(errors: list[int]) -> int:
        return max(errors) - min(errors)

    for row in sorted(comparison.pictures, key=lambda row: -spread([row.errors(number) for number in numbers])):
        cells: list[Cell] = [paths.get(row.image_id) or str(row.image_id), row.objects]
        for number, counts in enumerate(row.counts):
            cells += [counts.found, counts.false_alarms, row.errors(number), counts.lost]
        yield cells
