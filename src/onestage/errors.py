"""Errors that a user can fix. Each says what is wrong, where, what was found, what was expected and what to do.

All of them are ``ValueError``s, so code that does not import this package can catch them too. ``assert`` is only for mistakes
of this program, never for a user's input.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from textwrap import dedent
from threading import get_ident
from typing import Self, TypeVar, cast
from unicodedata import category

_PACKAGE = str(Path(__file__).parent) + os.sep

QUOTED, LISTED, LINES = 300, 1500, 24
"""The most characters in a line of an error (LISTED: of a place, of what is expected, of a remedy), and the most lines."""

MOST_NAMES = 10_000
"""Names in a folder that are compared with one that does not exist."""

LARGEST = 2**63 - 1
"""The largest whole number that tensors and files hold."""

STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that can steer a terminal, reverse a text or hide in it: all but JOINERS among them."""
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""They stand inside ordinary words of Persian and Hindi, and inside emoji."""

OUT_OF_MEMORY = ("allocate memory", "out of memory", "could not create a primitive", "failed to map segment")
"""What the errors of torch, of oneDNN in it, and of the loader of shared libraries say when there is no memory left."""

Function = TypeVar("Function", bound=Callable[..., object])


class OnestageError(ValueError):
    """Base of all errors that a user can fix. It holds its parts as data; ``str()`` makes the text.

    what: the fault, one line. where: the file, line, image or field. got and expected: the value that was found, and what is
    valid. fix: what the user can do. code: the kind of fault in one word, for programs that count them. Absent parts are None.

    told: whether another process of the same training has told it; None if that is not known yet.

    The parts are kept as they are. Every text made from them quotes them escaped (``printable``) and cut (``shortened``).
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.told: bool | None = None
        self.what, self.where, self.got, self.expected, self.fix, self.code = what, where, got, expected, fix, code
        if isinstance(got, BaseException):  # which would hold on to its traceback, and may not travel between processes
            self.got = str(got)

    def __str__(self) -> str:
        """The fault, then where / got / expected / fix, a line each; absent parts are left out. Further lines of a part stand
        below its first one.
        """
        (_, what), *others = self._texts().items()
        parts = [(name, dedent(text).strip("\n").replace("\n", "\n" + 12 * " ")) for name, text in others if text is not None]
        return "\n".join([str(what), *(f"  {name + ':':<10}{text}" for name, text in parts)])

    def _texts(self) -> dict[str, str | None]:
        """The parts as texts that are short and safe to print; absent parts are None."""
        most = {"what": QUOTED, "where": LISTED, "got": QUOTED, "expected": LISTED, "fix": LISTED}
        parts = {name: getattr(self, name) for name in most}
        return {name: None if part is None else _quoted(_text(part), most[name]) for name, part in parts.items()}

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes with all their parts, as text if they are no plain data."""
        plain = str, int, float, bool, type(None), Path
        parts: dict[str, object] = {}
        for name, part in vars(self).items():
            parts[name] = part if isinstance(part, plain) else _text(part)
        if notes := getattr(self, "__notes__", None):
            parts["__notes__"] = list(notes)
        return type(self), (self.what,), parts

    def to_dict(self) -> dict[str, str | None]:
        """The kind of error and its parts as plain text, for JSON; absent parts are None."""
        return {"error": type(self).__name__, **self._texts()}

    def at(self, where: object) -> Self:
        """The same error, with its place, unless it already has one."""
        return self if self.where is not None else type(self).of(self, where)

    @classmethod
    def of(cls, error: OnestageError, where: object) -> Self:
        """An error of this class with the parts and notes of another, and its place, unless the other already has one."""
        place = where if error.where is None else error.where
        made = cls(error.what, where=place, got=error.got, expected=error.expected, fix=error.fix, code=error.code)
        for note in getattr(error, "__notes__", ()):
            made.add_note(note)
        return made

    @classmethod
    def no_file(cls, path: Path | str, expected: str, *, ends: tuple[str, ...] = (), code: str | None = None) -> Self:
        """The error of a path with a folder, pipe or device where a file should be. expected: which file. ends: of the names of
        such files; some that are in the folder are proposed.
        """
        here = sorted(name for name in _names_in(Path(path)) if ends and name.lower().endswith(ends))[:3]
        fix = f"name a file in it: {' or '.join(str(Path(path) / name) for name in here)}" if here else "name a file"
        return cls("this is not a file", where=path, got=_kind_at(path), expected=expected, fix=fix, code=code)

    @classmethod
    def because(cls, what: str, cause: OnestageError, *, where: object) -> Self:
        """An error whose reason is another one: what was found is that one's place, fault and value, in one line."""
        parts = (cause.where, cause.what, cause.got)
        got = ": ".join(str(part) for part in parts if part is not None)
        return cls(what, where=where, got=got, expected=cause.expected, fix=cause.fix)


class DataError(OnestageError):
    """A data set, picture or annotation is wrong."""


class ProblemsError(DataError):
    """A data set has problems, which are listed. Training may go on without what is bad if it is told to leave it out."""


class ConfigError(OnestageError):
    """A model or training configuration is wrong, or its parts do not fit each other."""


class WeightsError(OnestageError):
    """A weights file or checkpoint is missing, damaged or made for something else."""


class PictureError(DataError):
    """A picture is missing or cannot be read; the annotations may be sound."""


class UnfitError(WeightsError):
    """A detector cannot become an exported file of some format that finds the same. A second try would end in the same way."""


class MismatchError(UnfitError):
    """An exported file finds other objects than its detector in the pictures that were compared; in others it may agree."""


class WriteError(DataError, OSError):
    """A file or folder cannot be written. Also an ``OSError``, as Python itself raises it."""


class LostError(OnestageError):
    """A process or a thread that did a part of the work has died or does not answer; the input may be sound."""


class RowError(DataError, IndexError):
    """A sequence got an index that names none of its rows. Also an ``IndexError``, as Python itself raises it."""


class KeywordError(ConfigError, TypeError):
    """A function got a keyword that it does not know. Also a ``TypeError``, as Python itself raises it."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory: of Python, of torch, or of an import."""
    said = isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    return said or isinstance(error, MemoryError)


def known_keywords(thing: Function, other: str | None = None) -> Function:
    """Decorator of a function, or of a class for its ``__init__``: an unknown keyword is a KeywordError with the nearest name.

    If it is a setting of one of the arguments, such as lr of ``config``, the error shows where it goes. other: what to do about
    a name that is near to none, with {} for the name.
    The signature stays as it is for ``help()``, editors and type checkers.
    """
    if isinstance(thing, type):
        thing.__init__ = known_keywords(thing.__init__)  # type: ignore[misc]  # the same signature
        return thing
    keyword = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    parameters = signature(thing).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind in keyword and name != "self"]
    settings = {
        field.name: f"{name}={kind.__name__}({field.name}=...)"
        for name, parameter in parameters.items()
        if is_dataclass(kind := _kind_of(parameter, thing))
        for field in fields(kind)
    }
    place = f"{thing.__qualname__.removesuffix('.__init__')}()"

    @wraps(thing)
    def checked(*args: object, **keywords: object) -> object:
        for name in keywords:
            if name not in names:
                meant = "" if name in settings else nearest(name, [*names, *settings])
                fix = settings.get(name) or (other.format(name) if other and not meant else None)
                expected = ", ".join(names) or "no keywords"
                raise KeywordError(f"unknown keyword '{name}'{meant}", where=place, expected=expected, fix=fix)
        return thing(*args, **keywords)

    return cast(Function, checked)


def _kind_of(parameter: Parameter, thing: Callable[..., object]) -> type:
    """The class of a parameter: that of its default, or, without one, the first class that its annotation names."""
    if parameter.default not in (None, Parameter.empty):
        return type(parameter.default)
    named = getattr(thing, "__globals__", {}).get(str(parameter.annotation).partition(" | ")[0])
    return named if isinstance(named, type) else object


def require(holds: bool, rule: str, *, got: object, fix: str | None = None) -> None:
    """Raise ConfigError stating the rule unless it holds."""
    if not holds:
        raise ConfigError(rule, got=got, fix=fix)


def check_number(name: str, value: object, *, least: float, most: float = LARGEST, whole: bool = False) -> None:
    """Raise ConfigError unless an argument is a number, in that range. whole: a whole one. NaN and bool are no numbers here."""
    kind = Integral if whole else Real
    if isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most:  # type: ignore[operator]
        return
    expected = f"a {'whole ' if whole else ''}number of {least} or more" if most == LARGEST else f"{least} to {most}"
    raise ConfigError(f"{name} is not understood", got=repr(value), expected=expected)


def warn_outside(notes: Iterable[str]) -> None:
    """Emit a warning for each note, at the line outside this package that called it."""
    frame, depth = sys._getframe(), 1  # as skip_file_prefixes of warnings.warn does from Python 3.12 on
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    for note in notes:
        warnings.warn(note, stacklevel=depth)


class _Pattern:
    """The pattern of a warning filter. It fits only what one thread warns of, and nothing once ``thread`` is None."""

    def __init__(self, message: str) -> None:
        self.thread: int | None = get_ident()
        self._message = re.compile(message)

    def match(self, text: str) -> bool:
        """Whether the filter is for a warning of this text."""
        return self.thread == get_ident() and self._message.match(text) is not None


