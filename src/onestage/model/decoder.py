"""From a network's output to named detections, without the network.

Shape letters: B images, L levels, A anchors over all levels, C logits per anchor, D detections. Boxes are xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.config import DetectorConfig
from onestage.model.output.postprocess import RawDetections
from onestage.structures import Detections, HeadOutput, ImageMeta, Size

_KEPT_SIZES = 32
"""For how many input sizes the anchors are kept."""


class AnchorCache:
    """The anchors of recent input sizes.

    It is safe for threads: entries are only added, and a full cache is replaced by an empty one.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def __reduce__(self) -> tuple[type[AnchorCache], tuple[()]]:
        """A copy, and one in another process, starts empty: the original may grow while it is copied."""
        return AnchorCache, ()

    def anchors(
        self, levels: tuple[AnchorLevel, ...], level_sizes: Sequence[Size], input_size: Size, device: torch.device
    ) -> Tensor:
        """(A, 4) xyxy input pixels, on the device. level_sizes: (height, width) of each of the L maps."""
        kept, key = self._kept, (levels, tuple(level_sizes), input_size, device)
        if key not in kept:
            with torch.inference_mode(False):  # training may use them later
                boxes = anchor_boxes(levels, level_sizes, input_size).to(device)
            if len(kept) >= _KEPT_SIZES:
                self._kept = kept = {}
            kept[key] = boxes
        return kept[key]


@dataclass(frozen=True, eq=False)
class Decoder:
    """Gives the output of a network its meaning: anchors, offsets, scores, NMS and names come from the config alone.

    config: of a built detector, so its anchors are written down level by level.
    """

    config: DetectorConfig
    cache: AnchorCache = field(default_factory=AnchorCache)

    @torch.no_grad()
    def decode(self, output: HeadOutput, metas: Sequence[ImageMeta], *, score: float | None = None) -> list[Detections]:
        """One Detections for each of the B images, in pixels of the original pictures.

        ``score`` replaces the score threshold of the config. Raises WeightsError if the output holds NaN.
        """
        config, postprocess = self.config, self.config.postprocess
        if score is not None:
            postprocess = replace(postprocess, score_threshold=score)
        anchors = self.cache.anchors(config.levels, output.level_sizes, output.input_size, output.deltas.device)
        counts = level_counts(config.levels, output.level_sizes)
        frames = torch.stack([meta.frame for meta in metas]).to(anchors.device)
        found = postprocess(output, anchors, config.coder, activation=config.loss.activation, levels=counts, frames=frames)
        return [self.name(raw, meta) for raw, meta in zip(found, metas, strict=True)]

    def name(self, raw: RawDetections, meta: ImageMeta) -> Detections:
        """D detections in input pixels -> the same in pixels of the original picture, cut to it, with class names and ids."""
        labels = raw.labels.cpu()
        names, ids = self.config.classes, self.config.category_ids
        return Detections(
            boxes=meta.undo(raw.boxes.cpu()),
            scores=raw.scores.cpu(),
            labels=labels,
            class_names=tuple(names[i] for i in labels.tolist()),
            category_ids=tuple(ids[i] for i in labels.tolist()),
            size=meta.original,
            image_id=meta.image_id,
            path=meta.path,
        ).clipped()


def level_counts(levels: Sequence[AnchorLevel], level_sizes: Sequence[Size]) -> tuple[int, ...]:
    """How many anchors stand on each of the L maps, fine to coarse. level_sizes: their (height, width)."""
    return tuple(h * w * len(level.shapes) for (h, w), level in zip(level_sizes, levels, strict=True))
