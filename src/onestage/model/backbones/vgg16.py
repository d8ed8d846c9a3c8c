"""VGG16 as SSD uses it.

Shape letters: B images, H and W of the input, H_l x W_l cells of level l.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.layers.convolution import Conv3x3


@dataclass(frozen=True)
class VGG16Backbone(Part):
    """VGG16 as SSD uses it (section 3): conv4_3, L2-normalised with a learned scale that starts at 20 (ParseNet), and fc7,
    where fc6 and fc7 are convolutions, fc6 dilated, and pool5 is 3x3 with stride 1. Strides 8 and 16.
    """

    def build(self) -> Features:
        """The network with fresh weights."""
        return _VGG16()


class _VGG16(Features):
    channels = (512, 1024)

    def __init__(self) -> None:
        super().__init__()
        pool = partial(nn.MaxPool2d, 2)
        self.conv4_3 = nn.Sequential(
            *_convs(3, 64, 2),
            pool(),
            *_convs(64, 128, 2),
            pool(),
            *_convs(128, 256, 3),
            pool(ceil_mode=True),
            *_convs(256, 512, 3),
        )
        self.scale = nn.Parameter(torch.full((512,), 20.0))
        self.fc7 = nn.Sequential(
            pool(),
            *_convs(512, 512, 3),
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                # there is no batch norm: with torch's default weights 15 layers would shrink the signal to nothing
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> conv4_3 (B, 512, H_0, W_0) and fc7 (B, 1024, H_1, W_1)."""
        fine = self.conv4_3(images)
        length = fine.norm(dim=1, keepdim=True).clamp_min(1e-12)  # F.normalize expands it, which LiteRT's converter cannot do
        normalised = self.scale.view(1, -1, 1, 1) * (fine / length)
        return [normalised, self.fc7(fine)]


def _convs(inputs: int, outputs: int, count: int) -> list[nn.Module]:
    """``count`` 3x3 convolutions with ReLU, the first from ``inputs`` channels."""
    channels = [inputs] + [outputs] * count
    return [m for a, b in pairwise(channels) for m in (Conv3x3(a, b), nn.ReLU(inplace=True))]
