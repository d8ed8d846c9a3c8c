"""The modules that a module can call: those of its tree, and those that its attributes lead to in any other way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from weakref import ReferenceType

from torch import Tensor, nn

_SHARED = frozenset(vars(nn.Module()))
_FOLLOWED = ("_modules", "_forward_hooks", "_forward_pre_hooks")
"""What a call of a module reads, of the attributes that all modules have."""


def reached(module: nn.Module) -> Iterator[nn.Module]:
    """The module, and every other one that it reaches: by names of its tree, hooks, closures, bound methods, partial functions,
    weak references, or any object that holds one. Not followed are classes, tensors, and the globals of a function, except for
    modules that its code names.
    """
    seen: set[int] = set()
    todo: list[object] = [module]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | Tensor | str | int | float | None):
            continue
        seen.add(id(value))  # what is behind it is held by the module, so no other object gets this number
        if isinstance(value, nn.Module):
            yield value
            todo += [held for name, held in vars(value).items() if name not in _SHARED or name in _FOLLOWED]
        elif isinstance(value, FunctionType):
            todo += [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)]
            named = (value.__globals__.get(name) for name in _names(value.__code__))
            todo += [held for held in named if isinstance(held, nn.Module)]
        else:
            todo += [value()] if isinstance(value, ReferenceType) else gc.get_referents(value)


def _names(code: CodeType) -> Iterator[str]:
    """The globals that a piece of code names, and others."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
