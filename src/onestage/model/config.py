"""What a detector is, as plain frozen data: which parts, with which numbers. It travels inside every checkpoint.

A part is a frozen dataclass. Adding one takes the class and its name in the union of its kind (``Backbone``, ``Neck``, ``Head``
or a field's own type below). These types are the closed table of kinds: reading a config runs no code but their constructors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onestage.errors import ConfigError, nearest, require
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.anchors.plans import AnchorPlan
from onestage.model.backbones.kinds import Backbone
from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead
from onestage.model.losses.kinds import ClassLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.necks.bifpn import BiFPN
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraLevels
from onestage.model.necks.fpn import FPN
from onestage.model.output.postprocess import Postprocess
from onestage.model.preprocess import Preprocess

Neck = ExtraLevels | FPN | BiFPN | Deconvolution
Head = ConvHead | SharedHead | SeparableHead | ResidualHead


PRIOR = 0.01
"""How likely every class is at the start of training with a loss of sigmoids, where the head does not say (RetinaNet, section
3.3).
"""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector.

    name: of the recipe it came from. classes: the K names. category_ids: the data set's own ids of the classes (0..K-1 unless
    given). neck None: the head stands on the backbone's maps. anchors: one entry per map the head sees, fine to coarse, or a
    rule, which a detector of this config replaces by the entries that follow from its maps.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    preprocess: Preprocess
    backbone: Backbone
    neck: Neck | None = None
    head: Head = field(default_factory=ConvHead)
    anchors: tuple[AnchorLevel, ...] | AnchorPlan
    coder: BoxCoder = field(default_factory=BoxCoder)
    assigner: MaxIoUAssigner | ATSSAssigner = field(default_factory=MaxIoUAssigner)
    loss: ClassLoss = field(default_factory=MultiBoxLoss)
    postprocess: Postprocess = field(default_factory=Postprocess)

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(len(self.classes))))
        names, ids = self.classes, self.category_ids
        require(bool(names) and all(isinstance(n, str) for n in names), "class names must be there, as text", got=list(names))
        require(len(set(names)) == len(names), "every class name stands only once", got=list(names))
        require(len(set(ids)) == len(ids) == len(names), f"one category id for each of the {len(names)} classes", got=ids)
        if self.loss.activation == "sigmoid" and self.head.prior is None:  # at 0.5 each, all the negatives drown the rest
            object.__setattr__(self, "head", dataclasses.replace(self.head, prior=PRIOR))

    @property
    def logits(self) -> int:
        """C: how many numbers the head gives per anchor to tell the classes apart."""
        return len(self.classes) + (self.loss.activation == "softmax")

    @property
    def levels(self) -> tuple[AnchorLevel, ...]:
        """The anchors, level by level, of a recipe or of a detector that has been built."""
        assert isinstance(self.anchors, tuple)
        return self.anchors

    def replace(self, changes: Mapping[str, Any]) -> DetectorConfig:
        """A copy with some values changed, each named by its path: ``config.replace({"loss.negative_ratio": 2})``. All are made
        together, whatever their order; a whole part before the values in it.

        Values may be text, as they come from a command line. ConfigError names the nearest key to an unknown one.
        """
        if "classes" in changes and "category_ids" not in changes and self.category_ids == tuple(range(len(self.classes))):
            changes = {**changes, "category_ids": ()}  # nobody chose these, so they follow
        tree: dict[str, Any] = {}
        for path, value in changes.items():
            node = tree
            for key in path.split("."):
                node = node.setdefault(key, {})
            node[_WHOLE] = value
        config: DetectorConfig = _changed(self, tree, "")
        return config

    def to_json(self) -> str:
        return json.dumps(encode(self))

    @staticmethod
    def from_json(text: str) -> DetectorConfig:
        """Raises ConfigError where the text is not a config of this version of the project."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ConfigError("the stored config is not JSON", got=str(e)) from e
        config: DetectorConfig = decode(data, DetectorConfig, "config")
        return config


