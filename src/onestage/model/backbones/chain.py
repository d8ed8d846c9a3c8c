"""A backbone whose stages run one after the other.

Shape letters: B images, H and W of the input, C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from onestage.model.features import Features


class Chain(Features):
    """Stages that run one after the other. The output of each stage is a feature map."""

    def __init__(self, stages: Sequence[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        assert len(stages) == len(channels)
        self.channels = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a list of (B, C_l, H_l, W_l), one per stage."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps
