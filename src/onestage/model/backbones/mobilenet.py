"""MobileNet v2 and v3 as SSDLite uses them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torchvision
from torch import nn

from onestage.model.backbones.chain import Chain
from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.limits import Positive, SomeShare


@dataclass(frozen=True)
class MobileNetBackbone(Part):
    """MobileNet v2 or v3-large as SSDLite uses it (MobileNetV3, section 6.3): the expansion inside the first block of stride
    32, and the last layer before the classifier. Strides 16 and 32.

    reduced_tail: half the channels after the expansion. It costs no accuracy in detection (MobileNetV3, table 6; v3 only). eps
    and momentum: of batch norm. torchvision's SSDLite has 0.001 and 0.03, for half a million steps. The running averages start
    at a variance of 1. With a momentum of 0.03 they make measurements in the first 300 steps wrong, with 0.1 in the first 80.
    """

    version: Literal["v2", "v3_large"] = "v3_large"
    reduced_tail: bool = True
    eps: Positive = 1e-3
    momentum: SomeShare = 0.1

    def build(self) -> Features:
        """The network with fresh weights."""
        norm = partial(nn.BatchNorm2d, eps=self.eps, momentum=self.momentum)
        if self.version == "v2":
            layers = torchvision.models.mobilenet_v2(norm_layer=norm).features
            at, block = 14, layers[14].conv
        else:
            layers = torchvision.models.mobilenet_v3_large(norm_layer=norm, reduced_tail=self.reduced_tail).features
            at, block = 13, layers[13].block
        stages = [nn.Sequential(*layers[:at], block[0]), nn.Sequential(block[1:], *layers[at + 1 :])]
        return Chain(stages, (block[0].out_channels, layers[-1].out_channels))
