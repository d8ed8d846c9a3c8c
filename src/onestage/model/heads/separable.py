"""EfficientDet's heads: separable convolutions that all levels share, and batch norm that they do not share.

Shape letters: B images, L levels of H_l x W_l cells, S anchor shapes per cell, A anchors over all levels, C logits per anchor,
D channels of every map. A built head maps a list of (B, D, H_l, W_l) to logits (B, A, C) and deltas (B, A, 4), rows ordered
(level, y, x, shape).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from onestage.model.codec import Part
from onestage.model.heads.per_level import HeadModule, as_rows, check_shareable, prior_bias
from onestage.model.layers.separable import Activation, SeparableConv, activation, batch_norm
from onestage.model.limits import Layers, Probability


@dataclass(frozen=True)
class SeparableHead(Part):
    """A class net and a box net (EfficientDet, section 4.2) of ``layers`` separable convolutions, each with batch norm and
    activation, and one for the outputs.

    bias: whether convolutions have a bias although batch norm follows, as in the paper's code. prior: the probability of each
    class at the start of training, for every anchor (RetinaNet, section 3.3).
    """

    layers: Layers = 3
    activation: Activation = "silu"
    bias: bool = True
    prior: Probability = 0.01

    def build(self, channels: tuple[int, ...], shapes: tuple[int, ...], logits: int) -> HeadModule:
        """channels and shapes: the channels and anchor shapes per cell of each map. logits: C.

        Raise ConfigError unless all maps have the same.
        """
        check_shareable("SeparableHead", channels, shapes, like="a BiFPN", fix="neck=BiFPN and anchors=OctaveAnchors")
        return _Separable(self, channels, shapes[0], logits)


class _Separable(HeadModule):
    def __init__(self, config: SeparableHead, channels: tuple[int, ...], shapes: int, logits: int) -> None:
        super().__init__()
        self.logits = logits
        self.cls = _Net(config, channels, shapes * logits)
        self.box = _Net(config, channels, shapes * 4)
        assert self.cls.output.pointwise.bias is not None
        nn.init.constant_(self.cls.output.pointwise.bias, prior_bias(config.prior))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps (B, D, H_l, W_l) -> logits (B, A, C) and deltas (B, A, 4)."""
        return as_rows(self.cls(maps), self.box(maps), self.logits)


class _Net(nn.Module):
    """convs: one per layer, shared by the levels. norms: for every layer one per level, as the statistics of levels differ."""

    def __init__(self, config: SeparableHead, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        width = channels[0]
        self.convs = nn.ModuleList(SeparableConv(width, width, bias=config.bias) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.ModuleList(batch_norm(width) for _ in channels) for _ in range(config.layers))
        self.activation = activation(config.activation)
        self.output = SeparableConv(width, outputs, bias=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps (B, D, H_l, W_l) -> L maps (B, outputs, H_l, W_l)."""
        for conv, norms in zip(self.convs, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            maps = [self.activation(norm(conv(m))) for norm, m in zip(norms, maps, strict=True)]
        return [self.output(m) for m in maps]
