"""A backbone whose stages run one after the other.

Shape letters: B images, C_l channels of level l.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from onestage.model.features import Features


class Chain(Features):
    """Stages run one after the other; the output of each is a feature map."""

    def __init__(self, stages: Sequence[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        assert len(stages) == len(channels)
        self.channels = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps
