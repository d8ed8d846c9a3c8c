"""``onestage batch report``: what a batch has found, as a page and in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from onestage.cli.output import stdout, tell
from onestage.errors import ConfigError, check_folder_place
from onestage.model.codec import Range


def report(
    results: tyro.conf.Positional[Path],
    /,
    *,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    pictures: int = 24,
) -> int:
    """Look at the results of a batch, finished or not: objects of each class, failures, scores, and a sample of the pictures
    with what was found in them. It reads one part after another, so the memory that it needs does not grow with the batch.

    onestage batch report found/

    onestage batch report found/ --out report/ --pictures 60

    Args:
        results: the folder that onestage batch -o named
        out: folder for index.html, contact-sheet.jpg and batch.json; by default _report in the folder of the results
        pictures: how many pictures are drawn; 0 draws none
    """
    from onestage.cli.results import results_folder
    from onestage.scale.manifest import REPORT
    from onestage.scale.report import drawn, figures_of
    from onestage.scale.report_page import FIGURES, PAGE, SHEET, lead, save_report

    Range(least=0, most=1000).check(pictures, "pictures")
    if not results.exists():
        raise ConfigError("there is no such folder", where=results, fix="name the folder that onestage batch -o named")
    check_folder_place(results, "the folder of a batch", fix="name the folder that onestage batch -o named")
    folder = results / REPORT if out is None else out
    figures = figures_of(results, sampled=pictures)
    results_folder(folder, [PAGE, SHEET, FIGURES])
    page = save_report(figures, list(drawn(results, figures, pictures)), folder)
    for sentence in lead(figures):
        tell(sentence)
    _show("class", "objects", figures.objects.most_common(20), len(figures.objects))
    _show("failure", "pictures", figures.failures.most_common(20), len(figures.failures))
    tell(f"report: {page}")
    return 0


def _show(name: str, counted: str, rows: list[tuple[str, int]], total: int) -> None:
    """A table of counts, if there are any. total: how many rows there would be."""
    from rich.table import Table

    from onestage.console import words

    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column(name)
    table.add_column(counted, justify="right")
    for text, count in rows:
        table.add_row(words(text), f"{count:,}")
    stdout().print(table)
    if total > len(rows):
        tell(f"and {total - len(rows)} more")
