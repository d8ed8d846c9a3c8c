"""``onestage data check``: the dataset doctor in the terminal."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onestage.data.check import MEDIUM, SMALL, Report, Spread, check_dataset
from onestage.data.dataset import Problem
from onestage.errors import DataError, counted, explain

CLASSES_SHOWN = 20
PROBLEMS_SHOWN = 10
BAR = 24  # characters of a bar that stands for the largest value


def check(
    path: tyro.conf.Positional[Path],
    /,
    *,
    format: Literal["coco", "voc", "yolo", "csv"] | None = None,
    split: str | None = None,
    fast: bool = False,
    json: Path | None = None,
) -> int:
    """Look at a data set before training on it: what is in it, and what is wrong with it.

    Prints the splits, the classes, how large the objects and pictures are, and every problem with its file and line: bad
    boxes, missing or unreadable pictures, pictures that are in two splits. Ends with exit code 1 if there are problems and 0
    if there are none, so a script can rely on it.

    `onestage data check photos/` recognises COCO JSON, Pascal VOC, YOLO and CSV by looking at the folder. Training stops at
    such problems too; `onestage train photos/ --on-bad skip` goes on without what is wrong.

    Args:
        path: the data set's folder, or its .json, .csv or .yaml file
        format: which format it is, if that is not recognised
        split: look at this split only: train, val, test or trainval
        fast: read only the pictures' headers; finds neither truncated pictures nor copies of one picture in two splits
        json: also write everything to this file
    """
    console = Console()
    report = check_dataset(path, format, split=split, fast=fast, progress=console.is_terminal)
    console.print(render(report))
    if json is not None:
        try:
            json.write_text(json_format.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(explain("the report cannot be written", where=json, got=error.strerror)) from error
    return 1 if report.problems else 0


def render(report: Report) -> RenderableType:
    """The report for a terminal of 80 columns or more."""
    title = Text.assemble((report.path, "bold"), f"  {report.format.upper()}", f", {counted(report.pictures, 'picture')}")
    title.append(f", {counted(report.objects, 'object')} of {counted(len(report.classes), 'class')}")
    parts: list[RenderableType] = [title, _splits(report), _classes(report), _sizes(report), _pictures(report)]
    if report.notes:
        parts.append(_listing("worth a look", report.notes, "yellow"))
    if report.problems:
        parts.append(_listing(counted(len(report.problems), "problem"), report.problems, "red"))
    looked = "every picture was decoded" if report.decoded else "only the pictures' headers were read (--fast)"
    verdict = ("✗ there is something to correct", "bold red") if report.problems else ("✓ no problems", "bold green")
    parts.append(Text.assemble(verdict, (f"  {looked}", "dim")))
    return Group(*(Padding(part, (0, 0, 1, 0), expand=False) for part in parts))


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(Text(title, "bold cyan not dim"), overflow="fold", min_width=16)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _bar(value: float, largest: float) -> Text:
    """A bar in eighths of a character."""
    eighths = round(8 * BAR * value / largest) if largest else 0
    full, rest = divmod(max(eighths, 1 if value else 0), 8)
    return Text("█" * full + " ▏▎▍▌▋▊▉"[rest].strip(), "cyan")


def _splits(report: Report) -> Table:
    flagged = any(split.ignored or split.crowds for split in report.splits)
    table = _table("Splits", "pictures", "without objects", "objects", *(["difficult", "crowds"] if flagged else []))
    for split in report.splits:
        numbers = [split.pictures, split.without_objects, split.objects, *([split.ignored, split.crowds] if flagged else [])]
        table.add_row(split.name or "not divided", *(f"{number:,}" for number in numbers))
    return table


def _classes(report: Report) -> RenderableType:
    splits = [split.name for split in report.splits] if len(report.splits) > 1 else []
    table = _table("Classes", "pictures", "objects", *(f"in {name}" for name in splits))
    table.add_column("")
    ranked = sorted(report.classes, key=lambda own: -own.objects)
    largest = ranked[0].objects if ranked else 0
    for own in ranked[:CLASSES_SHOWN]:
        numbers = [own.pictures, own.objects, *(own.by_split if splits else ())]
        cells = [Text(f"{number:,}", "" if number else "red") for number in numbers]
        table.add_row(Text(own.name), *cells, _bar(own.objects, largest))
    hidden = ranked[CLASSES_SHOWN:]
    if not hidden:
        return table
    empty = sum(own.objects == 0 for own in hidden)
    rest = f"... and {counted(len(hidden), 'more class')} with {sum(own.objects for own in hidden):,} objects"
    return Group(table, Text(rest + (f"; {empty} without any" if empty else ""), "dim"))


def _sizes(report: Report) -> RenderableType:
    spreads = _table("Objects", "smallest", "median", "largest")
    spreads.add_row("size in pixels", *_spread(report.box_side, "{:,.0f}"))
    spreads.add_row("share of the picture's size", *_spread(report.box_share, "{:.1%}"))
    spreads.add_row("width / height", *_spread(report.box_aspect, "{:.2f}"))
    groups = _table("By size", "objects", "share")
    groups.add_column("")
    names = [f"small: below {SMALL**0.5:.0f}²", "medium", f"large: {MEDIUM**0.5:.0f}² and more"]
    counts = [report.small, report.medium, report.large]
    for name, number in zip(names, counts, strict=True):
        groups.add_row(name, f"{number:,}", f"{number / max(report.objects, 1):.1%}", _bar(number, max(counts)))
    note = "size: the square root of the area; small, medium and large as COCO's evaluation has them"
    return Group(spreads, "", groups, Text(note, "dim"))


def _spread(spread: Spread | None, form: str) -> Sequence[str]:
    return [form.format(value) for value in (spread.minimum, spread.median, spread.maximum)] if spread else ["-"] * 3


def _pictures(report: Report) -> Table:
    table = _table("Pictures", "pictures", "share")
    table.add_column("")
    for (height, width), number in report.picture_sizes[:5]:
        table.add_row(f"{width} x {height}", f"{number:,}", f"{number / report.pictures:.1%}", _bar(number, report.pictures))
    others = report.picture_sizes[5:]
    if others:
        number = sum(count for _, count in others)
        name = f"{len(others):,} other sizes"
        table.add_row(name, f"{number:,}", f"{number / report.pictures:.1%}", _bar(number, report.pictures))
    table.caption = ", ".join(f"{kind} {number:,}" for kind, number in report.file_kinds.items())
    table.caption_justify = "left"
    return table


def _listing(title: str, problems: Sequence[Problem], colour: str) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(overflow="fold", style="dim", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    for problem in problems[:PROBLEMS_SHOWN]:
        table.add_row(Text(problem.where), Text(problem.what))
    rest = len(problems) - PROBLEMS_SHOWN
    more = [Text(f"... and {rest:,} more; --json FILE writes them all", "dim")] if rest > 0 else []
    return Group(Text(title[0].upper() + title[1:], f"bold {colour}"), table, *more)
