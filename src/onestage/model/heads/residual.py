"""DSSD's head: a residual block before every level's convolutions (Fu et al., arXiv 1701.06659, section 3.1, figure 2).

Shape letters: B images, L levels, S_l anchor shapes per cell of level l, A anchors over all levels, C logits per anchor.
A built head maps a list of (B, C_l, H_l, W_l) to logits (B, A, C) and deltas (B, A, 4), rows ordered (level, y, x, shape).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from onestage.model.codec import Part, Range
from onestage.model.heads.per_level import ConvHead, HeadModule
from onestage.model.limits import Channels, Layers, Probability


@dataclass(frozen=True)
class ResidualHead(Part):
    """SSD's head behind ``blocks`` residual blocks of 1x1 convolutions, which make further features for the two tasks.

    width: channels of the output of a block; inside, a block has a quarter of them, as in ResNet. skip: how the input passes
    the block: through a 1x1 "conv", or unchanged ("identity"); the output then has the channels of the input instead of
    ``width``. prior: as in ``ConvHead``.

    Figure 2 shows these: (a) no block, (b) an identity, (c) one block with a convolution, the best and the default, (d) two.
    """

    width: Annotated[Channels, Range(least=4)] = 1024
    blocks: Layers = 1
    skip: Literal["conv", "identity"] = "conv"
    prior: Probability | None = None

    def build(self, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> HeadModule:
        """channels and shapes: the channels and anchor shapes per cell of each map. logits: C, with the background if any."""
        return _Residual(self, channels, shapes, logits)


class _Residual(HeadModule):
    def __init__(self, config: ResidualHead, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> None:
        super().__init__()
        levels = [_blocks(config, inputs) for inputs in channels]
        outputs = tuple(blocks[-1].outputs if blocks else inputs for blocks, inputs in zip(levels, channels, strict=True))
        self.blocks = nn.ModuleList(nn.Sequential(*blocks) for blocks in levels)
        self.convs = ConvHead(prior=config.prior).build(outputs, shapes, logits)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps (B, C_l, H_l, W_l) -> logits (B, A, C) and deltas (B, A, 4)."""
        result: tuple[Tensor, Tensor] = self.convs([blocks(m) for blocks, m in zip(self.blocks, maps, strict=True)])
        return result

    def class_outputs(self) -> tuple[str, ...]:
        """The names for the convolutions behind the blocks: (S_l * C, ...)."""
        return tuple(f"convs.{name}" for name in self.convs.class_outputs())

    def box_outputs(self) -> tuple[str, ...]:
        """The names for the convolutions behind the blocks: (S_l * 4, ...)."""
        return tuple(f"convs.{name}" for name in self.convs.box_outputs())


def _blocks(config: ResidualHead, inputs: int) -> list[_Block]:
    blocks: list[_Block] = []
    for _ in range(config.blocks):
        blocks.append(_Block(config, blocks[-1].outputs if blocks else inputs))
    return blocks


class _Block(nn.Module):
    """1x1 convolutions to a quarter of the width, to a quarter and to the full width. The input is added to their output."""

    def __init__(self, config: ResidualHead, inputs: int) -> None:
        super().__init__()
        convolved = config.skip == "conv"
        middle, self.outputs = config.width // 4, config.width if convolved else inputs
        first = (*_conv(inputs, middle), nn.ReLU(inplace=True))
        second = (*_conv(middle, middle), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(*first, *second, *_conv(middle, self.outputs))
        self.skip = nn.Sequential(*_conv(inputs, self.outputs)) if convolved else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C_l, H_l, W_l) -> (B, outputs, H_l, W_l)."""
        return F.relu(self.branch(maps) + self.skip(maps))


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    """A 1x1 convolution with batch norm, as in ResNet (the paper's figure does not say)."""
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
