"""What backbones and necks build, and how any module is asked for the size of its maps.

Shape letters: B images, C_l channels of level l.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from onestage.errors import ConfigError
from onestage.structures import Size


class Features(nn.Module):
    """A module that gives feature maps, a list of (B, C_l, H_l, W_l), and says how many channels each of them has."""

    channels: tuple[int, ...]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every part then has its own mode again, a frozen one too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def dry_run(module: nn.Module, size: Size, *, where: object) -> Any:
    """What a module gives for one picture of that (height, width), as shapes: a run without numbers, on torch's meta device.

    ConfigError, of ``where``, if it cannot take such an input.
    """
    tensors = {k: v.to("meta") for k, v in chain(module.named_parameters(), module.named_buffers())}
    try:
        with evaluating(module):
            return torch.func.functional_call(module, tensors, (torch.empty(1, 3, *size, device="meta"),))
    except (RuntimeError, AssertionError) as e:
        what = f"the network cannot take inputs of {size[0]}x{size[1]} pixels"
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        fix = "give another size, such as multiples of 32 pixels, or fewer levels"
        raise ConfigError(what, where=where, got=reason, fix=fix) from e
