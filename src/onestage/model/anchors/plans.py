"""Rules for anchors: a config may give a rule instead of all levels. The levels then follow from the maps.

Each kind of rule makes one ``AnchorLevel`` per map from the (height, width) of the maps and of the input. Cells are spread
evenly over the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from onestage.errors import require
from onestage.model.anchors.levels import AnchorLevel, check_sizes, default_boxes
from onestage.model.codec import Part
from onestage.model.limits import MANY_LEVELS, MANY_SHAPES, Octaves, Positive
from onestage.structures import Size

Aspects = tuple[tuple[Positive, Positive], ...]
"""Pairs of (width, height), as parts of the size of an anchor."""


@dataclass(frozen=True)
class OctaveAnchors(Part):
    """The same shapes in every cell, as in RetinaNet and EfficientDet (google/automl, efficientdet/tf2/anchors.py). The
    smallest anchor of a level has a side of ``scale`` strides. There are ``octaves`` sizes from it up to below its double, each
    in all ``aspects``.

    sizes: replaces ``scale``. It gives the smallest size of each level in input pixels, and one more. The remaining sizes of a
    level lie evenly between its smallest size and that of the next level.
    """

    scale: Positive = 4.0
    octaves: Octaves = 3
    aspects: Annotated[Aspects, MANY_SHAPES] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    sizes: Annotated[tuple[float, ...], MANY_LEVELS] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.aspects), "there is at least one aspect", got=self.aspects)

    def levels(self, maps: Sequence[Size], input_size: Size) -> tuple[AnchorLevel, ...]:
        """One level per map. maps and input_size: (height, width). Raise ConfigError unless ``sizes`` are one more than the
        maps.
        """
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
class SSDAnchors(Part):
    """SSD's default boxes (section 2.2), with its scales for COCO.

    sizes: in input pixels, one per level and one more. ratios: the aspect ratios of every level; their inverses are added. The
    default is 2 on the first and the last two levels, and 2 and 3 between them (section 3.1).
    """

    sizes: Annotated[tuple[float, ...], MANY_LEVELS] | None = None
    ratios: Annotated[tuple[Positive, ...], MANY_SHAPES] | None = None

    def levels(self, maps: Sequence[Size], input_size: Size) -> tuple[AnchorLevel, ...]:
        """One level per map. maps and input_size: (height, width). Raise ConfigError unless ``sizes`` are one more than the
        maps.
        """
        return default_boxes(input_size, [None] * len(maps), self.sizes, self.ratios)


AnchorPlan = OctaveAnchors | SSDAnchors
