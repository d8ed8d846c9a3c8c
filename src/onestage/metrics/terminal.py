"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onestage.errors import counted, printable
from onestage.metrics.results import Results
from onestage.metrics.wording import (
    CLASS_TITLES,
    FIGURE_TITLES,
    book_line,
    class_cells,
    figure,
    figure_rows,
    loss_line,
    subtitle,
    title,
)


def report_table(results: Results, rows: int) -> RenderableType:
    """A heading, COCO's twelve figures, a line each for VOC's mAP, the loss and the anchors, and the classes.

    rows: the most classes to show. Of a longer list it shows the best half and the worst half of those with objects.
    """
    heading = Text(printable(title(results)), style="bold", overflow="ellipsis", no_wrap=True)
    figures = plain_table(FIGURE_TITLES, figure_rows(results), texts=2)
    lines = {"VOC mAP": _voc_line(results), "Loss": loss_line(results), "Anchors": book_line(results)}
    named = [Text.assemble((f"{name:<14}", "bold"), line) for name, line in lines.items()]
    counts = Text(subtitle(results), style="dim")
    return Group(heading, counts, Text(), figures, Text(), *named, Text(), _classes(results, rows))


def _voc_line(results: Results) -> str:
    years = f"{figure(results.voc07.mAP)} (2007, 11 points) · {figure(results.voc10.mAP)} (2010, area)"
    return f"{years}   at IoU {results.voc10.iou:.2f}"


def _classes(results: Results, most: int) -> RenderableType:
    rows = results.rows
    known = [row for row in rows if row.objects] if len(rows) > most else rows
    cells = [(row.name, *class_cells(row)) for row in known]
    if len(known) > most:
        best, worst = most - most // 2, most // 2
        cells = [*cells[:best], (f"... {len(known) - most} more",), *cells[len(cells) - worst :]]
    table = plain_table(CLASS_TITLES, cells, texts=1)
    absent = len(rows) - len(known)
    return Group(table, Text(f"and {counted(absent, 'class')} without objects", style="dim")) if absent else table


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> Table:
    """A plain table. The first ``texts`` columns hold words, the rest numbers. A narrow terminal shortens the first column."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(titles):
        table.add_column(heading, justify="left" if number < texts else "right", no_wrap=number > 0)
    for first, *cells in rows:
        table.add_row(Text(printable(first), overflow="ellipsis", no_wrap=True), *cells)
    return table
