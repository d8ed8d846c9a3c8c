"""Parts of the backbone that do not learn in one training. The detector and its file know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from onestage.errors import ConfigError
from onestage.model.detector import Detector
from onestage.model.stages import stages_of

Freeze = int | Literal["backbone"]
"""The number of leading stages of the backbone that do not learn, or all of it."""


@contextmanager
def frozen(model: Detector, freeze: Freeze) -> Iterator[None]:
    """Inside, the first stages of the backbone ask for no gradient. At the end they are as before.

    Raise ConfigError if the backbone has fewer stages.
    """
    names = _names(model, freeze)
    changed = [p for name, p in model.backbone.named_parameters() if name in names and p.requires_grad]
    try:
        for parameter in changed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def _names(model: Detector, freeze: Freeze) -> set[str]:
    """The names of the parameters in the backbone that do not learn."""
    if freeze == "backbone":
        return {name for name, _ in model.backbone.named_parameters()}
    if freeze == 0:
        return set()
    stages = stages_of(model)
    if freeze > len(stages):
        what, expected = f"the backbone of {model.config.name} has fewer stages", f"0 to {len(stages)}, or backbone for all"
        raise ConfigError(what, where="freeze", got=freeze, expected=expected, fix=f"freeze={len(stages)}")
    return set[str]().union(*stages[:freeze])


def training_mode(model: nn.Module, freeze: Freeze) -> None:
    """Set training mode, except for what is frozen: batch norm keeps its statistics there, and no block is skipped."""
    model.train()
    for module in model.get_submodule("backbone").modules() if freeze else ():
        parameters = [*module.parameters()]
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
