"""What a plan means that does not say everything. The same code asks c0fbafc (write.py) and the newest version (the test)."""

import copy
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from onestage.errors import ConfigError
from onestage.model.config import decode, encode


def parts(declared: Any) -> set[type]:
    """All dataclasses that can stand in a value of this type."""
    inner = list(get_type_hints(declared).values()) if is_dataclass(declared) else get_args(declared)
    found = set().union(*map(parts, inner))
    return found | {declared} if is_dataclass(declared) else found


def defaults(part: Any) -> dict[str, Any]:
    """The fields with a default, and that."""
    made = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(part)}
    return {name: encode(value) for name, value in made.items() if value is not MISSING}


def left_out(plan: dict[str, Any], kind: type) -> dict[str, Any]:
    """The path of each value in such a plan, and what stands there if it is missing: "refused" where it must be given."""
    taken = {}
    for *parents, name in paths(plan):
        less = copy.deepcopy(plan)
        del at(less, parents)[name]
        try:
            taken[".".join(map(str, (*parents, name)))] = at(encode(decode(less, kind, "plan")), [*parents, name])
        except ConfigError:
            taken[".".join(map(str, (*parents, name)))] = "refused"
    return taken


def paths(node: Any) -> Iterator[tuple[str | int, ...]]:
    """The way to every key of a nest of dicts and lists."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(node, dict):
            yield (key,)
        yield from ((key, *rest) for rest in paths(value))


def at(node: Any, path: Any) -> Any:
    """What stands at the end of that way."""
    for key in path:
        node = node[key]
    return node
