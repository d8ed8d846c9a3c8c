"""The one way for text to a terminal: foreign text in it cannot steer the terminal, and a terminal that is gone stops no work.

Names of classes, files, tensors and models are foreign text. They may hold escape sequences, or characters that the terminal's
encoding lacks.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from threading import get_ident
from types import TracebackType
from typing import TextIO, TypeAlias, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from onestage.errors import printable

PIPE_WIDTH = 120
"""Characters per line of a file or a pipe, which have no width."""
NARROWEST = 20
"""Characters per line that COLUMNS may ask for: in less there is no room for a table."""
LAYOUT = "\n\t"
"""The control characters that text may hold."""

Part: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style."""


class Terminal(Console):
    """A console of rich that shows control characters of any text escaped, and nothing as emoji.

    rich shows colours and live parts on a terminal only; NO_COLOR turns colours off. width: by default that of the terminal.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream = sys.stderr if stderr else sys.stdout
        super().__init__(stderr=stderr, width=width or _width(stream), emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces to print. Text is made printable before it is laid out, anything else afterwards."""
        if isinstance(renderable, Text) and (shown := printable(renderable.plain, keep=LAYOUT)) != renderable.plain:
            renderable = renderable.blank_copy(shown)
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(printable(piece.text, keep=LAYOUT), piece.style)


def _width(stream: TextIO | None) -> int | None:
    """Characters per line as COLUMNS asks, if it asks for enough; None for a terminal, which rich measures."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and len(asked) < 6 and int(asked):
        return max(NARROWEST, int(asked))
    return None if stream is not None and stream.isatty() else PIPE_WIDTH


def words(*parts: Part, lines: bool = False) -> Text:
    """Parts put together, some with a style such as "bold red". Nothing in them is markup, as it would be in a ``str``.

    lines: they may break the line.
    """
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text, keep=LAYOUT if lines else ""), style) for text, style in pairs))


class Outlet:
    """Standard output or error. What it cannot take any more is dropped, and ``lost`` says so: the work goes on. fault: why.

    Reasons are a reader that has gone, such as head, and a full disk. Characters that its encoding lacks are escaped. In a file
    or a pipe no line ends with the blanks by which tables fill it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lost = stream, False
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text. Return its length."""
        with self._dropping():
            *lines, rest = text.split("\n")
            shown = text if self.stream.isatty() else "\n".join([*(line.rstrip(" ") for line in lines), rest])
            try:
                self.stream.write(shown)
            except UnicodeEncodeError:
                encoding = self.stream.encoding
                self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Give everything written so far to the system."""
        with self._dropping():
            self.stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost, self.fault = True, error
            with suppress(OSError):  # Python flushes at its end: it must not fail again
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextmanager
def outlets() -> Iterator[Outlet]:
    """Standard output and error that stop no work, for the block. Yield the former."""
    _open_closed()
    out, error = Outlet(sys.stdout), Outlet(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, error)):
        yield out
        out.flush()
        error.flush()


class _Others:
    """Standard output without what one thread prints; with all of it once ``thread`` is None."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.thread: int | None = get_ident()

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, unless it is dropped. Return its length."""
        return len(text) if self.thread == get_ident() else self.stream.write(text)

    def isatty(self) -> bool:
        """Whether it is a terminal. To the thread that is not heard it is none, so that rich begins no live part."""
        return self.thread != get_ident() and self.stream.isatty()


@contextmanager
def without_prints() -> Iterator[None]:
    """Drop what this thread prints to standard output inside the block: some libraries print with no way to stop them."""
    usual = sys.stdout
    others = _Others(usual or io.StringIO())  # under pythonw there is none
    sys.stdout = cast(TextIO, others)
    try:
        yield
    finally:
        others.thread = None  # another thread may have it, or may put it back later
        if sys.stdout is cast(TextIO, others):
            sys.stdout = usual


def _open_closed() -> None:
    """Give the null device to standard streams that were closed before the program began.

    Otherwise the next file that is opened gets their number, and whatever a library prints lands in it.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # until the program ends


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that was not caught, as Python does, with its foreign text escaped. One more Ctrl-C is no error."""
    if issubclass(kind, KeyboardInterrupt):
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    Terminal(stderr=True).print(words(text, lines=True), soft_wrap=True, end="")
