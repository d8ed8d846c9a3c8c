"""The backbone of the d2l book's TinySSD."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import nn

from onestage.errors import require
from onestage.model.backbones.chain import Chain
from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.limits import MANY_LEVELS, Channels


@dataclass(frozen=True)
class TinyBackbone(Part):
    """The d2l book's TinySSD (section 14.7): five maps of 1/8, 1/16, 1/32, 1/64 of the input and one single cell.

    base: channels of the three blocks before the first map; width: channels of the maps after it.
    """

    base: Annotated[tuple[Channels, ...], MANY_LEVELS] = (16, 32, 64)
    width: Channels = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.base) == 3, "the base has three blocks, for a first map of stride 8", got=self.base)

    def build(self) -> Features:
        """The network with fresh weights."""
        ends = (3, *self.base)
        base = nn.Sequential(*(_halve(a, b) for a, b in pairwise(ends)))
        channels = (self.base[-1], *[self.width] * 4)
        blocks = [_halve(a, b) for a, b in pairwise(channels[:4])]
        return Chain([base, *blocks, nn.AdaptiveMaxPool2d(1)], channels)


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU, then 2x2 max pooling (the book's down_sample_blk)."""
    layers: list[nn.Module] = []
    for a, b in ((inputs, outputs), (outputs, outputs)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
