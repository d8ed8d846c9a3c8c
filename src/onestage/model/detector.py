"""The one detector: backbone -> neck -> head, and everything that gives their numbers a meaning.

Shape letters: B images, A anchors, C logits per anchor, N objects of one image. Pictures are RGB; boxes are xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onestage.errors import ConfigError, known_keywords, require
from onestage.images import decode_image, to_tensor
from onestage.model.anchors.levels import anchor_boxes
from onestage.model.anchors.max_iou import Assignment, assign
from onestage.model.backbones.kinds import check_maps
from onestage.model.config import DetectorConfig
from onestage.model.features import dry_run, evaluating
from onestage.model.heads.per_level import HeadModule
from onestage.model.output.postprocess import RawDetections
from onestage.structures import Detections, HeadOutput, ImageMeta, Size, Targets, check_labels

_CACHED_SIZES = 32
"""For how many input sizes the anchors are kept."""


class Detector(nn.Module):
    """A one-stage, anchor-based detector, whatever its family: the config says which parts it has.

    ``forward`` is a pure graph that trains, compiles and exports; ``loss`` and ``decode`` give its output a meaning;
    ``predict`` does it all, from pictures to named boxes.
    """

    def __init__(self, config: DetectorConfig) -> None:
        """Raises ConfigError where the parts do not fit each other. Weights are drawn from torch's global random numbers."""
        super().__init__()
        config = with_levels(config)
        self.config = config
        self.backbone = config.backbone.build()
        self.neck = config.neck.build(self.backbone.channels) if config.neck else None
        channels = self.neck.channels if self.neck is not None else self.backbone.channels
        if len(channels) != len(config.levels):
            giver = "backbone" if self.neck is None else "neck"
            what = f"the {giver} gives {len(channels)} levels, the anchors describe {len(config.levels)}"
            fix = "give one AnchorLevel per level, or anchors=OctaveAnchors, which suits any maps"
            raise ConfigError(what, where=config.name, fix=fix)
        shapes = tuple(len(level.shapes) for level in config.levels)
        self.head: HeadModule = config.head.build(channels, shapes, config.logits)
        self._shapes = shapes
        self._anchors: dict[tuple[Size, torch.device], tuple[Tensor, tuple[int, ...]]] = {}
        self.to(memory_format=torch.channels_last)
        self._check_places()

    def _check_places(self) -> None:
        """ConfigError where the network cannot take its own input, or the anchors of a level stand elsewhere than its cells."""
        size = self.config.preprocess.largest
        check_maps(self.config.backbone, self.backbone, size)
        for number, (level, cells) in enumerate(zip(self.config.levels, self.level_sizes(size), strict=True)):
            steps = level.steps(cells, size)
            if not level.inside and any(abs(n * s - side) >= s for side, n, s in zip(size, cells, steps, strict=True)):
                even = tuple(round(side / n, 1) for side, n in zip(size, cells, strict=True))
                what = f"the anchors of level {number} stand {steps} pixels apart, but the cells of its map {even}"
                fix = "change the size as the recipe's own (--size, size=), or take anchors=OctaveAnchors, which suits any maps"
                where = f"{self.config.name}, map of {cells[0]}x{cells[1]} cells over {size[0]}x{size[1]} pixels"
                raise ConfigError(what, where=where, got=f"stride {steps}", expected=f"about {even}", fix=fix)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> HeadOutput:
        """(B, 3, H, W) normalised float images, as ``prepare`` gives them -> logits (B, A, C) and deltas (B, A, 4)."""
        if not images.is_floating_point():
            raise ConfigError("the network takes normalised float images", got=images.dtype, fix="use model.prepare(images)")
        maps = self.backbone(images)
        maps = self.neck(maps) if self.neck is not None else maps
        logits, deltas = self.head(maps)
        return HeadOutput(logits, deltas, tuple((m.shape[2], m.shape[3]) for m in maps), (images.shape[2], images.shape[3]))

    def prepare(self, images: Sequence[Tensor]) -> tuple[Tensor, tuple[ImageMeta, ...]]:
        """B pictures (3, H, W) uint8 of any size -> (B, 3, h, w) for ``forward`` on the model's device, and how to undo it."""
        return self.config.preprocess(images, device=self.device)

    def anchors(self, input_size: Size) -> Tensor:
        """(A, 4) xyxy pixels of an input of that (height, width), on the model's device; cached, never part of the weights."""
        return self._anchors_and_levels(input_size)[0]

    def level_counts(self, input_size: Size) -> tuple[int, ...]:
        """How many of these anchors stand on each map, fine to coarse."""
        return self._anchors_and_levels(input_size)[1]

    def _anchors_and_levels(self, input_size: Size) -> tuple[Tensor, tuple[int, ...]]:
        key = (input_size, self.device)
        if key not in self._anchors:
            if len(self._anchors) == _CACHED_SIZES:  # pictures of many sizes: forget the oldest
                del self._anchors[next(iter(self._anchors))]
            sizes = self.level_sizes(input_size)
            with torch.inference_mode(False):  # training may use them later
                boxes = anchor_boxes(self.config.levels, sizes, input_size).to(self.device)
            self._anchors[key] = boxes, tuple(h * w * s for (h, w), s in zip(sizes, self._shapes, strict=True))
        return self._anchors[key]

    def level_sizes(self, input_size: Size) -> tuple[Size, ...]:
        """(height, width) of every map for an input of that size, found by a run without numbers. ConfigError where the
        network cannot take it.
        """
        output: HeadOutput = dry_run(self, input_size, where=self.config.name)
        return output.level_sizes

    def assign(self, targets: Sequence[Targets], input_size: Size) -> Assignment:
        """Which anchor learns which object of B images; targets in input pixels, on the model's device.

        DataError for a label that is none of the classes; labels on a GPU are not looked at, for the program would wait for it.
        """
        for number, target in enumerate(targets):
            if target.labels.device.type == "cpu":
                check_labels(target.labels, len(self.config.classes), where=f"targets[{number}]")
        return assign(self.config.assigner, self.anchors(input_size), targets, levels=self.level_counts(input_size))

    def loss(
        self, output: HeadOutput, targets: Sequence[Targets] | Assignment, *, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"cls": (), "box": ()}: what to minimise is their sum.

        targets: one per image, in input pixels, or their assignment. ``normalizer``: the divisor of a larger batch (several
        processes or accumulated steps) that these images are part of; their own if left out.
        """
        assignment = targets if isinstance(targets, Assignment) else self.assign(targets, output.input_size)
        return self.config.loss(output, assignment, self.config.coder, normalizer=normalizer)

    @torch.no_grad()
    def decode(self, output: HeadOutput, metas: Sequence[ImageMeta], *, score: float | None = None) -> list[Detections]:
        """One Detections per image, in pixels of the original pictures. ``score`` replaces the config's score threshold."""
        postprocess = self.config.postprocess
        if score is not None:
            postprocess = replace(postprocess, score_threshold=score)
        anchors, levels = self._anchors_and_levels(output.input_size)
        activation = self.config.loss.activation
        frames = torch.stack([meta.frame for meta in metas]).to(anchors.device)
        found = postprocess(output, anchors, self.config.coder, activation=activation, levels=levels, frames=frames)
        return [self._name(f, meta) for f, meta in zip(found, metas, strict=True)]

    def _name(self, found: RawDetections, meta: ImageMeta) -> Detections:
        labels = found.labels.cpu()
        names, ids = self.config.classes, self.config.category_ids
        return Detections(
            boxes=meta.undo(found.boxes.cpu()),
            scores=found.scores.cpu(),
            labels=labels,
            class_names=tuple(names[i] for i in labels.tolist()),
            category_ids=tuple(ids[i] for i in labels.tolist()),
            size=meta.original,
            image_id=meta.image_id,
            path=meta.path,
        ).clipped()

    @known_keywords
    def predict(self, images: Any, *, score: float | None = None, batch_size: int = 8) -> list[Detections]:
        """Detect objects in one picture or a list of them; always a list, one Detections per picture.

        A picture is a path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W), RGB; 0..255 in uint8.
        ``score``: the least score to report; the config's own threshold if left out. Raises DataError naming an unreadable
        picture.
        """
        several = images if isinstance(images, list | tuple) else [images]
        require(batch_size >= 1, "predict takes at least one picture at a time", got=batch_size)
        found: list[Detections] = []
        for start in range(0, len(several), batch_size):
            part = several[start : start + batch_size]
            pictures = [_picture(image) for image in part]
            inputs, metas = self.prepare(pictures)
            self.anchors((inputs.shape[2], inputs.shape[3]))  # tells of a size that the network cannot take
            with evaluating(self), torch.inference_mode():
                output = self(inputs)
            detections = self.decode(output, metas, score=score)  # outside: its tensors are ordinary ones
            found += [_with_source(d, i, p) for d, i, p in zip(detections, part, pictures, strict=True)]
        return found

    @known_keywords
    def save(self, path: str | Path) -> None:
        """Write weights, config, class names and ids to one safetensors file, atomically."""
        from onestage.weights.detector_file import save_detector

        save_detector(self, path)


def with_levels(config: DetectorConfig) -> DetectorConfig:
    """The config with a rule for anchors replaced by the levels that follow from the maps of its own input."""
    if isinstance(config.anchors, tuple):
        return config
    size = config.preprocess.largest
    with torch.device("meta"):
        body = config.backbone.build()
        neck = config.neck.build(body.channels) if config.neck else nn.Identity()
    maps = dry_run(nn.Sequential(body, neck), size, where=config.name)
    return replace(config, anchors=config.anchors.levels([(m.shape[2], m.shape[3]) for m in maps], size))


def _picture(image: Any) -> Tensor:
    return decode_image(image) if isinstance(image, str | Path) else to_tensor(image)


def _with_source(detections: Detections, image: Any, picture: Tensor) -> Detections:
    """A path is read again when it is drawn, so that a long list of results holds no pictures."""
    if isinstance(image, str | Path):
        return replace(detections, source=partial(decode_image, image), path=str(image), image_id=Path(image).name)
    return replace(detections, source=partial(_itself, picture))


def _itself(picture: Tensor) -> Tensor:
    """A source that, unlike a lambda, travels between processes."""
    return picture
