"""``onestage VERB ...``: finds the verb, runs it, and turns a user's mistake into one clean message.

The module of a verb is imported when it is needed, so that ``onestage --help`` does not wait for torch. Exit codes: 0 done,
1 something is wrong with some of the pictures, 2 a mistake of the user, or output that cannot be written, 130 interrupted. A
reader that leaves early, such as head, is no mistake.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_origin, get_type_hints

from rich.table import Table

from onestage.cli import early
from onestage.cli.mistakes import mistakes_as_errors, model_first, reword
from onestage.cli.output import ARGUMENTS, say, stdout, tell
from onestage.console import outlets, show_traceback, words
from onestage.errors import ConfigError, DataError, LostError, OnestageError, WriteError, absent, lacks_memory, nearest
from onestage.files import FIXES


class Verb(NamedTuple):
    """The module and name of a function that takes the arguments and returns the exit code, and its purpose in one line."""

    module: str
    function: str
    purpose: str


VERBS = {
    "train": Verb("train", "train", "learn to detect from labelled pictures, or go on with an interrupted training"),
    "tune": Verb("tune", "tune", "look for settings that train better, by many short trainings"),
    "evaluate": Verb("evaluate", "evaluate", "measure a detector, or detections of any program: COCO AP, VOC AP, each class"),
    "compare": Verb("compare", "compare", "which of two or more detectors is better on the same pictures, if that can be told"),
    "predict": Verb("predict", "predict", "find objects in pictures, films and cameras: drawn in, as files, as labels"),
    "batch": Verb(
        "batch", "batch", "predict on millions of pictures, here or on a Ray cluster: Parquet files, restarted at will"
    ),
    "batch report": Verb("batch_report", "report", "what a batch has found: classes, failures, scores, a sheet of pictures"),
    "explain": Verb("explain", "explain_picture", "how a detector looks at one picture: anchors, matches, loss, NMS"),
    "export": Verb("export", "export", "write a detector to a file that other programs run, checked when it is made"),
    "import": Verb("imports", "import_weights", "turn a checkpoint of another project into a detector"),
    "models": Verb("models", "models", "the zoo: parameters, multiply-adds, input sizes, published accuracy"),
    "benchmark": Verb("benchmark", "benchmark", "how fast detectors are on this machine, and which to deploy"),
    "data check": Verb("data", "check", "what is in a data set, and what is wrong with it"),
    "data convert": Verb("convert", "convert", "write a data set in another format, such as tars for many pictures"),
    "data anchors": Verb("anchors", "anchors", "fit a model's anchors to the objects of a data set"),
    "data generate": Verb("generate", "generate", "draw a labelled data set that needs no download"),
    "demo": Verb("demo", "demo", "all of it in one go, on generated pictures, in minutes"),
}

OTHER_VERBS = {
    "detect": "predict",
    "infer": "predict",
    "val": "evaluate",
    "test": "evaluate",
    "eval": "evaluate",
    "fit": "train",
}
"""What other programs call a verb, and what it is called here."""

EXAMPLES = {
    "see it work": "onestage demo",
    "look at your data": "onestage data check pictures/",
    "train": "onestage train pictures/ --out runs/first",
    "measure": "onestage evaluate runs/first pictures/ --split test --out report/",
    "detect": "onestage predict runs/first holiday/*.jpg --score 0.4",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (of this process if left out) and give the exit code."""
    sys.excepthook = show_traceback
    given = list(sys.argv[1:] if arguments is None else arguments)
    ARGUMENTS.set(tuple(given))
    with warnings.catch_warnings(), outlets() as out, _ended_like_ctrl_c(ending=arguments is None):
        warnings.showwarning = _show_warning
        try:
            code = _run(given)
        except KeyboardInterrupt:  # perhaps in the middle of an import, which is not begun again
            told = "onestage.processes" in sys.modules and _is_told(LostError("interrupted", fix="start it again"))
            return 130 if told else _fail(130, "interrupted")
        except LostError as error:
            return _leave(error)
        except OnestageError as error:
            return _fail_once(error)
        except OSError as error:
            if error.strerror is None:
                raise
            return _fail(2, str(_of_system(error, error.strerror.lower())))
        except (MemoryError, RuntimeError, ImportError) as error:
            if not lacks_memory(error):
                raise
            fix = "smaller pictures, or fewer at once: --batch-size; or raise the limit, if there is one: ulimit -v"
            return _fail(2, str(ConfigError("there is not enough memory for this", got=error, fix=fix)))
        out.flush()
        if out.fault is not None and not isinstance(out.fault, BrokenPipeError):
            got, fix = out.fault.strerror, "make room, or send the output to another place"
            return _fail(2, str(WriteError("standard output cannot be written", got=got, fix=fix)))
        return code


