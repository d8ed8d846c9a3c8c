"""Mistakes that tyro notices in a command line, in the form of all our errors.

tyro's hook for this is private, so nothing depends on it: a tyro without it, or with other parts, shows its boxes.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onestage.errors import ConfigError, OnestageError, closest, nearest
from onestage.files import BEST, LAST

if TYPE_CHECKING:
    from tyro._arguments import ArgumentDefinition
    from tyro._errors import InstantiationFailure, ParseErrorEvent


_SETTING = re.compile(r"(?<![\w.-])([a-z]\w*)=(\([\w.]+, [\w.]+\)|[\w.\"'-]*)")
"""A setting as Python takes it, with its value or without: ``size=(300, 400)``, ``epochs=``."""
_CONFIG = re.compile(r"\bconfig=\w+\(([^()]*)\)")
"""Settings of a config as Python takes them: ``config=ExportConfig(overwrite=True)``. Typed they are options."""
_CALL = re.compile(r"\w\(")
_QUOTED = re.compile(r"((?<!\S)'[^']*')")
"""A word of a command that is quoted for the shell, such as a path."""
_PLAIN = (
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)", re.DOTALL), "a whole number, such as 3"),
    (re.compile(r"could not convert string to float: (.*)", re.DOTALL), "a number, such as 0.5"),
)
"""What Python says of a value, with the value, and what is expected in plain words."""

OTHER_NAMES = {
    "conf": ["score"],
    "confidence": ["score"],
    "threshold": ["score"],
    "imgsz": ["size"],
    "img": ["size"],
    "image-size": ["size"],
    "input-size": ["size"],
    "batch": ["batch-size"],
    "format": ["to"],
    "project": ["out"],
    "output": ["out"],
    "learning-rate": ["lr"],
    "lr0": ["lr"],
    "pretrained": ["weights"],
    "checkpoint": ["weights"],
    "half": ["precision"],
    "amp": ["precision"],
    "num-workers": ["workers"],
    "skip": ["every"],
}
"""What other programs call an option, and what it is called here: the first one that the verb has is meant."""

_WORDS = re.compile(r"does not match choices \('(.*?)',?\)")
"""What tyro adds if the option takes certain words as well, with these."""


@contextmanager
def mistakes_as_errors(
    options: Callable[[], Collection[str]],
    words: Sequence[str],
    plain: Callable[[], Sequence[str]],
    *,
    several: Collection[str] = (),
) -> Iterator[None]:
    """Raise ConfigError for mistakes that tyro finds inside this block.

    options: returns the options of the verb, such as "--score". words: what is typed behind the verb. plain: returns what the
    verb takes without an option, such as "MODEL", in its order. several: what of this takes one word or more, such as
    "pictures".
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return

    def refuse(event: ParseErrorEvent) -> None:
        try:
            error = _as_error(event, options, words, plain) or _missing(event, several)
        except AttributeError:  # this tyro names its parts in another way
            return
        if error is not None:
            raise error

    with on_parse_error(refuse):
        yield


def reword(error: OnestageError, options: Mapping[str, object], fix: str) -> None:
    """Put an error into the words of the command line. Errors name a setting as Python does, epochs or ``epochs=10``. Typed it
    is --epochs or ``--epochs 10``. A remedy that is a call in Python stays as it is. So an error outside the command line
    names a setting in Python's form alone.

    options: those of the verb, such as "--epochs", with their usual values. fix: what to do about an option if the error does
    not say it.
    """
    if isinstance(error.where, str):
        option = "--" + error.where.replace("_", "-")
        error.where = option if option in options else error.where
        if error.where in options:
            usual = options[error.where]
            error.fix = error.fix or (f"such as {error.where} {usual}" if type(usual) in (int, float) else fix)
    parts = _QUOTED.split(_CONFIG.sub(r"\1", error.fix or ""))
    if error.fix is not None and not any(map(_CALL.search, parts[::2])):
        parts[::2] = [_SETTING.sub(lambda found: _typed(found, options), part) for part in parts[::2]]
        error.fix = "".join(parts)


def _typed(setting: re.Match[str], options: Collection[str]) -> str:
    """A setting with its value as it is typed, if there is such an option: ``size=(300, 400)`` as ``--size 300x400``."""
    name, value = f"--{setting[1].replace('_', '-')}", setting[2].strip("\"'")
    if value in ("True", "False"):
        name, value = (name if value == "True" else f"--no-{name[2:]}"), ""
    if name.replace("--no-", "--") not in options:
        return setting[0]
    if value.startswith("("):  # (height, width), or a list of numbers
        value = value.strip("()").replace(", ", " " if "." in value else "x")
    return f"{name} {value}".strip()


def model_first(error: OnestageError, program: str, words: Sequence[str]) -> None:
    """Say so in an error of a verb that takes a MODEL first, if the error is about the first word that names a file, or about
    the first model, and the model stands behind that word: they were typed in another order."""
    named = [at for at, word in enumerate(words) if not word.startswith("-") and Path(word).exists()]
    models = [at for at in named[1:] if not words[at - 1].startswith("-") and _is_model(words[at])]
    if models and not _is_model(words[named[0]]) and {words[named[0]], words[models[0]]} & {str(error.where), str(error.got)}:
        others = [*words[: models[0]], *words[models[0] + 1 :]]
        error.fix = f"the model comes first: {shlex.join([*program.split(), words[models[0]], *others])}"


