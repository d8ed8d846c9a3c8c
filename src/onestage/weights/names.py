"""Names in files of weights: of tensors, which the adapters for foreign projects change, and of classes, which a file rarely
holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten
from onestage.model.config import DetectorConfig
from onestage.structures import ClassSet
from onestage.weights.tensor_file import COUNTER

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


def known_classes(count: int, *known: ClassSet) -> ClassSet:
    """The class set in ``known`` that has ``count`` classes, or numbered classes if none has.

    A file of weights rarely names its classes. But the published weights of a project are for few data sets, so the number of
    classes shows which data set it is. Raise ValueError if ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"outputs for {count} classes")
    found = next((classes for classes in known if len(classes.names) == count), None)
    return ClassSet(numbered_classes(count), tuple(range(count))) if found is None else found


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of K classes that were given by number only. Weights or training replace them by the true names."""
    return tuple(f"class {i}" for i in range(count))


def is_numbered(config: DetectorConfig) -> bool:
    """Whether the classes of a config were given by number only."""
    return config.classes == numbered_classes(len(config.classes))


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
