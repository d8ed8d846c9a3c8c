"""DSSD's neck: the information of coarse maps is brought back to fine maps (Fu et al., arXiv 1701.06659, section 3.3).

Shape letters: B images, L levels, C_l channels and H_l x W_l cells of level l, D channels of a map after the neck (the coarsest
keeps its C_l); C channels and H x W cells of any map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from onestage.errors import require
from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.layers.convolution import Conv3x3
from onestage.model.limits import Channels
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.structures import Size


@dataclass(frozen=True)
class Deconvolution(Part):
    """SSD's extra levels, and then a deconvolution module per level, from the coarsest map back up to the finest (figure 1).
    The coarsest map stays as it is.

    extra: the levels below the backbone's maps; none if left out. width: channels of the modules' maps, 512 in the paper.
    fusion: how a module joins its two branches: by their "product", which the paper found better, or their "sum".
    """

    extra: ExtraLevels = field(default_factory=partial(ExtraLevels, ()))
    width: Channels = 512
    fusion: Literal["product", "sum"] = "product"

    def build(self, channels: tuple[int, ...]) -> Features:
        """channels: of the backbone's maps, fine to coarse. Raise ConfigError unless there are two levels or more."""
        levels = len(channels) + len(self.extra.blocks)
        require(levels > 1, "Deconvolution goes from coarse maps to finer ones: it needs at least two levels", got=levels)
        return _Hourglass(self, channels)


class _Window(NamedTuple):
    """The window of a deconvolution."""

    kernel: int
    stride: int
    padding: int = 0


def _undo(block: ExtraBlock) -> _Window:
    """The deconvolution from the map of a block back to the map before it. If the block halves a map, each cell becomes 2x2
    cells (figure 3). A block of stride 1 is undone by its window: 1x1 cells become 3x3, and 3x3 become 5x5.
    """
    if block.stride == 1:
        return _Window(block.kernel, 1, block.padding)
    return _Window(block.stride, block.stride)


class _Hourglass(Features):
    def __init__(self, config: Deconvolution, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.extra = config.extra.build(channels)
        down = self.extra.channels
        self.channels = (config.width,) * (len(down) - 1) + down[-1:]
        windows = [_Window(2, 2)] * (len(channels) - 1) + [_undo(block) for block in config.extra.blocks]
        steps = zip(down, self.channels[1:], windows, strict=False)
        self.up = nn.ModuleList(_Module(config, fine, coarse, window) for fine, coarse, window in steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, C_l, H_l, W_l) -> L maps (B, D, H_l, W_l)."""
        maps = self.extra(maps)
        up = maps[-1:]
        for module, fine in zip(reversed(self.up), maps[-2::-1], strict=True):
            up.insert(0, module(fine, up[0]))
        return up


class _Module(nn.Module):
    """Figure 3: the map of a level, convolved twice, and the coarser map, enlarged by a deconvolution and convolved."""

    def __init__(self, config: Deconvolution, fine: int, coarse: int, window: _Window) -> None:
        super().__init__()
        width = config.width
        self.product = config.fusion == "product"
        self.fine = nn.Sequential(*_conv(fine, width), nn.ReLU(inplace=True), *_conv(width, width))
        self.enlarge = nn.ConvTranspose2d(coarse, width, *window)
        self.coarse = nn.Sequential(*_conv(width, width))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C_l, H_l, W_l) and the next coarser map of the way back (B, C, H, W) -> (B, D, H_l, W_l)."""
        size = (fine.shape[2], fine.shape[3])
        fine, coarse = self.fine(fine), self.coarse(_fit(self.enlarge(coarse), size))
        return F.relu(fine * coarse if self.product else fine + coarse)


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    """Batch norm follows every convolution (section 3.3)."""
    return Conv3x3(inputs, outputs, bias=False), nn.BatchNorm2d(outputs)


def _fit(maps: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): cells below and on the right are cut off, or the last ones are repeated.

    A map of an odd number of cells is halved to one cell more or less than its half. Either way its cell i belongs to cell
    i // 2 of the coarser map, as far as the coarser map reaches. Raise ConfigError if the sizes differ by more than one cell.
    """
    rule = "Deconvolution doubles maps: each map below has half the cells of the one above, or one more or less"
    apart = max(abs(have - want) for have, want in zip(maps.shape[2:], size, strict=True))
    require(apart <= 1, rule, got=f"{tuple(maps.shape[2:])} cells, enlarged, for a map of {tuple(size)}")
    maps = maps[:, :, : size[0], : size[1]]
    below, right = size[0] - maps.shape[2], size[1] - maps.shape[3]
    return F.pad(maps, (0, right, 0, below), mode="replicate") if below or right else maps
