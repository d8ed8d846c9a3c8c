"""Anchors (SSD's "default boxes"): the shapes at every cell of every feature map.

Shape letters: H_l x W_l cells of level l, S shapes per cell, A anchors over all levels. A shape is (width, height) in input
pixels. "Aspect ratio" means width / height and stays inside the builders. Rows are ordered (level, y, x, shape), like the
outputs of the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Annotated, Literal

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import ConfigError, require
from onestage.model.codec import Part
from onestage.model.limits import MANY_SHAPES
from onestage.structures import Size

_KEPT_SIZES = 32
"""The number of input sizes for which the anchors are kept."""


@dataclass(frozen=True)
class AnchorLevel(Part):
    """The S anchor shapes of one feature map, and the distance between its cells.

    shapes: (width, height) pairs in input pixels. stride: (y, x) input pixels from the centre of one cell to the next. None
    spreads the cells evenly over the input, whatever the size of the map. "floor" does the same in whole pixels, rounded down,
    as torchvision's generator does (at 800x1088 its coarsest anchors end 84 pixels short). offset: where the first centre lies,
    in strides. inside: centres beyond the border of the input are moved onto it; large strides lead there. The SSDs of
    pytorch-ssd, ssd.pytorch and SSD (lufficc) do this.
    """

    shapes: Annotated[tuple[tuple[float, float], ...], MANY_SHAPES]
    stride: tuple[float, float] | Literal["floor"] | None = None
    offset: float = 0.5
    inside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        apart = self.stride if isinstance(self.stride, tuple) else (1.0, 1.0)
        sides = [side for shape in (*self.shapes, apart) for side in shape]
        require(bool(self.shapes) and min(sides) > 0, "anchor shapes and strides are above 0 pixels", got=self)

    def steps(self, level_size: Size, input_size: Size) -> tuple[float, float]:
        """(y, x) pixels between the centres of neighbouring cells, for a map of that size."""
        if isinstance(self.stride, tuple):
            return self.stride
        y, x = (side / cells for side, cells in zip(input_size, level_size, strict=True))
        return (float(int(y)), float(int(x))) if self.stride == "floor" else (y, x)

    def centres(self, level_size: Size, input_size: Size) -> tuple[Tensor, Tensor]:
        """y of the centres of the H_l rows and x of those of the W_l columns, (H_l,) and (W_l,) float64 input pixels, rising.

        Centres lie at (i + offset) * stride (SSD, section 2.2: (i + 0.5) / f_k of the input).
        """
        steps = self.steps(level_size, input_size)
        y, x = (
            (torch.arange(cells, dtype=torch.float64, device="cpu") + self.offset) * step
            for cells, step in zip(level_size, steps, strict=True)
        )
        return (y.clamp(0, input_size[0]), x.clamp(0, input_size[1])) if self.inside else (y, x)


def grid(level: AnchorLevel, level_size: Size, input_size: Size) -> Tensor:
    """Every shape of the level, centred at every cell of its map: (A_l, 4) xyxy input pixels, with A_l = H_l * W_l * S."""
    y, x = level.centres(level_size, input_size)
    shapes = torch.tensor(level.shapes, dtype=torch.float64, device="cpu")
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None].expand(-1, -1, len(shapes), -1)
    extents = shapes.expand(*level_size, -1, -1)
    return box_ops.from_cxcywh(torch.cat([centres, extents], dim=-1)).reshape(-1, 4).float()


def anchor_boxes(levels: Sequence[AnchorLevel], level_sizes: Sequence[Size], input_size: Size) -> Tensor:
    """The anchors of all levels, fine to coarse: (A, 4) xyxy input pixels. They may reach over the border of the input."""
    return torch.cat([grid(level, size, input_size) for level, size in zip(levels, level_sizes, strict=True)])


class Anchors:
    """All anchors of a detector, for inputs of any size. Those of recent sizes are kept.

    It is safe for threads: entries are only added, and a full collection is replaced by an empty one.
    """

    def __init__(self, levels: tuple[AnchorLevel, ...]) -> None:
        """levels: fine to coarse."""
        self.levels = levels
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def __reduce__(self) -> tuple[type[Anchors], tuple[tuple[AnchorLevel, ...]]]:
        """A copy starts empty, also in another process: the original may grow while it is copied."""
        return Anchors, (self.levels,)

    def boxes(self, level_sizes: Sequence[Size], input_size: Size, device: torch.device) -> Tensor:
        """(A, 4) xyxy input pixels, on the device. level_sizes: (height, width) of each map, fine to coarse."""
        kept, key = self._kept, (tuple(level_sizes), input_size, device)
        if key not in kept:
            with torch.inference_mode(False):  # training may use them later
                boxes = anchor_boxes(self.levels, level_sizes, input_size).to(device)
            if len(kept) >= _KEPT_SIZES:
                self._kept = kept = {}
            kept[key] = boxes
        return kept[key]

    def counts(self, level_sizes: Sequence[Size]) -> tuple[int, ...]:
        """The number of anchors on each map, fine to coarse. level_sizes: (height, width) of each."""
        return tuple(h * w * len(level.shapes) for (h, w), level in zip(level_sizes, self.levels, strict=True))


def ssd_levels(
    sizes: Sequence[tuple[float, float]],
    ratios: Sequence[Sequence[float]],
    *,
    strides: Sequence[float | None] | None = None,
    clip: Size | None = None,
) -> tuple[AnchorLevel, ...]:
    """SSD's default boxes (section 2.2), one level per entry of ``sizes`` and ``ratios``.

    A level with sizes (s, s') and ratios (r, ...) has these shapes: square s, square s', then for every r the boxes of area s^2
    that are r times as wide as high, and r times as high as wide. Sizes and strides are input pixels; None as a stride spreads
    the cells evenly. ``clip`` cuts widths and heights to the input (height, width), as torchvision does.
    """
    limit_h, limit_w = clip or (math.inf, math.inf)
    levels = []
    for (small, between), level_ratios, stride in zip(sizes, ratios, strides or [None] * len(sizes), strict=True):
        shapes = [(small, small), (between, between)]
        for ratio in level_ratios:
            long, short = small * math.sqrt(ratio), small / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        clipped = tuple((min(w, limit_w), min(h, limit_h)) for w, h in shapes)
        levels.append(AnchorLevel(clipped, None if stride is None else (stride, stride)))
    return tuple(levels)


def size_pairs(sizes: Sequence[float]) -> list[tuple[float, float]]:
    """(s_k, sqrt(s_k * s_k+1)) for each of m levels, from m + 1 sizes: SSD's extra square box (section 2.2)."""
    return [(a, math.sqrt(a * b)) for a, b in pairwise(sizes)]


def linear_scales(levels: int, smallest: float = 0.2, largest: float = 0.9) -> list[float]:
    """SSD eq. (4): ``levels`` scales, evenly from the smallest to the largest, as parts of the input's side."""
    return [smallest + (largest - smallest) * k / max(levels - 1, 1) for k in range(levels)]


def default_boxes(
    size: Size, strides: Sequence[float | None], box_sizes: Sequence[float] | None, ratios: Sequence[float] | None = None
) -> tuple[AnchorLevel, ...]:
    """SSD's default boxes with its scales for COCO, for maps with these strides. None as a stride spreads the cells of a map
    evenly over the input.
    """
    count = len(strides)
    sizes = [s * min(size) for s in coco_scales(count)] if box_sizes is None else check_sizes(box_sizes, count)
    usual = [(2.0,) if i == 0 or i >= count - 2 else (2.0, 3.0) for i in range(count)]
    return ssd_levels(size_pairs(sizes), usual if ratios is None else [ratios] * count, strides=strides, clip=size)


def coco_scales(levels: int) -> list[float]:
    """SSD's default box scales for COCO, one more than levels, as parts of the shorter side of the input: 0.07, then 0.15..0.87
    for up to six levels; 0.04, then 0.1..0.9 for more (SSD, section 3.4; SSD's code).
    """
    first, smallest, largest = (0.07, 0.15, 0.87) if levels <= 6 else (0.04, 0.1, 0.9)
    middle = linear_scales(levels - 1, smallest, largest)
    step = (largest - smallest) / max(levels - 2, 1)
    return [first, *middle, largest + step]


def check_sizes(sizes: Sequence[float], levels: int) -> list[float]:
    """The sizes in pixels as a list. Raise ConfigError unless there is one per level and one more, all above 0."""
    if len(sizes) != levels + 1 or min(sizes) <= 0:
        what = "one anchor size per level and one more"
        raise ConfigError(what, got=list(sizes), expected=f"{levels + 1} sizes in pixels, above 0")
    return list(sizes)


def octave_levels(
    strides: Sequence[float],
    *,
    scale: float = 4.0,
    octaves: int = 3,
    aspects: Sequence[tuple[float, float]] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
    ratio_major: bool = False,
    whole_pixels: bool = False,
    offset: float = 0.5,
) -> tuple[AnchorLevel, ...]:
    """RetinaNet's and EfficientDet's anchors, one level per stride: squares of side scale * stride * 2^(i / octaves) for i from
    0 to octaves - 1, each stretched by every (width, height) factor of ``aspects`` (RetinaNet, section 4; EfficientDet's code:
    1.4 and 0.7).

    Shapes are ordered (octave, aspect), or (aspect, octave) with ``ratio_major``, as in torchvision's RetinaNet. whole_pixels:
    torchvision rounds sides down to whole pixels, then half of each shape to the nearest whole number.
    """
    levels = []
    for stride in strides:
        sides = [scale * stride * 2 ** (i / octaves) for i in range(octaves)]
        if whole_pixels:
            sides = [float(int(side)) for side in sides]
        pairs = [(side, aspect) for aspect, side in product(aspects, sides)] if ratio_major else product(sides, aspects)
        shapes = [(side * w, side * h) for side, (w, h) in pairs]
        if whole_pixels:
            shapes = [(2.0 * round(w / 2), 2.0 * round(h / 2)) for w, h in shapes]
        levels.append(AnchorLevel(tuple(shapes), (float(stride), float(stride)), offset))
    return tuple(levels)


def ratio_aspects(*ratios: float) -> tuple[tuple[float, float], ...]:
    """(width, height) factors of area 1 for height / width ratios: RetinaNet's 1/2, 1 and 2 (section 4)."""
    return tuple((1 / math.sqrt(r), math.sqrt(r)) for r in ratios)
