"""The norms that necks and heads may have after a convolution."""

from __future__ import annotations

from typing import Literal

from torch import nn

from onestage.errors import require

Norm = Literal["none", "group", "batch"]

GROUPS = 32
"""The number of groups of group norm (Wu and He, Group Normalization, arXiv 1803.08494, section 4)."""


def norm_layers(kind: Norm, channels: int) -> list[nn.Module]:
    """The norm as a list of layers, empty for "none". Raise ConfigError if the groups do not divide the channels."""
    if kind == "none":
        return []
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    require(channels % GROUPS == 0, f"group norm needs channels in {GROUPS} equal groups", got=channels)
    return [nn.GroupNorm(GROUPS, channels)]
