"""What the verbs share on the terminal: results on standard output; progress, warnings and errors on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PIPE_WIDTH = 120
"""Characters per line where output goes to a file or a pipe, which have no width."""


def stdout() -> Console:
    """Colours and live parts appear on a terminal only, and no colours where NO_COLOR is set: rich sees to both."""
    return Console(width=_width(sys.stdout.isatty()))


def stderr() -> Console:
    return Console(stderr=True, width=_width(sys.stderr.isatty()))


def _width(terminal: bool) -> int | None:
    return None if terminal or "COLUMNS" in os.environ else PIPE_WIDTH


def say(markup: str) -> None:
    """A line on standard error, in rich's markup; never broken, so that paths in it can be copied."""
    stderr().print(markup, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "")


def picture_columns(unit: str = "pictures") -> tuple[ProgressColumn, ...]:
    """What a progress line over pictures shows: how many of how many, how fast, the time left and in the end the time taken."""
    time = TimeRemainingColumn(elapsed_when_finished=True)
    return TextColumn("{task.description:>5}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), time


@contextmanager
def progress(what: str, total: int, *, unit: str = "pictures") -> Iterator[PictureProgress]:
    """A line that shows how many of ``total`` pictures (or other units) are done, how fast, and the time left; on a terminal
    only.
    """
    console = stderr()
    with Progress(*picture_columns(unit), console=console, transient=True, disable=not console.is_terminal) as bars:
        yield PictureProgress(bars, bars.add_task(what, total=total))


class PictureProgress:
    """Counts pictures, and says lines above the live one."""

    def __init__(self, bars: Progress, task: int) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: int) -> None:
        self._bars.update(self._task, advance=count)  # type: ignore[arg-type]  # TaskID is an int

    def say(self, markup: str) -> None:
        self._bars.console.print(markup, highlight=False, soft_wrap=True)