def _leave(error: LostError) -> int:
    """End with the exit code after the loss of another process, and one message of all that have lost it."""
    from onestage.processes import LOST, TOLD, leave

    silent = TOLD in os.environ  # the process that has started this one tells why it has ended
    code = LOST if silent else 1 if _is_told(error) else _fail(1, str(error))
    leave(code)  # while the error is still alive: what it holds may wait for lost processes when it is freed
    return code


def _of_system(error: OSError, what: str) -> DataError:
    """An error of the system about a path, in the form of ours."""
    if isinstance(error, IsADirectoryError) and error.filename is not None:
        return DataError.no_file(error.filename, "a file")
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        what = absent(error.filename, what)
    fix = FIXES[errno.ENAMETOOLONG] if error.errno == errno.ENAMETOOLONG else "check that path"
    return DataError(what, where=error.filename, fix=fix)


def _fail_once(error: OnestageError) -> int:
    """Show an error, unless another process of the same training has shown it."""
    return 2 if _is_told(error) else _fail(2, str(error))


def _is_told(error: OnestageError) -> bool:
    """Whether another process of the same training has told this error."""
    if "RANK" not in os.environ:
        return False
    from onestage.processes import is_told

    return is_told(error)


@contextmanager
def _ended_like_ctrl_c(*, ending: bool) -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, end the block as Ctrl-C does, so that nothing temporary is left.

    ending: whether this process ends after the block. One more Ctrl-C then ends it without a word: the functions that libraries
    call at the end would show a traceback.
    """

    def interrupt(*_: object) -> None:  # not that of early, which stands for a program that is onestage alone: early.again()
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual = [number for number in numbers if signal.getsignal(number) in (signal.SIG_DFL, early.end)]  # nohup ignores SIGHUP
    for number in usual:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        raising = names and ending and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, early.end)
        for number in [*usual, *([signal.SIGINT] if raising else [])]:
            signal.signal(number, signal.SIG_DFL)


def _run(given: list[str]) -> int:
    if given[:1] == ["help"] and given[1:]:  # onestage help train
        return _run([*given[1:], "--help"])
    if not given or given[0] in ("-h", "--help", "help"):
        _show_help(VERBS)
        return 0
    if given[0] in ("-V", "--version"):
        tell(f"onestage {version('onestage')}")
        return 0
    for length in (2, 1):
        verb = VERBS.get(" ".join(given[:length]))
        if verb is not None:
            return _call(verb, "onestage " + " ".join(given[:length]), given[length:])
    family = {name: verb for name, verb in VERBS.items() if name.startswith(f"{given[0]} ")}
    if family and given[1:] in ([], ["-h"], ["--help"]):
        _show_help(family)
        return 0
    return _fail(2, str(_no_verb(given, family)))


def _no_verb(given: Sequence[str], family: Collection[str]) -> ConfigError:
    """The error for a verb that does not exist. family: the verbs of two words that begin with the first word given."""
    asked, pair = " ".join(given[:2]) if family else given[0], " ".join(given[:2])
    meant = nearest(asked, VERBS) or nearest(pair, [name for name in VERBS if " " in name])  # for dat check
    if given[0] in OTHER_VERBS:
        meant = f" (did you mean '{OTHER_VERBS[given[0]]}'?)"
    what = f"there is no verb '{asked}'{meant}"
    begin = next((at for at in range(1, len(given)) if given[at] in VERBS or " ".join(given[at : at + 2]) in VERBS), None)
    if begin is not None and not meant:
        fix = f"the verb comes first: {shlex.join(['onestage', *given[begin:], *given[:begin]])}"
        return ConfigError(what, fix=fix)
    return ConfigError(what, expected=", ".join(family or VERBS), fix="onestage --help")


def _call(verb: Verb, program: str, arguments: list[str]) -> int:
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")  # tyro reads this when it is imported
    import tyro

    _check_words(program, arguments)
    _check_folder()
    function = getattr(import_module(f"onestage.cli.{verb.module}"), verb.function)
    early.stop()
    _set_help(function)
    style = (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName)
    try:
        plain, several = partial(_plain, function), _several(function)
        with mistakes_as_errors(partial(_options, function), arguments, plain, several=several):
            code: int = tyro.cli(function, prog=program, args=arguments, config=style)
    except OnestageError as error:
        reword(error, _options(function), f"{program} --help")
        if _plain(function)[:1] == ["MODEL"]:
            model_first(error, program, arguments)
        raise
    return code


def _check_folder() -> None:
    """Raise ConfigError if the folder that the command is given in was removed: torch would end the process."""
    try:
        Path.cwd()
    except OSError as error:
        what, fix = "the folder that this command was started in is gone", "cd to a folder that is there, and start it again"
        raise ConfigError(what, where=os.environ.get("PWD"), got=error.strerror, fix=fix) from error


def _check_words(program: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for a word that no option takes: an empty one (as a path, it would be this folder), or one with NUL."""
    for before, word in zip([program, *arguments], arguments, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (f"after {before}", "=", word)
        if equals and not value:
            raise ConfigError("a value is empty", where=option, fix="is there a variable without a value in the command?")
        if "\0" in word:
            raise ConfigError("a value has a NUL character, which no name has", where=option, got=value, fix="leave it out")


@cache
def _set_help(part: Any) -> None:
    """Give tyro the help texts of a verb, or of a dataclass among its options, each as one paragraph: tyro would keep some line
    breaks of the source. Leave out "(default: None)" and "(default: )": the texts say what happens without an option. Words of
    which there must be one or more are told as required, and the options of a dataclass get its HEADING, such as "machine" for
    "machine options".
    """
    import docstring_parser
    import tyro

    hints = get_type_hints(part, include_extras=True)
    parsed = docstring_parser.parse_from_object(part) if is_dataclass(part) else docstring_parser.parse(part.__doc__ or "")
    several = _several(part)
    texts = {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
    for parameter in signature(part).parameters.values():
        hint = hints[parameter.name]
        if texts.get(parameter.name):
            hint = hints[parameter.name] = Annotated[hint, tyro.conf.arg(help=texts[parameter.name])]
        repeatable = tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ())
        if parameter.name in several:
            told = tyro.conf.arg(metavar=parameter.name.upper(), help_behavior_hint="(required)")
            hints[parameter.name] = Annotated[hint, told]
        elif parameter.default in (None, (), Parameter.empty) and not repeatable:
            hints[parameter.name] = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
        elif is_dataclass(parameter.default):
            options: Any = type(parameter.default)
            _set_help(options)
            hints[parameter.name] = Annotated[hint, tyro.conf.arg(name=options.HEADING)]
    part.__annotations__ = hints


def _several(part: Callable[..., object]) -> tuple[str, ...]:
    """The arguments of a verb that take one word or more. tyro takes none at all as well."""
    hints = get_type_hints(part)
    return tuple(
        name
        for name, parameter in signature(part).parameters.items()
        if parameter.kind is Parameter.POSITIONAL_ONLY
        and parameter.default is Parameter.empty
        and get_origin(hints[name]) is tuple
    )


def _options(part: Callable[..., object]) -> dict[str, object]:
    """The options of a verb, or of a dataclass among them, such as "--batch-size", with their usual values."""
    hints, options = get_type_hints(part, include_extras=True), dict[str, object]()
    for parameter in signature(part).parameters.values():
        if is_dataclass(parameter.default):
            options |= _options(type(parameter.default))
        elif parameter.kind is not Parameter.POSITIONAL_ONLY:
            marks = getattr(hints[parameter.name], "__metadata__", ())
            given = [mark.name for mark in marks if getattr(mark, "name", None)]
            options["--" + "".join(given or [parameter.name]).replace("_", "-")] = parameter.default
    return options


def _plain(part: Callable[..., object]) -> list[str]:
    """What a verb takes without an option, in its order, such as "MODEL"."""
    return [
        name.upper() for name, parameter in signature(part).parameters.items() if parameter.kind is Parameter.POSITIONAL_ONLY
    ]


def _fail(code: int, message: str) -> int:
    """Show what went wrong. If the environment asks for the traceback, raise the exception that is being handled instead."""
    if os.environ.get(early.DEBUG) and sys.exc_info()[0] is not None:
        raise  # the exception that main is handling
    first, _, rest = message.partition("\n")
    say(("error:", "bold red"), " ", (first, "bold"))
    if rest:
        say(rest, lines=True)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(("warning:", "bold yellow"), f" {message}", lines=True)


def _show_help(verbs: Mapping[str, Verb]) -> None:
    out = stdout()
    out.print("[bold]onestage[/]: train, measure and use one-stage object detectors\n", highlight=False)
    out.print("[bold]usage:[/] onestage VERB ...\n", highlight=False)
    out.print(_two_columns({name: verb.purpose for name, verb in verbs.items()}, style="cyan"))
    if verbs is VERBS:
        out.print("\n[bold]for example[/]")
        out.print(_two_columns(EXAMPLES, style=""))
    out.print(f"\nEach verb explains itself: [cyan]onestage {next(iter(verbs))} --help[/]", highlight=False)


def _two_columns(rows: Mapping[str, str], *, style: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(f"  {name}", words(text))
    return table