def _is_model(word: str) -> bool:
    """Whether a word names a run folder or a file of a model."""
    from onestage.predict.exported import is_exported

    path = Path(word)
    is_run = any((path / name).is_file() for name in (BEST, LAST))
    return is_run or (path.is_file() and (path.suffix == Path(BEST).suffix or is_exported(path)))


def _no_option(wrong: str, program: str, options: Collection[str], plain: Sequence[str]) -> ConfigError:
    """The error for an option that a verb does not have, with what it may be in its place."""
    if wrong.lstrip("-").partition("=")[0].upper() in plain:
        name = wrong.lstrip("-").partition("=")[0].upper()
        what = f"there is no option '{wrong}': {name} is typed without one"
        return ConfigError(what, where=program, fix=" ".join([program, *plain]))
    name, names = wrong.lstrip("-").partition("=")[0], [option.lstrip("-") for option in options]
    known = next((known for known in OTHER_NAMES.get(name, ()) if known in names), None)
    close = [known] if known else closest(name, names)  # without the dashes, which are alike in all
    meant = f" (did you mean '--{close[0]}'?)" if close else ""
    return ConfigError(f"there is no option '{wrong}'{meant}", where=program, fix=f"{program} --help")


def _not_known(event: ParseErrorEvent, options: Callable[[], Collection[str]], words: Sequence[str]) -> str | None:
    """The option of an event that the verb does not have: tyro tells it, or takes it for the end of what has no option."""
    from tyro import _errors as kinds

    if isinstance(event, kinds.UnrecognizedArgs):
        return next((token for token in event.tokens if token.startswith("-")), None)
    if not (isinstance(event, kinds.BadValue) and event.argument.is_positional()):
        return None
    known = {form for option in options() for form in (option, f"--no-{option[2:]}")}
    return next((word for word in words if word.startswith("--") and word.partition("=")[0] not in known), None)


def _as_error(
    event: ParseErrorEvent, options: Callable[[], Collection[str]], words: Sequence[str], plain: Callable[[], Sequence[str]]
) -> OnestageError | None:
    """The error of an event; None for kinds of events that this tyro has and we do not know."""
    from tyro import _errors as kinds

    fix = f"{event.prog} --help"
    unknown = _not_known(event, options, words)
    if unknown is not None:
        return _no_option(unknown, event.prog, options(), plain())
    if isinstance(event, kinds.UnrecognizedArgs):
        return ConfigError("one argument too many", where=event.prog, got=event.tokens[0], fix=fix)
    if isinstance(event, kinds.InvalidChoice):
        choices = [choice for choice in event.choices if choice != "None"]  # None is only the absence of a choice
        what, expected = f"there is no such choice{nearest(event.value, choices)}", ", ".join(choices)
        return ConfigError(what, where=_name(event.argument), got=event.value, expected=expected, fix=fix)
    if isinstance(event, kinds.BadValue):
        what = "the option takes no value" if event.offending_value else "the option needs a value"
        return ConfigError(what, where=_name(event.argument), got=event.offending_value, fix=fix)
    return _of_value(event, fix) if isinstance(event, kinds.InstantiationFailure) else None


def _missing(event: ParseErrorEvent, several: Collection[str]) -> ConfigError | None:
    """The error for all that is to be added: words, among them those of which tyro takes none as well, and then options. None
    for another event."""
    from tyro import _errors as kinds

    if not isinstance(event, kinds.MissingArgs):
        return None
    words = [_name(found.arg) for found in event.missing_arguments if found.arg.is_positional()]
    given = event.partial_output  # a mark in place of what is not there
    more = [name.upper() for name in several if not isinstance(given.get(name), list | tuple)]
    options = [_name(found.arg) for found in event.missing_arguments if not found.arg.is_positional()]
    expected = ", ".join([*words, *more, *options])
    return ConfigError("something is missing", where=event.prog, expected=expected, fix=f"{event.prog} --help")


def _name(argument: ArgumentDefinition) -> str:
    """The name of an argument as the help shows it: --size, or PICTURE."""
    name: str = argument.display_name()
    longs = [form for form in name.split("/") if form.startswith("--")]  # of -o/--out
    return name.upper() if argument.is_positional() else (longs or [name])[0]


def _of_value(event: InstantiationFailure, fix: str) -> OnestageError:
    """Our error, if a group of options refused a value; otherwise an error that says that the value is not of its type."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, OnestageError):
        error = error.__cause__ or error.__context__
    if error is not None:
        return error
    where = _name(event.argument) if event.argument else event.prog
    for pattern, expected in _PLAIN:
        if found := pattern.search(event.message):
            words = _WORDS.search(event.message)
            expected = f"{expected}, or {words[1]}" if words else expected
            got = found[1].partition("\n- ")[0]  # what follows is about the words
            return ConfigError("the value is not understood", where=where, got=got, expected=expected, fix=fix)
    return ConfigError("the value is not understood", where=where, got=event.message, fix=fix)
