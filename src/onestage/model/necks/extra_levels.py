"""SSD's extra levels: coarser maps behind those of the backbone (Liu et al., SSD, arXiv 1512.02325, section 2.1).

Shape letters: B images, C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.limits import MANY_LEVELS, Border, Channels, Window


@dataclass(frozen=True)
class ExtraBlock(Part):
    """One of SSD's extra levels: 1x1 to ``middle`` channels, then ``kernel`` x ``kernel`` to ``out`` channels."""

    middle: Channels
    out: Channels
    kernel: Window = 3
    stride: Window = 2
    padding: Border = 1


@dataclass(frozen=True)
class ExtraLevels(Part):
    """SSD's extra feature layers (section 2.1, figure 2): coarser and coarser maps, each made from the map before.

    style: "plain" convolutions with bias and ReLU (the paper), "batch_norm" without bias (NVIDIA's SSD300-ResNet50),
    "separable" with batch norm and ReLU6 (SSDLite: MobileNetV2, section 6.2; as in torchvision), or "inverted": the same
    without the last ReLU6, as in the blocks of MobileNetV2, and with the usual eps of batch norm (pytorch-ssd's mb2-ssd-lite).
    """

    blocks: Annotated[tuple[ExtraBlock, ...], MANY_LEVELS]
    style: Literal["plain", "batch_norm", "separable", "inverted"] = "plain"

    def build(self, channels: tuple[int, ...]) -> Features:
        """channels: of the backbone's maps, fine to coarse."""
        return _Extra(self, channels)


class _Extra(Features):
    def __init__(self, config: ExtraLevels, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = (*channels, *(block.out for block in config.blocks))
        inputs = self.channels[len(channels) - 1 :]
        make = {"plain": _plain, "batch_norm": _batch_norm, "separable": _separable, "inverted": _inverted}[config.style]
        self.blocks = nn.ModuleList(make(i, block) for i, block in zip(inputs, config.blocks, strict=False))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, C_l, H_l, W_l) -> these, and one more (B, C_l, H_l, W_l) per block."""
        maps = list(maps)
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


def _plain(inputs: int, block: ExtraBlock) -> nn.Sequential:
    squeeze = nn.Conv2d(inputs, block.middle, 1)
    widen = nn.Conv2d(block.middle, block.out, block.kernel, block.stride, block.padding)
    for conv in (squeeze, widen):
        assert conv.bias is not None
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(squeeze, nn.ReLU(inplace=True), widen, nn.ReLU(inplace=True))


def _batch_norm(inputs: int, block: ExtraBlock) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, block.middle, 1, bias=False),
        nn.BatchNorm2d(block.middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(block.middle, block.out, block.kernel, block.stride, block.padding, bias=False),
        nn.BatchNorm2d(block.out),
        nn.ReLU(inplace=True),
    )


def _separable(inputs: int, block: ExtraBlock, *, eps: float = 1e-3) -> nn.Sequential:
    middle = block.middle
    depthwise = nn.Conv2d(middle, middle, block.kernel, block.stride, block.padding, groups=middle, bias=False)
    layers: list[nn.Module] = []
    for conv in (nn.Conv2d(inputs, middle, 1, bias=False), depthwise, nn.Conv2d(middle, block.out, 1, bias=False)):
        nn.init.normal_(conv.weight, std=0.03)  # torchvision, models/detection/ssdlite.py
        layers += [conv, nn.BatchNorm2d(conv.out_channels, eps=eps), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers)


def _inverted(inputs: int, block: ExtraBlock) -> nn.Sequential:
    return _separable(inputs, block, eps=1e-5)[:-1]
