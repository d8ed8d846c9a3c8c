"""What the output of a network costs, given the objects that are there. No network is needed.

Shape letters: B images, L levels, A anchors over all levels, N objects in one image. Boxes are xyxy input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onestage.errors import ConfigError
from onestage.model.anchors.max_iou import Assignment, assign
from onestage.model.config import DetectorConfig
from onestage.model.decoder import AnchorCache, level_counts
from onestage.structures import HeadOutput, Size, Targets, check_labels


@dataclass(frozen=True, eq=False)
class Criterion:
    """The training targets and the losses of a detector: anchors, assigner, coder and loss come from the config alone.

    config: of a built detector, so its anchors are written down level by level.
    """

    config: DetectorConfig
    cache: AnchorCache = field(default_factory=AnchorCache)

    def assign(
        self, targets: Sequence[Targets], level_sizes: Sequence[Size], input_size: Size, *, device: torch.device
    ) -> Assignment:
        """Which anchor learns which object of B images. targets: in input pixels, on the device.

        level_sizes: (height, width) of each of the L maps, as a HeadOutput has them. Raises DataError for a label outside
        0..K-1; labels on a GPU are not checked, because the program would wait for the GPU.
        """
        for number, target in enumerate(targets):
            if target.labels.device.type == "cpu":
                check_labels(target.labels, len(self.config.classes), where=f"targets[{number}]")
        levels = self.config.levels
        anchors = self.cache.anchors(levels, level_sizes, input_size, device)
        return assign(self.config.assigner, anchors, targets, levels=level_counts(levels, level_sizes))

    def loss(
        self, output: HeadOutput, targets: Sequence[Targets] | Assignment, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}: training minimises the sum.

        targets: one per image, in input pixels, or their assignment. ``normalizer``: the divisor () of a larger batch that
        these images are part of (several processes, accumulated steps); by default the divisor of these images.
        Raises ConfigError if the assignment was made for maps of other sizes than the output has.
        """
        if not isinstance(targets, Assignment):
            targets = self.assign(targets, output.level_sizes, output.input_size, device=output.deltas.device)
        if targets.matches.shape != output.deltas.shape[:2]:
            what = "the assignment does not fit the output of the network: (images, anchors)"
            got, expected = tuple(targets.matches.shape), tuple(output.deltas.shape[:2])
            raise ConfigError(what, got=got, expected=expected, fix="assign the targets for the size of these images")
        return self.config.loss(output, targets, self.config.coder, normalizer=normalizer)
