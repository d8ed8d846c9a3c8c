"""What the verbs share on the terminal: results go to standard output; progress, warnings and errors to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from onestage.console import Part, Terminal, words


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

    def say(self, *parts: Part) -> None:
        """Print words, which may be several lines, above the progress line."""
        self._bars.console.print(words(*parts, lines=True), soft_wrap=True)
