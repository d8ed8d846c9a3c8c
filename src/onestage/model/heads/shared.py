"""RetinaNet's head: one class subnet and one box subnet for all levels (Lin et al., Focal Loss, arXiv 1708.02002, section 4).

Shape letters: B images, L levels of H_l x W_l cells, S anchor shapes per cell, A anchors over all levels, C logits per anchor,
D channels of every map. A built head maps a list of (B, D, H_l, W_l) to logits (B, A, C) and deltas (B, A, 4), rows ordered
(level, y, x, shape).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from onestage.model.codec import Part
from onestage.model.heads.per_level import HeadModule, as_rows, check_shareable, prior_bias
from onestage.model.layers.convolution import Conv3x3
from onestage.model.layers.norms import norm_layers
from onestage.model.limits import Layers, Probability


@dataclass(frozen=True)
class SharedHead(Part):
    """A class subnet and a box subnet of ``layers`` 3x3 convolutions with ReLU each and one for the outputs. All levels share
    both subnets; the two subnets share nothing.

    norm: "group" norm before each ReLU, as in ATSS and torchvision's second RetinaNet. prior: the probability of each class at
    the start of training, for every anchor, so that the many negatives do not outweigh the positives (section 3.3: 0.01).
    """

    layers: Layers = 4
    norm: Literal["none", "group"] = "none"
    prior: Probability = 0.01

    def build(self, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> HeadModule:
        """channels and shapes: the channels and anchor shapes per cell of each map. logits: C.

        Raise ConfigError unless all maps have the same.
        """
        check_shareable("SharedHead", channels, shapes, like="an FPN", fix="neck=FPN and anchors=OctaveAnchors")
        return _Shared(self, channels[0], shapes[0], logits)


class _Shared(HeadModule):
    def __init__(self, config: SharedHead, width: int, shapes: int, logits: int) -> None:
        super().__init__()
        self.logits = logits
        self.cls = _subnet(config, width, shapes * logits, prior_bias(config.prior))
        self.box = _subnet(config, width, shapes * 4, 0.0)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps (B, D, H_l, W_l) -> logits (B, A, C) and deltas (B, A, 4)."""
        return as_rows([self.cls(m) for m in maps], [self.box(m) for m in maps], self.logits)


def _subnet(config: SharedHead, width: int, outputs: int, start: float) -> nn.Sequential:
    """start: the outputs at the start of training."""
    layers: list[nn.Module] = []
    for _ in range(config.layers):
        conv = Conv3x3(width, width, bias=config.norm == "none")
        layers.append(nn.Sequential(conv, *norm_layers(config.norm, width), nn.ReLU(inplace=True)))
    subnet = nn.Sequential(*layers, Conv3x3(width, outputs))
    for module in subnet.modules():
        if isinstance(module, Conv3x3):
            nn.init.normal_(module.weight, std=0.01)  # section 4.1
            if module.bias is not None:
                nn.init.constant_(module.bias, start if module is subnet[-1] else 0.0)
    return subnet
