"""Errors a user can mend. Every message says what is wrong, where, what was found, what was expected and what to do.

All of them are ``ValueError``s, so code that knows nothing of this package still catches them sensibly. ``assert`` is kept
for the project's own invariants and never for a user's input.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class OnestageError(ValueError):
    """Base of all errors that a user can mend."""


class DataError(OnestageError):
    """A data set, picture or annotation is wrong."""


class ConfigError(OnestageError):
    """A model or training configuration is wrong, or its parts do not fit each other."""


class WeightsError(OnestageError):
    """A weights file or checkpoint is missing, damaged or made for something else."""


def explain(
    what: str,
    *,
    where: object = None,
    got: object = None,
    expected: object = None,
    fix: str | None = None,
) -> str:
    """One message in the house form: the fault, then where / got / expected / fix, a line each; absent parts are left out."""
    parts = {"where": where, "got": got, "expected": expected, "fix": fix}
    return "\n".join([what, *(f"  {name + ':':<10}{value}" for name, value in parts.items() if value is not None)])


def located(message: str, where: object) -> str:
    """The message of an error with where it happened, unless it says so already."""
    what, *rest = message.split("\n")
    if any(line.startswith("  where:") for line in rest):
        return message
    return "\n".join([explain(what, where=where), *rest])


def require(holds: bool, rule: str, *, got: object, fix: str | None = None) -> None:
    """Raise ConfigError stating the rule unless it holds."""
    if not holds:
        raise ConfigError(explain(rule, got=got, fix=fix))


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name closest to a mistyped one, or an empty string when none is close. Capitals do
    not count.
    """
    known = {n.lower(): n for n in names}
    close = get_close_matches(name.lower(), known, n=1)
    return f" (did you mean '{known[close[0]]}'?)" if close else ""


def counted(number: int, noun: str) -> str:
    """``1 epoch``, ``1,200 pictures``, ``2 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def first_ten(lines: Sequence[str]) -> str:
    """The first ten lines, indented, and the count of the others."""
    shown = [f"  {line}" for line in lines[:10]]
    return "\n".join([*shown, f"  ... and {len(lines) - 10} more"] if len(lines) > 10 else shown)
