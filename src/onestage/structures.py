"""The types that flow between the rooms of the project.

Shape letters, the same in every file: B images, L levels, A anchors over all levels, C logits per anchor (K or K+1),
K foreground classes, N objects in one image, D detections. Boxes are xyxy float pixels, sizes are (height, width),
labels are 0..K-1. Pictures are RGB, uint8, (3, H, W).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import DataError, counted, known_keywords

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""


def _check_objects(what: str, boxes: Tensor, *columns: Tensor) -> None:
    """Raise DataError unless boxes is (N, 4) and every column has N rows."""
    shapes = [tuple(boxes.shape), *(tuple(c.shape) for c in columns)]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or any(s != (len(boxes),) for s in shapes[1:]):
        raise DataError(
            f"{what}: boxes, labels and flags do not line up", got=shapes, expected="(N, 4) boxes and (N,) for the rest"
        )


def check_labels(labels: Tensor, classes: int, *, where: object) -> None:
    """Raise DataError unless the labels, (N,), lie in 0..classes - 1. On a GPU it waits for all that is under way there."""
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
        _check_objects("Targets", self.boxes, self.labels, self.ignore)

    def to(self, device: torch.device | str) -> Targets:
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.ignore)))


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded picture and its objects, in its own pixels.

    image (3, H, W) uint8 RGB; boxes (N, 4) float32 with 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H; labels (N,) int64 in 0..K-1;
    ignore (N,) bool; image_id is the data set's own id.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: int | str
    path: str

    def __post_init__(self) -> None:
        _check_objects(f"Sample {self.image_id}", self.boxes, self.labels, self.ignore)


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
        """The picture fills the whole input, its two sides scaled each by itself."""
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
        """(4,) xyxy input pixels: where the picture lies; what is beside it is padding."""
        height, width = self.original
        return self.apply(torch.tensor([[0.0, 0.0, width, height]])).round()[0]

    def _scale_and_shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        (sy, sx), (top, left) = self.scale, self.pad
        return like.new_tensor([sx, sy, sx, sy]), like.new_tensor([left, top, left, top])


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size with their targets; every part has length B.

    images (B, 3, H, W), uint8 or float in 0..255, resized but not yet normalised: the detector normalises on its own device.
    """

    images: Tensor
    targets: tuple[Targets, ...]
    metas: tuple[ImageMeta, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.targets) == len(self.metas)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.images.to(device, non_blocking=True), tuple(t.to(device) for t in self.targets), self.metas)

    def pin_memory(self) -> Batch:
        return replace(self, images=self.images.pin_memory())


class HeadOutput(NamedTuple):
    """What the network says of every anchor, before any box logic. Rows are ordered (level, y, x, shape), as the anchors are.

    logits (B, A, C); deltas (B, A, 4) in the coder's units; level_sizes: (height, width) of each feature map, fine to coarse;
    input_size: (height, width) of the images that went in.
    """

    logits: Tensor
    deltas: Tensor
    level_sizes: tuple[Size, ...]
    input_size: Size


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one picture, for evaluation, in its own pixels; no pixels are read for it.

    boxes (N, 4) float32; labels (N,) int64; ignore (N,) bool: not counted either way (VOC difficult);
    crowd (N,) bool: a COCO crowd region; area (N,) float32 in pixels, which puts an object among small, medium or large
    (COCO gives the area of the outline, others the area of the box). size is (height, width), or None where nobody says it.
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
        _check_objects(f"Truth {self.image_id}", self.boxes, self.labels, self.ignore, self.crowd, self.area)


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What was found in one picture, best first.

    boxes (D, 4) xyxy float32 in pixels of the original picture; scores (D,) in 0..1, descending; labels (D,) int64 in 0..K-1;
    class_names and category_ids: the data set's own name and id of each label, D of each; size: the picture's (height, width).
    ``source`` gives the picture again, for drawing: a zero-argument function returning (3, H, W) uint8 RGB, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    size: Size
    image_id: int | str = ""
    path: str = ""
    source: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        _check_objects(f"Detections {self.image_id}", self.boxes, self.scores, self.labels)
        assert len(self.class_names) == len(self.category_ids) == len(self.boxes)

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        """Short: a picture may well have 300 detections. ``to_dict`` has them all."""
        counts = Counter(self.class_names)
        best = f", best score {float(self.scores[0]):.2f}" if len(self) else ""
        parts = ", ".join(f"{name} {count}" for name, count in counts.most_common(5)) + (", ..." if len(counts) > 5 else "")
        return f"Detections({len(self)}{': ' if len(self) else ''}{parts}{best})"

    def select(self, keep: Tensor) -> Detections:
        """Those rows that ``keep`` names: (D,) bool, or (M,) int64 indices in ascending order."""
        rows = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        names = tuple(self.class_names[i] for i in rows.tolist())
        ids = tuple(self.category_ids[i] for i in rows.tolist())
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            class_names=names,
            category_ids=ids,
        )

    @known_keywords
    def draw(self, image: Tensor | Image.Image | None = None, *, score: float = 0.0) -> Image.Image:
        """The picture with its boxes and labels drawn in, those of at least ``score``.

        Without ``image`` the picture that was predicted is used; DataError where that is not at hand.
        """
        from onestage.draw import draw_detections

        if image is None:
            if self.source is None:
                raise DataError("these detections do not know their picture", fix="pass it: detections.draw(image)")
            image = self.source()
        return draw_detections(image, self.select(self.scores >= score))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: boxes in pixels of the original picture, as [x1, y1, x2, y2]."""
        rows = zip(
            self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.class_names, self.category_ids, strict=True
        )
        return {
            "image_id": self.image_id,
            "path": self.path,
            "height": self.size[0],
            "width": self.size[1],
            "detections": [{"box": b, "score": s, "label": k, "class_name": n, "category_id": c} for b, s, k, n, c in rows],
        }

    def clipped(self) -> Detections:
        """The same detections with their boxes cut to the picture."""
        return replace(self, boxes=box_ops.clip(self.boxes, self.size))
