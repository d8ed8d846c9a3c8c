"""Renaming the tensors of a foreign checkpoint: what the adapters share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten
from onestage.weights.detector_file import COUNTER

Background = Literal["first", "none"]
"""Which of the outputs of an anchor stands for background."""

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""(pattern of a whole name, what it becomes); the first that matches counts."""


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors of a detector under their new names.

    Raise WeightsError if a tensor has no new name: the file is of another network.
    """
    renamed, unused = _renamed(tensors, rules)
    strange = [f"{name}: {tuple(tensors[name].shape)}" for name in unused if not name.endswith(COUNTER)]
    if strange:
        raise WeightsError(
            f"the file is of another network: {counted(len(strange), 'tensor')} that this network does not have",
            got="\n" + first_ten(strange),
            fix="take the state_dict of the detector alone, as its project builds it",
        )
    return renamed


def nothing_to_tell(tensors: Mapping[str, Tensor]) -> str:
    """The doubt, or the note, of an adapter whose files leave nothing open."""
    return ""


def first_output(tensors: Mapping[str, Tensor]) -> Background | None:
    """The background of an adapter whose detectors have a softmax: the first output of every anchor."""
    return "first"


def no_output(tensors: Mapping[str, Tensor]) -> Background | None:
    """The background of an adapter whose detectors have a sigmoid for each class, and no output more."""
    return "none"


def demand_levels(tensors: Mapping[str, Tensor], *parts: str, levels: int) -> None:
    """Raise KeyError if a part of a detector, such as "conf", has no tensors for one of its levels: "conf.3. ...".

    A comparison with our tensors does not show this, because an input of another size may need fewer levels than the file has.
    """
    for start in (f"{part}.{level}." for part in parts for level in range(levels)):
        if not any(name.startswith(start) for name in tensors):
            raise KeyError(f"{start}...")


def pick(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors that the rules know, under their new names: a backbone out of a classifier."""
    return _renamed(tensors, rules)[0]


def _renamed(tensors: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under their new names, and the names that have no new name, or a new name that is already taken."""
    renamed: dict[str, Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        new = _new_name(name, rules)
        if new is None or new in renamed:
            unused.append(name)
        else:
            renamed[new] = tensor
    return renamed, unused


def _new_name(name: str, rules: Rules) -> str | None:
    for pattern, becomes in rules:
        if match := re.fullmatch(pattern, name):
            try:
                return match.expand(becomes) if isinstance(becomes, str) else becomes(match)
            except LookupError:  # a number beyond the layers that the rule knows
                return None
    return None
