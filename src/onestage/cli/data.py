"""``onestage data check``: the dataset doctor in the terminal."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onestage.cli.output import stdout
from onestage.errors import counted
from onestage.files import write_file

if TYPE_CHECKING:
    from onestage.data.check import Checkup, ClassSummary, Spread
    from onestage.data.dataset import Problem

CLASSES_SHOWN = 20
PROBLEMS_SHOWN = 10
BAR = 24  # characters of a bar that stands for the largest value, if the terminal has them
NAME = 16, 24  # characters of the first column: at least, and at most beside bars


def check(
    path: tyro.conf.Positional[Path],
    /,
    *,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    split: str | None = None,
    fast: bool = False,
    picture_memory: float = 2.0,
    worker_timeout: float = 600.0,
    json: Path | None = None,
) -> int:
    """Look at a data set before training on it: what is in it, and what is wrong with it.

    Print the splits, the classes, the sizes of objects and pictures, and every problem with its file and line: bad boxes,
    missing or unreadable pictures, pictures that are in two splits, annotations that nothing reads. The exit code is 1 if
    there are problems and 0 if there are none, for scripts.

    `onestage data check photos/` recognises COCO JSON, Pascal VOC, YOLO, CSV, LabelMe, and tar and Parquet shards by the files
    in the folder. Training stops at faulty pictures and annotations with the same list, and warns of other problems; it does
    not open every picture first. `onestage train photos/ --on-bad skip` leaves out the faulty parts and continues.

    Args:
        path: the data set's folder, or its .json, .csv, .yaml, .tar or .parquet file
        format: the format, if it is not recognised
        split: look at this split only: train, val, test or trainval
        fast: read only the pictures' headers; finds neither truncated pictures nor copies of one picture in two splits
        picture_memory: gigabytes for the pictures that are decoded at the same time
        worker_timeout: seconds to wait for one picture
        json: also write everything to this file
    """
    from onestage.cli.results import CHECKUP, check_replaceable
    from onestage.data.check import check_dataset

    check_replaceable(json, CHECKUP)
    console = stdout()
    checkup = check_dataset(
        path, format, split=split, fast=fast, progress=console.is_terminal, gigabytes=picture_memory, timeout=worker_timeout
    )
    console.print(render(checkup))
    if json is not None:
        write_file(json, json_format.dumps(checkup.to_dict(), indent=2) + "\n")
    return 1 if checkup.problems else 0


def render(checkup: Checkup) -> RenderableType:
    """The report for a terminal of 80 columns or more."""
    from onestage.data.reader import FORMATS

    format = FORMATS[checkup.format].LAYOUT.partition(":")[0]
    title = Text.assemble((checkup.path, "bold"), f"  {format}, {counted(checkup.pictures, 'picture')}")
    title.append(f", {counted(checkup.objects, 'object')} of {counted(len(checkup.classes), 'class')}")
    parts: list[RenderableType] = [title, _splits(checkup), _classes(checkup), _sizes(checkup), _pictures(checkup)]
    if checkup.notes:
        parts.append(_listing("worth a look", checkup.notes, "yellow"))
    if checkup.problems:
        parts.append(_listing(counted(len(checkup.problems), "problem"), checkup.problems, "red"))
    looked = "every picture was decoded" if checkup.decoded else "only the pictures' headers were read (--fast)"
    verdict = ("✗ there is something to correct", "bold red") if checkup.problems else ("✓ no problems", "bold green")
    parts.append(Text.assemble(verdict, (f"  {looked}", "dim")))
    return Group(*(Padding(part, (0, 0, 1, 0), expand=False) for part in parts))


def _table(title: str, *columns: str) -> Table:
    """A table with text in the first column and numbers in the other columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(Text(title, "bold cyan not dim"), overflow="fold", min_width=NAME[0])
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True)
class _Bar:
    """A bar in eighths of a character. share: the part of its column that it fills, 0-1."""

    share: float

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, min(BAR, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        eighths = round(8 * min(BAR, options.max_width) * self.share)
        full, rest = divmod(max(eighths, 1 if self.share else 0), 8)
        yield Text("█" * full + " ▏▎▍▌▋▊▉"[rest].strip(), "cyan")


def _add_bars(table: Table, names: Sequence[str]) -> None:
    """Add a last column for bars. It alone gets narrower in a narrow terminal. names: the texts of the first column."""
    least, most = NAME
    table.columns[0].width = max(least, min(most, max(map(cell_len, names), default=0)))
    table.add_column("")


def _splits(checkup: Checkup) -> Table:
    flagged = any(split.ignored or split.crowds for split in checkup.splits)
    table = _table("Splits", "pictures", "without objects", "objects", *(["difficult", "crowds"] if flagged else []))
    for split in checkup.splits:
        numbers = [split.pictures, split.without_objects, split.objects, *([split.ignored, split.crowds] if flagged else [])]
        table.add_row(split.name or "not divided", *(f"{number:,}" for number in numbers))
    return table


def _classes(checkup: Checkup) -> RenderableType:
    """The most frequent classes in a table, and a line about those that it hides."""
    splits = [split.name for split in checkup.splits] if len(checkup.splits) > 1 else []
    table = _table("Classes", "pictures", "objects", *(f"in {name}" for name in splits))
    ranked = sorted(checkup.classes, key=lambda summary: -summary.objects)
    shown, hidden = ranked[:CLASSES_SHOWN], ranked[CLASSES_SHOWN:]
    largest = max([1, *(summary.objects for summary in shown)])
    _add_bars(table, [summary.name for summary in shown])
    for summary in shown:
        numbers = [summary.pictures, summary.objects, *(summary.by_split if splits else ())]
        table.add_row(Text(summary.name), *map(_count, numbers), _Bar(summary.objects / largest))
    return Group(table, Text(_hidden_classes(hidden), "dim")) if hidden else table


def _count(number: int) -> Text:
    return Text(f"{number:,}", "" if number else "red")


def _hidden_classes(hidden: Sequence[ClassSummary]) -> str:
    """How many classes the table leaves out, and what they have."""
    empty = sum(summary.objects == 0 for summary in hidden)
    rest = f"... and {counted(len(hidden), 'more class')} with {sum(summary.objects for summary in hidden):,} objects"
    return rest + (f"; {empty} without any" if empty else "")


def _sizes(checkup: Checkup) -> RenderableType:
    from onestage.data.tallies import MEDIUM, SMALL

    spreads = _table("Objects", "smallest", "median", "largest")
    spreads.add_row("size in pixels", *_spread(checkup.box_side, "{:,.0f}"))
    spreads.add_row("share of the picture's size", *_spread(checkup.box_share, "{:.1%}"))
    spreads.add_row("width / height", *_spread(checkup.box_aspect, "{:.2f}"))
    groups = _table("By size", "objects", "share")
    names = [f"small: below {SMALL**0.5:.0f}²", "medium", f"large: {MEDIUM**0.5:.0f}² and more"]
    counts = [checkup.small, checkup.medium, checkup.large]
    _add_bars(groups, names)
    for name, number in zip(names, counts, strict=True):
        bar = _Bar(number / max(*counts, 1))
        groups.add_row(name, f"{number:,}", f"{number / max(checkup.objects, 1):.1%}", bar)
    note = "size: the square root of the area; small, medium and large as COCO's evaluation has them"
    return Group(spreads, "", groups, Text(note, "dim"))


def _spread(spread: Spread | None, form: str) -> Sequence[str]:
    return [form.format(value) for value in (spread.minimum, spread.median, spread.maximum)] if spread else ["-"] * 3


def _pictures(checkup: Checkup) -> Table:
    table = _table("Width x height", "pictures", "share")
    rows = [(f"{width} x {height}", number) for (height, width), number in checkup.picture_sizes[:5]]
    others = checkup.picture_sizes[5:]
    if others:
        rows.append((f"{len(others):,} other sizes", sum(count for _, count in others)))
    _add_bars(table, [name for name, _ in rows])
    for name, number in rows:
        table.add_row(name, f"{number:,}", f"{number / checkup.pictures:.1%}", _Bar(number / checkup.pictures))
    table.caption = ", ".join(f"{kind} {number:,}" for kind, number in checkup.file_kinds.items())
    table.caption_justify = "left"
    return table


def _listing(title: str, problems: Sequence[Problem], colour: str) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(overflow="fold", style="dim", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    for problem in problems[:PROBLEMS_SHOWN]:
        table.add_row(Text(problem.where), Text(problem.reason))
    rest = len(problems) - PROBLEMS_SHOWN
    more = [Text(f"... and {rest:,} more; --json FILE writes them all", "dim")] if rest > 0 else []
    return Group(Text(title[0].upper() + title[1:], f"bold {colour}"), table, *more)
