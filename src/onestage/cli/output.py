"""What the verbs share on the terminal: results go to standard output; progress, warnings and errors to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

PIPE_WIDTH = 120
"""Characters per line of a file or a pipe, which have no width."""


def stdout() -> Console:
    """A console for results. rich shows colours and live parts on a terminal only; NO_COLOR turns colours off."""
    return Console(width=_width(sys.stdout.isatty()))


def stderr() -> Console:
    """A console for progress, warnings and errors."""
    return Console(stderr=True, width=_width(sys.stderr.isatty()))


def _width(terminal: bool) -> int | None:
    return None if terminal or "COLUMNS" in os.environ else PIPE_WIDTH


def say(markup: str) -> None:
    """Print a line in rich's markup on standard error. It never breaks, so that paths in it can be copied."""
    stderr().print(markup, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    """Pictures (or other units) per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate; nothing before it is known."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "")


def picture_columns(unit: str = "pictures") -> tuple[ProgressColumn, ...]:
    """The parts of a progress line: how many of how many, how fast, and the time left; at the end the time it took."""
    time = TimeRemainingColumn(elapsed_when_finished=True)
    return TextColumn("{task.description:>5}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), time


@contextmanager
def progress(what: str, total: int, *, unit: str = "pictures") -> Iterator[PictureProgress]:
    """Show how many of ``total`` pictures (or other units) are done, how fast, and the time left; on a terminal only."""
    console = stderr()
    with Progress(*picture_columns(unit), console=console, transient=True, disable=not console.is_terminal) as bars:
        yield PictureProgress(bars, bars.add_task(what, total=total))


class PictureProgress:
    """Count pictures, and print lines above the progress line."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: int) -> None:
        """Count so many more pictures as done."""
        self._bars.update(self._task, advance=count)

    def say(self, markup: str) -> None:
        """Print a line in rich's markup above the progress line."""
        self._bars.console.print(markup, highlight=False, soft_wrap=True)
