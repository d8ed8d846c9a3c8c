"""Configs as plain data and back: frozen dataclasses to what JSON can hold, checked against their declared types.

A part of a config is a frozen dataclass. As plain data it is a dict of its fields and its kind: the name of its class. Reading
plain data runs no code but the constructors of the classes that the declared types name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onestage.errors import ConfigError, nearest
from onestage.files import Json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value: TypeAlias = "bool | int | float | str | DataclassInstance | Sequence[Value] | Mapping[str, Value] | None"
"""A value in a config, in a change to it, or in plain data."""
Declared: TypeAlias = object
"""A type as a field declares it: a class, a union, a tuple of types or a Literal. Python has no type for these yet."""
P = TypeVar("P", bound="DataclassInstance")


@dataclass(frozen=True)
class Limit:
    """The most that a number may be, or the longest that a list or a text may be. It stands in the declared type of a field:
    ``Annotated[int, Limit("channels", 8192)]``. what: of what it is the limit. usual: no network of the zoo has more; None if
    the number adds no weights.
    """

    what: str
    most: int
    usual: int | None = None

    def check(self, value: Value, where: object) -> None:
        """Raise ConfigError if a number, a list or a text is beyond the limit."""
        if (size := _size(value)) > self.most:
            got = value if size == math.inf else f"{size:,}"
            raise ConfigError(f"too many {self.what}", where=where, got=got, expected=f"at most {self.most:,}")


@dataclass(frozen=True)
class Range:
    """The values that a number may have. It stands in the declared type of a field, as a Limit does:
    ``Annotated[float, Range(above=0, most=1)]``. A bound that is left out does not exist.
    """

    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def check(self, value: Value, where: object, fix: str | None = None) -> None:
        """Raise ConfigError if a number lies outside, with that remedy."""
        if isinstance(value, int | float) and not (self.above < value < self.below and self.least <= value <= self.most):
            bounds = {"above": self.above, "at least": self.least, "at most": self.most, "below": self.below}
            expected = ", ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
            raise ConfigError("a number out of its range", where=where, got=value, expected=expected, fix=fix)

    def check_number(self, value: object, where: object, *, fix: str | None = None) -> None:
        """Raise ConfigError unless it is a number, and inside. A bool is none."""
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ConfigError("this is no number", where=where, got=repr(value), expected="a number", fix=fix)
        self.check(float(value), where, fix=fix)


@dataclass(frozen=True)
class NotAbove:
    """The number of this field is at most that of another field of the part. It stands in the declared type, as a Range does.

    other: the name of that field. why: the reason, for the message.
    """

    other: str
    why: str


class Part:
    """Base of all parts of a config. Every field has a value of its declared type, within its limits and its range: a list that
    is given becomes a tuple, and plain data become a part. If a part has further rules about several values, they follow in the
    ``__post_init__`` of its class.
    """

    def __post_init__(self) -> None:
        """Raise ConfigError for a value of another type, beyond its limit or range, or above a field it may not exceed."""
        kind: type = type(self)
        for name, declared in _hints(kind).items():
            value = decode_value(getattr(self, name), declared, f"{kind.__name__}.{name}")
            object.__setattr__(self, name, value)
        for name, rule in _in_order(kind):
            if getattr(self, name) > getattr(self, rule.other):
                raise ConfigError(f"{name} <= {rule.other}: {rule.why}", got=self, fix=f"lower {name}, or raise {rule.other}")


def _size(value: object) -> float:
    """How large a number is, or how long a list or a text; 0 for anything else."""
    if isinstance(value, str | tuple | list):
        return len(value)
    return abs(value) if isinstance(value, int | float) else 0


def unusual(value: object, declared: Declared) -> bool:
    """Whether a number or a list in a part, at any depth, is above what its limit calls usual."""
    if get_origin(declared) is Annotated:
        declared, *bounds = get_args(declared)
        if any(isinstance(b, Limit) and b.usual is not None and _size(value) > b.usual for b in bounds):
            return True
    if isinstance(value, Part):
        kind: type = type(value)
        return any(unusual(getattr(value, name), hint) for name, hint in _hints(kind).items())
    return isinstance(value, tuple) and any(unusual(item, (*get_args(declared), None)[0]) for item in value)


class WithoutKind:
    """Base of the parts that are written without their kind, because no other kind can take their place."""


def encode(value: Value) -> Json:
    """Frozen dataclasses and tuples to dicts and lists, at any depth. A part carries its kind."""
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if is_dataclass(value):
        kind: dict[str, Json] = {} if isinstance(value, WithoutKind) else {"kind": type(value).__name__}
        return kind | {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    return cast(Json, value)


def differences(ours: DataclassInstance, theirs: DataclassInstance) -> list[str]:
    """The fields in which two parts of one kind differ, as paths such as "preprocess.mean". For parts of different kinds, and
    for tuples, the path ends at their name.
    """
    return _differing("", encode(ours), encode(theirs))


def _differing(path: str, a: Json, b: Json) -> list[str]:
    if a == b:
        return []
    if not (isinstance(a, dict) and isinstance(b, dict) and a.get("kind") == b.get("kind")):
        return [path]
    return [deeper for key in a for deeper in _differing(f"{path}.{key}".lstrip("."), a[key], b[key])]


def decode(data: Value, kind: type[P], path: str) -> P:
    """Plain data to a part of that kind; a part of that kind stays as it is. ConfigError names the path of a wrong value."""
    if isinstance(data, kind):
        return data
    hints = _hints(kind)
    given = _given_fields(data, kind, path)
    return _made(path, kind, {name: decode_value(value, hints[name], f"{path}.{name}") for name, value in given.items()})


def decode_value(data: Value, declared: Declared, path: str) -> Value:
    """Plain data, or values already decoded, to a value of the declared type. ConfigError names the path of a wrong value."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        bounds = [bound for bound in arguments if isinstance(bound, Limit | Range)]
        for bound in bounds if isinstance(data, tuple | list) else ():  # before its items are read
            bound.check(data, path)
        value = decode_value(data, arguments[0], path)
        for bound in reversed(bounds):  # a field's bounds follow those of the type that they narrow
            bound.check(value, path)
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(data, _Choices(arguments), path)
    if origin is tuple:
        return _decode_tuple(data, arguments, path)
    if origin is Literal:
        if not isinstance(data, str) or data not in arguments:
            raise _wrong(path, data, " or ".join(map(repr, arguments)) + nearest(str(data), map(str, arguments)))
        return data
    assert isinstance(declared, type)
    return decode(data, declared, path) if is_dataclass(declared) else _decode_scalar(data, declared, path)


_WORDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
"""Python's types for a person."""


def _decode_scalar(data: Value, declared: type, path: str) -> Value:
    if declared is float and isinstance(data, Real) and not isinstance(data, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(data)):
                return number
        raise _wrong(path, data, "a finite number")
    if declared is int and isinstance(data, Integral) and not isinstance(data, bool):
        return int(data)
    if not isinstance(data, declared) or declared is int:
        raise _wrong(path, data, _WORDS.get(declared, declared.__name__))
    return data


def _decode_tuple(data: Value, items: Sequence[Declared], path: str) -> tuple[Value, ...]:
    if not isinstance(data, list | tuple):
        raise _wrong(path, data, "a list")
    declared = [items[0]] * len(data) if items[-1] is Ellipsis else list(items)
    if len(declared) != len(data):
        raise _wrong(path, data, f"{len(declared)} values")
    return tuple(decode_value(d, t, f"{path}[{i}]") for i, (d, t) in enumerate(zip(data, declared, strict=True)))


class _Choices:
    """What a union allows: parts, by the names of their kinds, None or not, and other types."""

    def __init__(self, choices: Sequence[Declared]) -> None:
        kinds = [c for c in choices if isinstance(c, type) and is_dataclass(c)]
        self.parts = {kind.__name__: kind for kind in kinds}
        self.optional = type(None) in choices
        self.others = [c for c in choices if c is not type(None) and c not in kinds]

    def called(self, word: str) -> type[DataclassInstance] | None:
        """The kind whose first field is a choice that has this word, in any capitals: "GIoU" is an IoULoss."""
        return next((kind for kind in self.parts.values() if word.lower() in _words(kind)), None)


def _decode_union(data: Value, choices: _Choices, path: str) -> Value:
    if choices.optional and (data is None or (isinstance(data, str) and data in ("None", "none"))):
        return None
    if isinstance(data, str) and data in choices.parts:
        return decode(data, choices.parts[data], path)
    if isinstance(data, str) and (kind := choices.called(data)):
        return _made(path, kind, {fields(kind)[0].name: data.lower()})
    if type(data) in choices.parts.values():
        return data
    if choices.others and not isinstance(data, dict):
        return _decode_other(data, choices, path)
    return _decode_kind(data, choices, path)


def _decode_other(data: Value, choices: _Choices, path: str) -> Value:
    """The data as the first of the other types that accepts it. If none does, the error is that of the last, with all
    choices.
    """
    *earlier, last = choices.others
    for declared in earlier:
        with contextlib.suppress(ConfigError):
            return decode_value(data, declared, path)
    try:
        return decode_value(data, last, path)
    except ConfigError as e:
        expected = e.expected and ", or ".join([str(e.expected), *choices.parts, *["null"] * choices.optional])
        raise ConfigError(e.what, where=e.where, got=e.got, expected=expected, fix=e.fix) from e


def _decode_kind(data: Value, choices: _Choices, path: str) -> Value:
    """A part of the kind that the data name."""
    if len(choices.parts) == 1:
        return decode(data, next(iter(choices.parts.values())), path)
    kind = data.get("kind") if isinstance(data, dict) else data
    if not (isinstance(data, dict) and isinstance(kind, str) and kind in choices.parts):
        known = ", ".join(map(_introduced, choices.parts.values())) + (", or null" if choices.optional else "")
        raise _wrong(path, kind, f"one of {known}{nearest(str(kind), choices.parts)}")
    return decode(data, choices.parts[kind], path)


