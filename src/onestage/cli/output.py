"""What the verbs share on the terminal: results go to standard output; progress, warnings and errors to standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from onestage.console import Part, Terminal, words

ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("ARGUMENTS", default=())
"""The words of the command line, without the name of the program."""

LINE_SECONDS = 30.0
"""Without a terminal, how often a line tells how far the work is, at most. Training does so too."""


def stdout() -> Terminal:
    """A console for results."""
    return Terminal()


def stderr() -> Terminal:
    """A console for progress, warnings and errors."""
    return Terminal(stderr=True)


def tell(*parts: Part) -> None:
    """Print a line of words on standard output. It never breaks, so that paths in it can be copied."""
    stdout().print(words(*parts), soft_wrap=True)


def say(*parts: Part, lines: bool = False) -> None:
    """Print a line of words on standard error, or several ``lines``. No line breaks, so that paths in it can be copied."""
    stderr().print(words(*parts, lines=lines), soft_wrap=True)


class _Rate(ProgressColumn):
    """Pictures (or other units) per second, since the first one was begun: they come in batches, and a batch comes at once."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate; nothing before it is known."""
        found = rate_of(task)
        return Text(pace(found, self.unit) if found else "")


def rate_of(task: Task) -> float:
    """Pictures (or other units) per second since the work began, without those that were done before; 0 if it is unknown."""
    seconds, count = task.finished_time or task.elapsed, task.completed - task.fields.get("before", 0)
    return count / seconds if seconds else 0.0


def pace(rate: float, unit: str) -> str:
    """A rate above 0 in words: ``27.3 pictures/s``, and for slow work how long each one takes: ``41 s each``."""
    if rate >= 1:
        return f"{rate:,.1f} {unit}/s"
    return f"{1 / rate:,.{0 if rate < 0.1 else 1}f} s each"


def picture_columns(unit: str = "pictures") -> tuple[ProgressColumn, ...]:
    """The parts of a progress line: how many of how many, how fast, and the time left; at the end the time it took."""
    left = TimeRemainingColumn(elapsed_when_finished=True)
    return TextColumn("{task.description:>5}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), left


@contextmanager
def progress(what: str, total: int | None, *, unit: str = "pictures", done: int = 0) -> Iterator[PictureProgress]:
    """Show how many of ``total`` pictures (or other units) are done, how fast, and the time left. Without a terminal there is a
    line for every LINE_SECONDS. total: None if it is unknown. done: so many were done before.
    """
    console = stderr()
    with Progress(*picture_columns(unit), console=console, transient=True, disable=not console.is_terminal) as bars:
        yield PictureProgress(bars, bars.add_task(what, total=total, completed=done, before=done), unit)


def _speed(task: Task, unit: str) -> str:
    """How fast it is, and the time left, for a line; nothing before it is known."""
    rate, left = rate_of(task), (task.total or 0) - task.completed
    if not rate:
        return ""
    if task.total is None:
        return f", {pace(rate, unit)}"
    minutes, seconds = divmod(round(max(0.0, left) / rate), 60)
    return f", {pace(rate, unit)}, {minutes // 60}:{minutes % 60:02}:{seconds:02} left"


class PictureProgress:
    """Count pictures (or other units), and print lines above the progress line."""

    def __init__(self, bars: Progress, task: TaskID, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit
        self._told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count so many more pictures as done."""
        self._bars.update(self._task, advance=count)
        if self._bars.disable and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            (task,) = (task for task in self._bars.tasks if task.id == self._task)
            of = "" if task.total is None else f" of {task.total:,.0f}"
            self.say(f"{task.description}: {task.completed:,.0f}{of} {self._unit}{_speed(task, self._unit)}")

    def expect(self, total: int | None) -> None:
        """Say how many there are in all, as soon as that is known."""
        self._bars.update(self._task, total=total)

    def describe(self, what: str) -> None:
        """Say from now on that this is being done."""
        self._bars.update(self._task, description=what)

    def say(self, *parts: Part) -> None:
        """Print words, which may be several lines, above the progress line."""
        self._bars.console.print(words(*parts, lines=True), soft_wrap=True)
