"""BiFPN: maps of all levels mixed in both directions, several times (EfficientDet, arXiv 1911.09070, section 3).

Shape letters: B images, L levels, C_l channels and H_l x W_l cells of level l, D channels of every level after the neck; C
channels and H x W cells of any map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onestage.errors import require
from onestage.model.codec import Part, Range
from onestage.model.features import Features
from onestage.model.layers.separable import Activation, SeparableConv, activation, batch_norm, conv1x1
from onestage.model.limits import Channels, Layers, Levels
from onestage.structures import Size

Fusion = Literal["fast", "softmax", "sum"]
Padding = Literal["same", "symmetric"]


@dataclass(frozen=True)
class BiFPN(Part):
    """Weighted bi-directional feature pyramid (EfficientDet, figure 2d): the backbone's maps and, by max pooling, coarser ones
    up to ``levels``; then ``layers`` times a way from coarse to fine and one back. Every map comes out with ``width`` channels.

    fusion: how a node weights its inputs (section 3.3): "fast" is normalised, eq. (3), the paper's choice; "softmax"; or "sum"
    without weights, as in D6, D7 and the lite variants. padding: where the windows of max pooling lie. "same" begins at the
    first pixel of even maps, as in TensorFlow; "symmetric" begins one pixel before it, as is usual in PyTorch. bias: whether
    convolutions have a bias although batch norm follows, as in the paper's code.
    """

    width: Channels = 64
    layers: Annotated[Layers, Range(least=1)] = 3
    levels: Annotated[Levels, Range(least=2)] = 5
    fusion: Fusion = "fast"
    activation: Activation = "silu"
    padding: Padding = "same"
    bias: bool = True

    def build(self, channels: tuple[int, ...]) -> Features:
        """channels: of the backbone's maps, fine to coarse. Raise ConfigError if there are more maps than levels."""
        rule = f"a BiFPN of {self.levels} levels takes at most as many maps: raise neck.levels, or give fewer backbone.strides"
        require(len(channels) <= self.levels, rule, got=f"{len(channels)} maps")
        return _BiFPN(self, channels)


class _BiFPN(Features):
    def __init__(self, config: BiFPN, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.padding = config.padding
        self.channels = (config.width,) * config.levels
        self.extra = config.levels - len(channels)
        self.coarsest = _adapt(channels[-1], config)
        inputs = channels if self.extra else channels[:-1]
        first = (*inputs, *self.channels[len(inputs) :])
        self.layers = nn.ModuleList(_Layer(config, first if i == 0 else self.channels) for i in range(config.layers))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, C_l, H_l, W_l) -> L maps (B, D, H_l, W_l)."""
        maps = self._levels(maps)
        for layer in self.layers:
            maps = layer(maps)
        return maps

    def _levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps, and coarser ones: each is half of the map before. The coarsest of all has D channels."""
        latest = self.coarsest(maps[-1])
        if not self.extra:
            return [*maps[:-1], latest]
        levels = list(maps)
        for _ in range(self.extra):
            half = (-(-latest.shape[2] // 2), -(-latest.shape[3] // 2))
            latest = resize(latest, half, self.padding)
            levels.append(latest)
        return levels


class _Layer(nn.Module):
    """From coarse to fine, then back. A node on the way back sees the input of its level, the node of its level on the first
    way, and the finer node before it (section 3.2). The coarsest level has no node on the first way, the finest none on the
    way back.
    """

    def __init__(self, config: BiFPN, channels: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_Node(config, c, inputs=2) for c in channels[:-1])
        self.up = nn.ModuleList(_Node(config, c, inputs=3) for c in channels[1:-1])
        self.last = _Node(config, channels[-1], inputs=2)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps (B, C_l, H_l, W_l) -> L maps (B, D, H_l, W_l)."""
        down = maps[-1:]
        for node, level in zip(reversed(self.down), maps[-2::-1], strict=True):
            down.insert(0, node(level, down[0]))
        up = down[:1]
        for node, level, between in zip(self.up, maps[1:-1], down[1:-1], strict=True):
            up.append(node(level, between, up[-1]))
        return [*up, self.last(maps[-1], up[-1])]


class _Node(nn.Module):
    """Fuse the map of a level with further maps, the last of which comes from a neighbouring level. Activation, convolution
    and batch norm follow.
    """

    def __init__(self, config: BiFPN, channels: int, *, inputs: int) -> None:
        super().__init__()
        self.fusion, self.padding = config.fusion, config.padding
        self.adapt = _adapt(channels, config)
        self.weights = None if config.fusion == "sum" else nn.Parameter(torch.ones(inputs))
        self.activation = activation(config.activation)
        self.conv = SeparableConv(config.width, config.width, bias=config.bias)
        self.norm = batch_norm(config.width)

    def forward(self, level: Tensor, *further: Tensor) -> Tensor:
        """(B, C_l, H_l, W_l), a map (B, D, H_l, W_l) or none, and one (B, D, H, W) -> (B, D, H_l, W_l)."""
        size = (level.shape[2], level.shape[3])
        maps = [self.adapt(level), *further[:-1], resize(further[-1], size, self.padding)]
        result: Tensor = self.norm(self.conv(self.activation(self._fuse(maps))))
        return result

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        if self.weights is None:
            return sum(maps[1:], start=maps[0])
        total, *rest = (part * weight for part, weight in zip(maps, _normalised(self.weights, self.fusion), strict=True))
        return sum(rest, start=total)


def _normalised(weights: Tensor, fusion: Fusion) -> Tensor:
    """Section 3.3: the softmax of the weights, or the fast form of it, ReLU(w_i) / (sum of ReLU(w_j) + 0.0001)."""
    if fusion == "softmax":
        return weights.softmax(0)
    positive = weights.relu()
    return positive / (positive.sum() + 1e-4)


def _adapt(channels: int, config: BiFPN) -> nn.Module:
    """1x1 convolution and batch norm from a map's channels to the neck's, if these differ."""
    if channels == config.width:
        return nn.Identity()
    return nn.Sequential(conv1x1(channels, config.width, bias=config.bias), batch_norm(config.width))


def resize(maps: Tensor, size: Size, padding: Padding) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): max pooling to fewer cells, the nearest cell for more.

    Windows are one cell wider than the distance between them. Some backbones do not round up when they halve a map. If the
    sizes then do not fit, the nearest cells of the pooled map are taken.
    """
    cells = (maps.shape[2], maps.shape[3])
    steps = [max(1, round(a / b)) for a, b in zip(cells, size, strict=True)]
    if max(steps) > 1:
        kernel = [step + 1 if step > 1 else 1 for step in steps]
        if padding == "same":  # these windows begin inside the map; what is larger than it, ncnn moves
            kernel = [min(k, n) for k, n in zip(kernel, cells, strict=True)]
        before = [_padding(n, step, padding) for n, step in zip(cells, steps, strict=True)]
        # ceil_mode lets the last window hang over the border, which is TensorFlow's padding behind the map
        maps = F.max_pool2d(maps, kernel, steps, before, ceil_mode=padding == "same")
    return maps if maps.shape[2:] == size else F.interpolate(maps, size)


def _padding(cells: int, step: int, padding: Padding) -> int:
    """Cells before the first one of a map, for windows of step + 1 cells."""
    if step == 1:
        return 0
    if padding == "symmetric":
        return step // 2
    return (-(-cells // step) * step + 1 - cells) // 2  # TensorFlow's SAME: half of what the windows need, rounded down