def _introduced(kind: type[DataclassInstance]) -> str:
    """The name of a kind of part, and the words that can be used instead of it."""
    words = _words(kind)
    return f"{kind.__name__} ({', '.join(words)})" if words else kind.__name__


def _words(kind: type[DataclassInstance]) -> tuple[str, ...]:
    """The words that the first field of a part may have, if that field is a choice of words."""
    first = next(iter(_hints(kind).values()), None)
    return get_args(first) if get_origin(first) is Literal else ()


def _given_fields(data: Value, kind: type[DataclassInstance], path: str) -> Mapping[str, Value]:
    """The values that the data give for the fields of a part. Raise ConfigError if a field is unknown or missing."""
    name, hints = kind.__name__, _hints(kind)
    given = {} if data == name else data  # "loss=FocalLoss" on a command line: that part with its defaults
    if not isinstance(given, dict):
        raise _wrong(path, given, f"the fields of {name}")
    if (called := given.get("kind", name)) != name:
        raise _wrong(path, called, name + nearest(str(called), [name]))
    values = {key: value for key, value in given.items() if key != "kind"}
    if unknown := [key for key in values if key not in hints]:
        raise ConfigError(f"unknown key '{unknown[0]}'{nearest(unknown[0], hints)}", where=path, expected=", ".join(hints))
    if missing := [needed for needed in _needed(kind) if needed not in values]:
        raise ConfigError("keys are missing", where=path, got=", ".join(given), expected=", ".join(missing))
    return values


def _needed(kind: type[DataclassInstance]) -> list[str]:
    """The fields without a default."""
    return [f.name for f in fields(kind) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]


@cache
def _hints(kind: type) -> dict[str, Declared]:
    """The fields of a part and their declared types. Constants of its class are not fields."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}


@cache
def _in_order(kind: type) -> list[tuple[str, NotAbove]]:
    """The fields of a part that may not exceed another field, each with that rule."""
    return [(name, rule) for name, hint in _hints(kind).items() for rule in get_args(hint) if isinstance(rule, NotAbove)]


@dataclass
class _Change:
    """The change of a value: first at most one replacement of the whole value, then changes to its fields."""

    whole: tuple[Value, ...] = ()
    below: dict[str, _Change] = field(default_factory=dict)


def changed(part: P, changes: Mapping[str, Value]) -> P:
    """The part with other values, each named by its path, such as "loss.box.beta". All changes are made together, so a rule
    about several fields need not hold between two changes. Text is read as JSON if the field does not hold text.
    """
    root = _Change()
    for path, value in changes.items():
        node = root
        for key in path.split("."):
            node = node.below.setdefault(key, _Change())
        node.whole = (value,)
    return cast(P, _changed(part, root, ""))


def _changed(part: Value, change: _Change, path: str) -> Value:
    if not is_dataclass(part) or isinstance(part, type):
        got = "null" if part is None else f"{len(part)} values" if isinstance(part, tuple) else part
        fix = f"give {path} as a whole: a name such as those that {path}=x lists, or JSON"
        raise ConfigError("this value has no parts", where=path, got=got, fix=fix)
    values = {name: _changed_field(part, name, below, f"{path}.{name}".lstrip(".")) for name, below in change.below.items()}
    return _made(path, partial(dataclasses.replace, part), values)


def _changed_field(part: DataclassInstance, name: str, change: _Change, path: str) -> Value:
    hints = _hints(type(part))
    if name not in hints:
        expected = ", ".join(hints) or "nothing: it has no settings"
        where = f"{path}, of {type(part).__name__}"
        raise ConfigError(f"unknown key '{name}'{nearest(name, hints)}", where=where, expected=expected)
    value: Value = getattr(part, name)
    for given in change.whole:
        value = decode_value(given if _is_text(hints[name]) else _from_text(given), hints[name], path)
    return _changed(value, change, path) if change.below else value


def _is_text(declared: Declared) -> bool:
    """Whether a field holds text, with a limit or without one."""
    return declared is str or (get_origin(declared) is Annotated and get_args(declared)[0] is str)


def _made(path: str, make: Callable[..., P], values: Mapping[str, Value]) -> P:
    """A part made of these values. If they break its rules, the error names the part."""
    try:
        return make(**values)
    except ConfigError as e:
        if not path:
            raise
        raise e.at(path) from e


def _from_text(value: Value) -> Value:
    """The value of a text in JSON; a part or a tuple as plain data."""
    if not isinstance(value, str):
        return encode(value)
    try:
        return cast(Json, json.loads(value))
    except (ValueError, RecursionError):
        return value


def _wrong(path: str, got: Value, expected: str) -> ConfigError:
    with contextlib.suppress(ValueError):  # repr() of a number of more than 4,300 digits
        return ConfigError("a value of the wrong kind", where=path, got=repr(got), expected=expected)
    return ConfigError("a value of the wrong kind", where=path, expected=expected)
