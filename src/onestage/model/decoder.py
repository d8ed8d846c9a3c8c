"""From a network's output to named detections, without the network.

Shape letters: B images, L levels, A anchors over all levels, C logits per anchor, D detections. Boxes are xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from onestage.model.anchors.levels import Anchors
from onestage.model.config import DetectorConfig
from onestage.model.output.postprocess import Postprocess, RawDetections
from onestage.structures import Detections, HeadOutput, ImageMeta


@dataclass(frozen=True, eq=False)
class Decoder:
    """Turn the output of a network into detections: anchors, offsets, scores, NMS and names come from the config alone.

    config: of a built detector, so its anchors are listed level by level.
    """

    config: DetectorConfig
    anchors: Anchors

    @classmethod
    def of(cls, config: DetectorConfig) -> Self:
        """The decoder of a built detector's config."""
        return cls(config, Anchors(config.levels))

    def decode(self, output: HeadOutput, metas: Sequence[ImageMeta], *, score: float | None = None) -> list[Detections]:
        """One Detections for each of the B images, in pixels of the original pictures.

        ``score`` replaces the score threshold of the config. Raise WeightsError if the output holds NaN.
        """
        postprocess = self.config.postprocess
        if score is not None:
            postprocess = replace(postprocess, score_threshold=score)
        found = self.raw(output, torch.stack([meta.frame for meta in metas]), postprocess)
        return [self.name(raw, meta) for raw, meta in zip(found, metas, strict=True)]

    @torch.no_grad()
    def raw(self, output: HeadOutput, frames: Tensor, postprocess: Postprocess) -> list[RawDetections]:
        """The detections of each of the B images, in input pixels. frames: (B, 4) xyxy, where the pictures lie in the input."""
        return postprocess(
            output,
            self.anchors.boxes(output.level_sizes, output.input_size, output.deltas.device),
            self.config.coder,
            activation=self.config.loss.activation,
            levels=self.anchors.counts(output.level_sizes),
            frames=frames.to(output.deltas.device),
        )

    def name(self, raw: RawDetections, meta: ImageMeta) -> Detections:
        """D detections in input pixels -> the same in pixels of the original picture, cut to it, with class names and ids."""
        labels = raw.labels.cpu().long()
        names, ids = self.config.classes, self.config.category_ids
        return Detections(
            boxes=meta.undo(raw.boxes.cpu().float()),
            scores=raw.scores.cpu().float(),
            labels=labels,
            class_names=tuple(names[i] for i in labels.tolist()),
            category_ids=tuple(ids[i] for i in labels.tolist()),
            size=meta.original,
            image_id=meta.image_id,
            path=meta.path,
        ).clipped()
