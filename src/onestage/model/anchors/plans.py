"""Anchors for whatever maps there are, by their rule: what a config says where nobody wants to write every level down.

Shape letters: L levels. Both kinds map the L maps' (height, width) and the input's to L ``AnchorLevel``s, cells spread evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onestage.errors import ConfigError, require
from onestage.model.anchors.levels import AnchorLevel, linear_scales, size_pairs, ssd_levels
from onestage.structures import Size

Aspects = tuple[tuple[float, float], ...]
"""(width, height) in parts of an anchor's size."""


@dataclass(frozen=True)
class OctaveAnchors:
    """The same shapes in every cell, as RetinaNet and EfficientDet have them (google/automl, efficientdet/tf2/anchors.py): the
    smallest of a level is ``scale`` strides large, ``octaves`` of them lead up to its double, each in all ``aspects``.

    sizes: the smallest of each level in input pixels, and one more, instead of ``scale``; the others lie evenly between it and
    the next.
    """

    scale: float = 4.0
    octaves: int = 3
    aspects: Aspects = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    sizes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require(self.scale > 0 and self.octaves >= 1, "scale is above 0, and there is at least one octave", got=self)
        rule = "aspects are (width, height) pairs above 0"
        require(bool(self.aspects) and min(map(min, self.aspects)) > 0, rule, got=self.aspects)

    def levels(self, maps: Sequence[Size], input_size: Size) -> tuple[AnchorLevel, ...]:
        """ConfigError where ``sizes`` are not one per map and one more."""
        steps = [(input_size[0] / rows, input_size[1] / columns) for rows, columns in maps]
        smallest, growth = [(self.scale * x, self.scale * y) for y, x in steps], [2.0] * len(maps)
        if self.sizes is not None:
            sizes = check_sizes(self.sizes, len(maps))
            smallest, growth = [(side, side) for side in sizes[:-1]], [b / a for a, b in pairwise(sizes)]
        levels = []
        for (w, h), grown, step in zip(smallest, growth, steps, strict=True):
            factors = [grown ** (i / self.octaves) for i in range(self.octaves)]
            levels.append(AnchorLevel(tuple((w * f * a, h * f * b) for f in factors for a, b in self.aspects), step))
        return tuple(levels)


@dataclass(frozen=True)
class SSDAnchors:
    """SSD's default boxes (section 2.2), with its scales for COCO. sizes: in input pixels, one per level and one more. ratios:
    of every level, each also inverted; left out, 2 on the first and the last two levels, 2 and 3 on the others (section 3.1).
    """

    sizes: tuple[float, ...] | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require(self.ratios is None or min(self.ratios, default=1) > 0, "ratios are above 0", got=self.ratios)

    def levels(self, maps: Sequence[Size], input_size: Size) -> tuple[AnchorLevel, ...]:
        """ConfigError where ``sizes`` are not one per map and one more."""
        return default_boxes(input_size, [None] * len(maps), self.sizes, self.ratios)


AnchorPlan = OctaveAnchors | SSDAnchors


def default_boxes(
    size: Size, strides: Sequence[float | None], box_sizes: Sequence[float] | None, ratios: Sequence[float] | None = None
) -> tuple[AnchorLevel, ...]:
    """As ``SSDAnchors``, for maps of these strides: None spreads the cells of a map evenly over the input of that size."""
    count = len(strides)
    sizes = [s * min(size) for s in coco_scales(count)] if box_sizes is None else check_sizes(box_sizes, count)
    own = [(2.0,) if i == 0 or i >= count - 2 else (2.0, 3.0) for i in range(count)]
    return ssd_levels(size_pairs(sizes), [ratios] * count if ratios is not None else own, strides=strides, clip=size)


def coco_scales(levels: int) -> list[float]:
    """SSD's default box scales for COCO, one more than levels, as parts of the input's shorter side: 0.07, then 0.15..0.87
    for up to six levels; 0.04, then 0.1..0.9 for more (SSD, section 3.4; SSD's code)."""
    first, smallest, largest = (0.07, 0.15, 0.87) if levels <= 6 else (0.04, 0.1, 0.9)
    middle = linear_scales(levels - 1, smallest, largest)
    step = (largest - smallest) / max(levels - 2, 1)
    return [first, *middle, largest + step]


def check_sizes(sizes: Sequence[float], levels: int) -> list[float]:
    """The sizes in pixels, one per level and one more; ConfigError where they are not."""
    if len(sizes) != levels + 1 or min(sizes) <= 0:
        what = "one anchor size per level and one more"
        raise ConfigError(what, got=list(sizes), expected=f"{levels + 1} sizes in pixels, above 0")
    return list(sizes)
