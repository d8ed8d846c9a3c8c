"""The interface of all heads, and SSD's head, which has separate convolutions for every level.

Shape letters: B images, C_l channels and H_l x W_l cells of level l, S anchor shapes per cell (S_l if levels differ), A
anchors over all levels, C logits per anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onestage.errors import require
from onestage.model.codec import Part
from onestage.model.layers.convolution import Conv3x3
from onestage.model.limits import Probability


@dataclass(frozen=True)
class ConvHead(Part):
    """SSD's head (section 2.1): for every level two 3x3 convolutions, one for classes and one for offsets.

    style: "plain", "separable" with batch norm and ReLU6 after the depthwise part (SSDLite: MobileNetV2, section 6.2; as in
    torchvision), or "lite": the same with the usual eps of batch norm, and on the coarsest map, a single cell, 1x1 convolutions
    (pytorch-ssd's mb2-ssd-lite). For networks with folded norms: "pointwise", 1x1 convolutions (kernel_size 1 of the TF
    object-detection API), or "folded", separable with a bias in place of the norm.

    prior: for losses with sigmoids, the probability of each class at the start of training, for every anchor (RetinaNet,
    section 3.3: 0.01). None leaves the biases of the logits at 0, which suits a softmax.
    """

    style: Literal["plain", "separable", "lite", "pointwise", "folded"] = "plain"
    prior: Probability | None = None

    def build(self, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> HeadModule:
        """channels and shapes: the channels and anchor shapes per cell of each map. logits: C, with the background if any."""
        return _PerLevel(self, channels, shapes, logits)


class HeadModule(nn.Module):
    """A built head: maps, a list of (B, C_l, H_l, W_l) fine to coarse, to logits (B, A, C) and deltas (B, A, 4).

    Its parts cls and box: one net for all levels, or a list of one per level. The last layer of each gives the outputs.
    """

    def class_outputs(self) -> tuple[str, ...]:
        """The state_dict's names of the tensors that give the logits: (S * C, ...), rows ordered (shape, logit)."""
        return _last_layers("cls", self.get_submodule("cls"))

    def box_outputs(self) -> tuple[str, ...]:
        """The state_dict's names of the tensors that give the box offsets: (S * 4, ...), rows ordered (shape, offset)."""
        return _last_layers("box", self.get_submodule("box"))


def as_rows(logits: Sequence[Tensor], deltas: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Logits (B, S * C, H_l, W_l) and deltas (B, S * 4, H_l, W_l) of the levels -> (B, A, C) and (B, A, 4). width: C."""
    return _rows(logits, width), _rows(deltas, 4)


def check_shareable(head: str, channels: Sequence[int], shapes: Sequence[int], *, like: str, fix: str) -> None:
    """Raise ConfigError unless a head of that name can share its convolutions over all levels: its maps have equal channels and
    equally many anchor shapes per cell. like, fix: a neck that gives such maps, for the message, and the remedy.
    """
    rule = f"{head} shares its convolutions over all levels: they need"
    equal = f"{rule} equal channels, such as {like} gives"
    require(len(set(channels)) == 1, equal, got=channels, fix=fix)
    require(len(set(shapes)) == 1, f"{rule} the same number of anchor shapes", got=shapes, fix="anchors=OctaveAnchors")


def prior_bias(prior: float) -> float:
    """The logit of a probability. With this bias each class starts at ``prior`` (RetinaNet, section 4.1)."""
    return math.log(prior / (1 - prior))


def _last_layers(name: str, nets: nn.Module) -> tuple[str, ...]:
    """The names of weight and bias of the last layer of a net, or of each net in a list, all under that name."""
    single = not isinstance(nets, nn.ModuleList)
    named = [(name, nets)] if single else [(f"{name}.{level}", net) for level, net in nets.named_children()]
    return tuple(f"{place}.{tensor}" for place, net in named for tensor, _ in list(net.named_parameters())[-2:])


def _rows(maps: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps], dim=1)


class _PerLevel(HeadModule):
    def __init__(self, config: ConvHead, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> None:
        super().__init__()
        self.logits = logits
        make = _STYLES[config.style]
        last = _pointwise if config.style == "lite" else make
        levels = list(zip([make] * (len(channels) - 1) + [last], channels, shapes, strict=True))
        self.cls = nn.ModuleList(conv(c, s * logits) for conv, c, s in levels)
        self.box = nn.ModuleList(conv(c, s * 4) for conv, c, s in levels)
        if config.prior is not None:
            for conv in self.cls:
                *_, weight, bias = conv.parameters()
                nn.init.normal_(weight, std=0.01)  # RetinaNet, section 4.1: larger weights would outweigh the bias
                nn.init.constant_(bias, prior_bias(config.prior))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, C_l, H_l, W_l) -> logits (B, A, C) and deltas (B, A, 4)."""
        logits, deltas = ([conv(m) for conv, m in zip(convs, maps, strict=True)] for convs in (self.cls, self.box))
        return as_rows(logits, deltas, self.logits)


def _plain(inputs: int, outputs: int) -> nn.Module:
    conv = Conv3x3(inputs, outputs)
    nn.init.xavier_uniform_(conv.weight)
    return _zero_bias(conv)


def _separable(inputs: int, outputs: int, *, eps: float = 1e-3) -> nn.Module:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    nn.init.normal_(depthwise.weight, std=0.03)  # torchvision, models/detection/ssdlite.py
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs, eps=eps), nn.ReLU6(inplace=True), _pointwise(inputs, outputs))


def _lite(inputs: int, outputs: int) -> nn.Module:
    return _separable(inputs, outputs, eps=1e-5)


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(conv.weight, std=0.03)  # torchvision, models/detection/ssdlite.py
    return _zero_bias(conv)


def _folded(inputs: int, outputs: int) -> nn.Module:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="relu")  # no norm keeps the variance
    return nn.Sequential(_zero_bias(depthwise), nn.Identity(), nn.ReLU6(inplace=True), _pointwise(inputs, outputs))


def _zero_bias(conv: nn.Conv2d) -> nn.Conv2d:
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


_STYLES = {"plain": _plain, "separable": _separable, "lite": _lite, "pointwise": _pointwise, "folded": _folded}
