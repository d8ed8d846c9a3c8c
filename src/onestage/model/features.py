"""What backbones and necks build.

Shape letters: B images, C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn


class Features(nn.Module):
    """A module that gives feature maps, a list of (B, C_l, H_l, W_l), fine to coarse, and says how many channels each has.

    strides: of the maps, in input pixels, if the module promises that the cells of each map are a stride apart over the whole
    input; empty if it promises nothing. The detector checks the promise.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = ()


class Backbone(Protocol):
    """What a config says of a backbone: how it is built."""

    def build(self) -> Features:
        """The network with fresh weights."""
        ...


def is_changed(part: nn.Module) -> bool:
    """Whether a module does something that its class does not say."""
    return bool("forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks)