def encode(value: Any) -> Any:
    """Frozen dataclasses and tuples to plain dicts and lists; a part carries its kind."""
    if is_dataclass(value):
        kind = {} if isinstance(value, DetectorConfig) else {"kind": type(value).__name__}
        return kind | {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    return [encode(v) for v in value] if isinstance(value, tuple | list) else value


def differences(ours: DetectorConfig, theirs: DetectorConfig) -> list[str]:
    """Where two configs differ, as paths such as "preprocess.mean"; of parts of different kinds, or tuples, the name alone."""

    def differing(path: str, a: Any, b: Any) -> list[str]:
        if a == b:
            return []
        if not (isinstance(a, dict) and isinstance(b, dict) and a["kind"] == b["kind"]):
            return [path]
        return [deeper for key in a for deeper in differing(f"{path}.{key}", a[key], b[key])]

    a, b = encode(ours), encode(theirs)
    return [path for key in a for path in differing(key, a[key], b[key])]


def decode(data: Any, declared: Any, path: str) -> Any:
    """Plain data to a value of the declared type, or ConfigError naming the path."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin in (Union, types.UnionType):
        return _decode_union(data, arguments, path)
    if origin is tuple:
        return _decode_tuple(data, arguments, path)
    if origin is Literal:
        if data not in arguments:
            raise _wrong(path, data, " or ".join(map(repr, arguments)) + nearest(str(data), map(str, arguments)))
        return data
    if is_dataclass(declared):
        return _decode_part(data, declared, path)
    if declared is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not abs(data) <= sys.float_info.max:  # so written, it holds for NaN too
            raise _wrong(path, data, "a finite number")
        return float(data)
    if not isinstance(data, declared) or (declared is int and isinstance(data, bool)):
        raise _wrong(path, data, declared.__name__)
    return data


def _decode_union(data: Any, choices: tuple[Any, ...], path: str) -> Any:
    optional = type(None) in choices
    if optional and data in (None, "None", "none"):
        return None
    parts: dict[str, Any] = {c.__name__: c for c in choices if is_dataclass(c) and isinstance(c, type)}
    if isinstance(data, str) and (kind := parts.get(data) or _called(data, parts.values())):
        return kind(data.lower()) if data not in parts else _decode_part(data, kind, path)
    if type(data) in parts.values():
        return data
    others = [c for c in choices if c is not type(None) and c not in parts.values()]
    if others and not isinstance(data, dict):
        try:
            return _decode_plain_union(data, others, path)
        except ConfigError as e:
            raise ConfigError(f"{e}" + "".join(f", or {name}" for name in (*parts, *["null"] * optional))) from e
    if len(parts) == 1:
        return _decode_part(data, next(iter(parts.values())), path)
    if not isinstance(data, dict) or data.get("kind") not in parts:
        got = data.get("kind") if isinstance(data, dict) else data
        known = ", ".join(map(_introduced, parts.values())) + (", or null" if optional else "")
        raise _wrong(path, got, f"one of {known}{nearest(str(got), parts)}")
    return _decode_part(data, parts[data["kind"]], path)


def _introduced(kind: Any) -> str:
    """The name of a kind of part, and the words that call for it too."""
    words = [get_args(declared) for declared in list(_hints(kind).values())[:1] if get_origin(declared) is Literal]
    return f"{kind.__name__} ({', '.join(words[0])})" if words else str(kind.__name__)


def _called(word: str, kinds: Iterable[Any]) -> Any:
    """The kind of part whose first field is a choice that has this word, whatever its capitals: "GIoU" is an IoULoss."""
    first = {kind: next(iter(_hints(kind).values()), None) for kind in kinds}
    return next(
        (k for k, declared in first.items() if get_origin(declared) is Literal and word.lower() in get_args(declared)), None
    )


def _decode_plain_union(data: Any, choices: Sequence[Any], path: str) -> Any:
    """The first of the choices that takes the data; if none does, what the last has against it."""
    for choice in choices[:-1]:
        with contextlib.suppress(ConfigError):
            return decode(data, choice, path)
    return decode(data, choices[-1], path)


def _decode_tuple(data: Any, items: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise _wrong(path, data, "a list")
    declared = [items[0]] * len(data) if items[-1] is Ellipsis else list(items)
    if len(declared) != len(data):
        raise _wrong(path, data, f"{len(declared)} values")
    return tuple(decode(d, t, f"{path}[{i}]") for i, (d, t) in enumerate(zip(data, declared, strict=True)))


def _decode_part(data: Any, part: Any, path: str) -> Any:
    if is_dataclass(data) and isinstance(data, part):
        return data
    if data == part.__name__:  # "loss=FocalLoss" on a command line: that part as it comes
        data = {}
    if not isinstance(data, dict):
        raise _wrong(path, data, f"the fields of {part.__name__}")
    if (kind := data.get("kind", part.__name__)) != part.__name__:
        raise _wrong(path, kind, part.__name__ + nearest(str(kind), [part.__name__]))
    hints = _hints(part)
    if unknown := [k for k in data if k != "kind" and k not in hints]:
        raise ConfigError(f"unknown key '{unknown[0]}'{nearest(unknown[0], hints)}", where=path, expected=", ".join(hints))
    needed = [f.name for f in fields(part) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in data]:
        raise ConfigError("keys are missing", where=path, got=", ".join(data), expected=", ".join(missing))
    return _made(path, part, {k: decode(v, hints[k], f"{path}.{k}") for k, v in data.items() if k != "kind"})


@cache
def _hints(part: type) -> dict[str, Any]:
    """The fields of a part and their types; constants of its class are no fields."""
    hints = get_type_hints(part)
    return {f.name: hints[f.name] for f in fields(part)}


_WHOLE = ""
"""In a tree of changes: the value of the part itself, not of one of its fields."""


def _changed(part: Any, tree: Mapping[str, Any], path: str) -> Any:
    """The part with the values in ``tree`` below it, all of a part at once: what holds of them together need not hold of each
    with the old others. Text is read as JSON where the declared type is not text.
    """
    if not is_dataclass(part) or isinstance(part, type):
        got = "null" if part is None else f"{len(part)} values" if isinstance(part, tuple) else part
        fix = f"give {path} as a whole: a name such as those that {path}=x lists, or JSON"
        raise ConfigError("this value has no parts", where=path, got=got, fix=fix)
    hints, values = _hints(type(part)), {}
    for name, below in tree.items():
        here = f"{path}.{name}".lstrip(".")
        if name not in hints:
            what = f"unknown key '{name}'{nearest(name, hints)}"
            where = f"{here}, of {type(part).__name__}"
            raise ConfigError(what, where=where, expected=", ".join(hints) or "nothing: it has no settings")
        value = getattr(part, name)
        if _WHOLE in below:
            given = below[_WHOLE]
            value = decode(given if hints[name] is str else _from_text(given), hints[name], here)
        rest = {key: node for key, node in below.items() if key != _WHOLE}
        values[name] = _changed(value, rest, here) if rest else value
    return _made(path, partial(dataclasses.replace, part), values)


def _made(path: str, make: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """A part made of these values; where they break its rules, the error says which part it is."""
    try:
        return make(**values)
    except ConfigError as e:
        if not path:
            raise
        raise e.at(path) from e


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return encode(value)
    try:
        return json.loads(value)
    except ValueError:
        return value


def _wrong(path: str, got: Any, expected: str) -> ConfigError:
    return ConfigError("a value of the wrong kind", where=path, got=repr(got), expected=expected)
