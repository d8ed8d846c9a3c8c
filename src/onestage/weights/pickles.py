"""What a pickle of tensors would make, told from its instructions before any of them is followed.

A few bytes of a pickle can ask for memory or time without end: for a tuple of a tuple twice, and so on, which takes for ever to
compare or to print, or for a tensor that the file does not hold.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO

from onestage.errors import WeightsError
from onestage.model.limits import PICKLE

MOST_ITEMS = 10_000
"""Items of a tuple, with those of the tuples in it. A checkpoint holds arguments of tensors in tuples: about 20."""
NO_NUMBERS = ("sparse", "meta_tensor", "nested", "qtensor", "wrapper_subclass", "from_numpy", "bytearray")
"""Parts of the names of functions, in a pickle, that make something other than a dense tensor of numbers in the file."""
_GET, _PUT = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


def check_pickles(stream: IO[bytes], pickles: int, where: object) -> None:
    """Follow the instructions of up to so many pickles on paper, from the start of a stream.

    Raise WeightsError if a tuple would grow beyond MOST_ITEMS, if a tensor would not be one of plain numbers, or if the pickles
    are too long. A damaged pickle passes: the program that really follows it refuses it.
    """
    stream.seek(0)
    try:
        for _ in range(pickles):
            _follow(pickletools.genops(stream), where)
    except WeightsError:
        raise
    except Exception:  # pickletools raises many types for a damaged pickle
        return


def _follow(operations: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]], where: object) -> None:
    """Keep the number of items in place of every object of the stack."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[object, int] = {}
    for code, argument, place in operations:
        if (place or 0) > PICKLE.most:
            raise WeightsError(f"too many {PICKLE.what}", where=where, expected=f"at most {PICKLE.most:,}")
        if code.name == "GLOBAL":
            _check_name(str(argument), where)
        if code.name in _GET:
            stack.append(memo[argument])
        elif code.name in _PUT:
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1] or 0
        else:
            popped = _popped(stack, code)
            items = 1 + sum(popped) if code.name in _TUPLES else 1
            if items > MOST_ITEMS:
                raise WeightsError("the checkpoint holds a tuple that grows without end", where=where, got=f"{items:,} items")
            stack += [None if item.name == "mark" else items for item in code.stack_after if item.name != "stackslice"]


def _check_name(name: str, where: object) -> None:
    """Raise WeightsError if a function that a pickle names makes no dense tensor."""
    if any(part in name for part in NO_NUMBERS):
        what = "the checkpoint holds tensors of no plain numbers"
        raise WeightsError(what, where=where, got=name, expected="dense tensors", fix="save dense tensors")


def _popped(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """What an instruction takes from the stack: so many objects, or all down to the last mark and what is below it."""
    names = [item.name for item in code.stack_before]
    popped: list[int | None] = []
    if "mark" in names:
        while (item := stack.pop()) is not None:
            popped.append(item)
        names = names[: names.index("mark")]
    popped += [stack.pop() for _ in names]
    return [item for item in popped if item is not None]
