"""FPN: the information of coarse maps is added to finer maps (Lin et al., Feature Pyramid Networks, arXiv 1612.03144,
figure 3).

Shape letters: B images, C_l channels and H_l x W_l cells of level l, D channels of every level after the neck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from onestage.model.codec import Part, Range
from onestage.model.features import Features
from onestage.model.layers.convolution import Conv3x3
from onestage.model.layers.norms import Norm, norm_layers
from onestage.model.limits import Channels, Levels


@dataclass(frozen=True)
class FPN(Part):
    """The backbone's maps, brought to ``width`` channels by 1x1 convolutions and added up from coarse to fine. A 3x3
    convolution smooths each sum. Then follow ``extra`` coarser levels, each half of the level before, made by 3x3 convolutions
    of stride 2 with ReLU between them.

    From maps C3..C5 and with two extra levels these are RetinaNet's P3..P7 (section 4). source: the map that P6 is made from:
    "c5", the last map of the backbone, as in RetinaNet's paper, or "p5", the last map of the pyramid. norm: after every
    convolution of the pyramid; the extra levels have none.
    """

    width: Channels = 256
    extra: Annotated[Levels, Range(least=0)] = 2
    source: Literal["c5", "p5"] = "c5"
    norm: Norm = "none"

    def build(self, channels: tuple[int, ...]) -> Features:
        """channels: of the backbone's maps, fine to coarse, any number of them."""
        return _FPN(self, channels)


class _FPN(Features):
    def __init__(self, config: FPN, channels: tuple[int, ...]) -> None:
        super().__init__()
        width = config.width
        bias = config.norm == "none"
        self.source = config.source
        self.channels = (width,) * (len(channels) + config.extra)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=bias), *norm_layers(config.norm, width)) for c in channels
        )
        self.output = nn.ModuleList(
            nn.Sequential(Conv3x3(width, width, bias=bias), *norm_layers(config.norm, width)) for _ in channels
        )
        inputs = [channels[-1] if config.source == "c5" else width] + [width] * config.extra
        self.extra = nn.ModuleList(nn.Conv2d(c, width, 3, 2, padding=1) for c in inputs[: config.extra])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)  # as in Detectron and torchvision
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, C_l, H_l, W_l) -> as many maps (B, D, H_l, W_l), and the extra levels."""
        merged = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[2:], mode="nearest")
        levels = [output(m) for output, m in zip(self.output, merged, strict=True)]
        coarsest = maps[-1] if self.source == "c5" else levels[-1]
        for i, halve in enumerate(self.extra):
            coarsest = halve(F.relu(coarsest) if i > 0 else coarsest)
            levels.append(coarsest)
        return levels
