"""The types that flow between the rooms of the project.

Shape letters, the same in every file: B images, L levels, A anchors over all levels, C logits per anchor (K or K+1),
K foreground classes, N objects in one image, D detections. Boxes are xyxy float pixels, sizes are (height, width),
labels are 0..K-1. Pictures are RGB, uint8, (3, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from onestage.boxes import Size as Size
from onestage.boxes import check_rows
from onestage.detections import Detections as Detections
from onestage.errors import DataError, counted


class ClassSet(NamedTuple):
    """K classes in the order of their labels, or of a detector's outputs: the name of each, and the data set's id."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def sizes_of(maps: Sequence[Tensor]) -> tuple[Size, ...]:
    """(height, width) of each of the feature maps (B, C_l, H_l, W_l)."""
    return tuple((m.shape[2], m.shape[3]) for m in maps)


def check_labels(labels: Tensor, classes: int, *, where: object) -> None:
    """Raise DataError unless the labels, (N,), lie in 0..classes - 1. On a GPU it waits for all work of the GPU."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        expected = f"0 to {classes - 1} for {counted(classes, 'class')}; background is no class"
        raise DataError("a label that is none of the classes", where=where, got=int(wrong[0]), expected=expected)


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of one picture, in the pixels of the network's input.

    boxes (N, 4) xyxy float32; labels (N,) int64 in 0..K-1; ignore (N,) bool: neither an object nor background (crowds,
    difficult objects), all False when left out.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor = field(default=None)  # type: ignore[assignment]  # filled in below: never None afterwards

    def __post_init__(self) -> None:
        if self.ignore is None:
            object.__setattr__(self, "ignore", torch.zeros(len(self.labels), dtype=torch.bool, device=self.labels.device))
        check_rows("Targets", self.boxes, self.labels, self.ignore)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on that device."""
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.ignore)))


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded picture and its objects, in pixels of that picture.

    image (3, H, W) uint8 RGB; boxes (N, 4) float32 with 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H; labels (N,) int64 in 0..K-1;
    ignore (N,) bool; image_id is the id in the data set.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: int | str
    path: str

    def __post_init__(self) -> None:
        check_rows(f"Sample {self.image_id}", self.boxes, self.labels, self.ignore)


@dataclass(frozen=True)
class ImageMeta:
    """How a picture of size ``original`` lies in the network's input of size ``input``; all sizes (height, width).

    A point (x, y) of the picture lies at (x * scale[1] + pad[1], y * scale[0] + pad[0]) of the input;
    pad is (top, left) in input pixels. Law: ``undo(apply(boxes)) == boxes`` up to float rounding.
    """

    original: Size
    input: Size
    scale: tuple[float, float]
    pad: tuple[int, int]
    image_id: int | str = ""
    path: str = ""

    @classmethod
    def stretched(cls, original: Size, input: Size) -> Self:
        """The picture fills the whole input. Each side has its scale."""
        return cls(original, input, scale=(input[0] / original[0], input[1] / original[1]), pad=(0, 0))

    def apply(self, boxes: Tensor) -> Tensor:
        """(N, 4) picture pixels -> (N, 4) input pixels."""
        scale, shift = self._scale_and_shift(boxes)
        return boxes * scale + shift

    def undo(self, boxes: Tensor) -> Tensor:
        """(N, 4) input pixels -> (N, 4) picture pixels, not clipped."""
        scale, shift = self._scale_and_shift(boxes)
        return (boxes - shift) / scale

    @property
    def frame(self) -> Tensor:
        """(4,) xyxy input pixels: where the picture lies. The rest is padding."""
        height, width = self.original
        return self.apply(torch.tensor([[0.0, 0.0, width, height]], dtype=torch.float32, device="cpu")).round()[0]

    def _scale_and_shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        (sy, sx), (top, left) = self.scale, self.pad
        return like.new_tensor([sx, sy, sx, sy]), like.new_tensor([left, top, left, top])


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size with their targets; every part has length B.

    images (B, 3, H, W), uint8 or float in 0..255, resized but not yet normalised: the detector normalises them on its device.
    """

    images: Tensor
    targets: tuple[Targets, ...]
    metas: tuple[ImageMeta, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.targets) == len(self.metas)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with images (B, 3, H, W) and targets on that device."""
        return Batch(self.images.to(device, non_blocking=True), tuple(t.to(device) for t in self.targets), self.metas)

    def pin_memory(self) -> Batch:
        """The same batch with images (B, 3, H, W) in pinned memory, from which a GPU copies faster."""
        return replace(self, images=self.images.pin_memory())


class HeadOutput(NamedTuple):
    """The outputs of the network for every anchor, before boxes are computed. Rows are ordered (level, y, x, shape), like the
    anchors.

    logits (B, A, C); deltas (B, A, 4) in the coder's units; level_sizes: (height, width) of each feature map, fine to coarse;
    input_size: (height, width) of the images that went in.
    """

    logits: Tensor
    deltas: Tensor
    level_sizes: tuple[Size, ...]
    input_size: Size


@dataclass(frozen=True, eq=False)
class Truth:
    """The true objects of one picture, for evaluation, in pixels of that picture. The picture itself is not read.

    boxes (N, 4) float32; labels (N,) int64; ignore (N,) bool: not counted either way (VOC difficult); crowd (N,) bool: a COCO
    crowd region; area (N,) float32 in pixels, which puts an object among small, medium or large (COCO gives the area of the
    outline; in other formats it is the area of the box). size is (height, width), or None if it is unknown.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    crowd: Tensor
    area: Tensor
    image_id: int | str
    path: str = ""
    size: Size | None = None

    def __post_init__(self) -> None:
        check_rows(f"Truth {self.image_id}", self.boxes, self.labels, self.ignore, self.crowd, self.area)
