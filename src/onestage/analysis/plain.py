"""Frozen dataclasses to plain data for JSON, and back. The declared types of the fields say what comes back.

A field is a dataclass, a tuple, a mapping with texts for keys, a text, a number, a bool, None, or one of several of these. JSON
has no number for NaN: null stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onestage.errors import DataError
from onestage.files import Json

Tree = TypeVar("Tree")


def to_plain(value: object) -> Json:
    """The dataclass as dicts, lists, texts and numbers. Raise TypeError if something in it has no such form."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return cast(Json, value)
    raise TypeError(f"no plain data: {type(value).__name__}")


def from_plain(kind: type[Tree], value: Json) -> Tree:
    """The dataclass of that kind that ``to_plain`` gave. Raise DataError if the content does not fit its fields."""
    return cast(Tree, _read(kind, value, kind.__name__))


def _read(kind: object, value: Json, where: str) -> object:
    """The value as the declared ``kind``; ``where``: the names of the fields that lead to it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_one_of(parts, value, where)
    if origin is Literal and value in parts:
        return value
    if isinstance(value, dict) and is_dataclass(kind):
        return _read_fields(cast(type, kind), value, where)
    if isinstance(value, dict) and origin in (dict, Mapping):
        return {key: _read(parts[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list) and origin is tuple:
        return _read_items(parts, value, where)
    allowed, make = _SIMPLE.get(kind, _NONE)
    if type(value) in allowed:
        with suppress(OverflowError):  # of a number beyond all floats
            return make(value)
    raise _unfit(value, where, getattr(kind, "__name__", kind))


def _unfit(value: Json, where: str, expected: object) -> DataError:
    return DataError("this is no analysis", where=where, got=value, expected=expected)


def _read_items(kinds: tuple[object, ...], value: list[Json], where: str) -> tuple[object, ...]:
    """The items as a tuple of these kinds, or of any number of items of one kind."""
    each = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    if len(each) != len(value):
        raise _unfit(value, where, f"{len(each)} items")
    return tuple(_read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(each, value, strict=True)))


def _finite(value: float) -> float:
    """The number. Raise OverflowError for one that JSON does not have."""
    if not math.isfinite(value):
        raise OverflowError(value)
    return value


_NONE: tuple[tuple[type, ...], Callable[[Json], object]] = ((), lambda value: value)
_SIMPLE: dict[object, tuple[tuple[type, ...], Callable[[Json], object]]] = {
    float: ((float, int, NoneType), lambda value: math.nan if value is None else _finite(float(cast(float, value)))),
    int: ((int,), lambda value: value),
    str: ((str,), lambda value: value),
    bool: ((bool,), lambda value: value),
    NoneType: ((NoneType,), lambda value: value),
}
"""The types that JSON may have for a field of each simple type, and what makes the field's value of it."""


def _read_one_of(kinds: tuple[object, ...], value: Json, where: str) -> object:
    """The value as the first of the kinds that it fits; None is None if that is allowed."""
    if value is None and NoneType in kinds:
        return None
    for kind in kinds[:-1]:
        try:
            return _read(kind, value, where)
        except DataError:
            continue
    return _read(kinds[-1], value, where)


def _read_fields(kind: type, value: dict[str, Json], where: str) -> object:
    """The dataclass with these fields; one that is absent takes its default."""
    hints, needed = _fields(kind)
    if not needed <= value.keys() <= hints.keys():
        wrong = sorted((needed - value.keys()) | (value.keys() - hints.keys()))
        what = "an analysis with fields that are absent or unknown"
        raise DataError(what, where=where, got=", ".join(wrong), fix="analyse again with this version of onestage")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})


@cache
def _fields(kind: type) -> tuple[dict[str, object], set[str]]:
    """The type of each field, and the names of those without a default."""
    return get_type_hints(kind), {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