@contextmanager
def without_warnings(message: str = "") -> Iterator[None]:
    """Drop the warnings of this thread inside the block. message: a regular expression that their beginnings fit.

    ``warnings.catch_warnings`` would drop those of all threads, and two threads that set the filters of the process back would
    mix them up.
    """
    pattern, filters = _Pattern(message), cast(list[object], warnings.filters)
    entry = ("ignore", pattern, Warning, None, 0)
    filters.insert(0, entry)
    try:
        yield
    finally:
        pattern.thread = None  # a copy of the filters that another thread puts back may hold it
        with suppress(ValueError):
            cast(list[object], warnings.filters).remove(entry)


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name closest to a mistyped one, or an empty string when none is close. Capitals do
    not count.
    """
    close = closest(name, names)
    return f" (did you mean '{close[0]}'?)" if close else ""


def three_nearest(name: str, names: Iterable[str]) -> str | None:
    """The names closest to one that does not exist, the best first, three at most: ``ssd, tinyssd``. None if none is close."""
    return ", ".join(closest(name, names, most=3, cutoff=0.5)) or None


def closest(name: str, names: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names closest to a mistyped one, the best first. Capitals do not count. cutoff: how alike they are at least, 0
    to 1.
    """
    if len(name) > QUOTED:  # the search takes the square of the time
        return []
    known = {n.lower(): n for n in names}
    close = get_close_matches(name.lower(), known, n=most, cutoff=cutoff)
    begun = [n for n in known if len(name) >= 4 and n.startswith(name.lower())]  # onnx is short for onnxruntime
    return [known[n] for n in (close or begun[:most])]


def absent(path: Path | str, what: str = "there is no such file or folder") -> str:
    """What is wrong with a path that does not exist, with the nearest one that does, if there is one:
    ``there is no such file or folder (did you mean 'runs/first'?)``. In each part that is missing, one name of its folder is
    taken for another.
    """
    found, differs = Path(), False
    for part in Path(path).parts:
        if not os.path.lexists(found / part):
            near = closest(part, _names_in(found))
            if not near:
                return what
            part, differs = near[0], True
        found /= part
    return f"{what} (did you mean '{found}'?)" if differs else what


def check_folder_place(folder: Path, expected: str, *, fix: str) -> None:
    """Raise ConfigError if a file is in the place of a folder, or of one above it. expected: which folder."""
    for part in (folder, *folder.parents):
        with suppress(OSError):
            if part.is_dir():
                return
            if part.exists():
                raise ConfigError("this is not a folder", where=part, got="a file", expected=expected, fix=fix)


def _kind_at(path: Path | str) -> str:
    """What is at a path where no file is: a folder, a pipe, or a device or socket."""
    with suppress(OSError):
        mode = Path(path).stat().st_mode
        return "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
    return "nothing that can be looked at"


def _names_in(folder: Path) -> list[str]:
    """The names in a folder; not all of a very large one, and none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []


def counted(number: float, noun: str) -> str:
    """``1 epoch``, ``0.25 epochs``, ``1,200 pictures``, ``2 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def command(verb: str, *words: object) -> str:
    """A command to copy: ``onestage train 'my pictures'``. verb: perhaps of two words. words: what follows; each is quoted for
    the shell.
    """
    return " ".join(["onestage", verb, *(shlex.quote(str(word)) for word in words)])


def first_ten(lines: Sequence[str]) -> str:
    """The first ten lines, indented, and the number of the remaining lines."""
    shown = [f"  {line}" for line in lines[:10]]
    return "\n".join([*shown, f"  ... and {len(lines) - 10} more"] if len(lines) > 10 else shown)


def printable(text: str, *, keep: str = "") -> str:
    """Foreign text for a person: what could steer a terminal or reverse the text is escaped as in Python, such as ``\\x1b``.

    keep: characters to leave as they are, such as line breaks.
    """
    if text.isprintable():
        return text
    harmless = (c in keep or c in JOINERS or category(c) not in STEERING for c in text)
    return "".join(c if safe else c.encode("unicode_escape").decode() for c, safe in zip(text, harmless, strict=True))


def shortened(text: str, most: int = QUOTED) -> str:
    """The text, with its middle left out if it has more than ``most`` characters: beginnings and ends tell the most."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 5]} ... {text[-end:]}"


def _text(part: object) -> str:
    """A part of an error as text. Python refuses to write a number of more than 4,300 digits."""
    try:
        return str(part)
    except ValueError:
        return f"a very long {type(part).__name__}"


def _quoted(text: str, most: int) -> str:
    """A part of an error: at most LINES lines, each printable and at most ``most`` characters long."""
    lines = text.split("\n")
    shown = [shortened(printable(shortened(line, most), keep="\t"), most) for line in lines[:LINES]]
    return "\n".join([*shown, f"  ... and {len(lines) - LINES} more lines"] if len(lines) > LINES else shown)
