"""Objects counted by class, in the whole picture and in zones of it.

Shape letters: D detections, V corners of a polygon, H and W of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onestage.errors import ConfigError
from onestage.structures import Detections, Size

WHOLE = "whole picture"
"""The name of the zone that every picture has."""

Spot = Literal["foot", "centre"]
"""The point of a box that is in a zone or not: the middle of its lower edge, where the object stands, or the box's centre."""

_EXPECTED = "NAME=X,Y,X,Y,X,Y: three corners or more"
_FIX = "such as --zone left=0,0,0.5,0,0.5,1,0,1 for the left half"


@dataclass(frozen=True)
class Zone:
    """A named polygon. corners: (x, y) each, V of them, in pixels of a picture or, if ``relative``, in parts of its width and
    height. It may cross itself: a point is inside if a line from it to the far right meets an odd number of edges.
    """

    name: str
    corners: tuple[tuple[float, float], ...]
    relative: bool

    @classmethod
    def read(cls, text: str) -> Zone:
        """The zone that a user writes: NAME=X,Y,X,Y,X,Y. If no number is above 1 they are parts of the picture. Raise
        ConfigError if that is none.
        """
        name, equals, rest = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError("a zone has a name and corners", where="--zone", got=text, expected=_EXPECTED, fix=_FIX)
        if name == WHOLE:
            raise ConfigError("this name means all of the picture", where="--zone", got=text, fix="choose another name")
        numbers = _numbers(name, rest)
        corners = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        if len({*corners}) < 3 or not _has_area(corners):
            what = "all corners of a zone lie on one line"
            raise ConfigError(what, where=f"--zone {name}", got=rest, expected=_EXPECTED, fix=_FIX)
        return cls(name, corners, relative=max(numbers) <= 1)

    def polygon(self, size: Size) -> Tensor:
        """The corners (V, 2) as x, y in pixels of a picture of that size (H, W)."""
        corners = torch.tensor(self.corners, dtype=torch.float64)
        return corners * torch.tensor([size[1], size[0]]) if self.relative else corners

    def inside(self, found: Detections, spot: Spot = "foot") -> Tensor:
        """Which detections are in the zone: (D,) bool."""
        return inside(spots(found, spot), self.polygon(found.size))


def spots(found: Detections, spot: Spot) -> Tensor:
    """The points x, y of the boxes that count, (D, 2), in the pixels of the picture. A box that ends at the border of the
    picture, or beyond it, counts by the centre of the last pixel.
    """
    height, width = found.size
    boxes = found.boxes.detach().cpu().double()
    across = (boxes[:, 0] + boxes[:, 2]) / 2
    down = boxes[:, 3] if spot == "foot" else (boxes[:, 1] + boxes[:, 3]) / 2
    return torch.stack([across.clamp(0.5, width - 0.5), down.clamp(0.5, height - 0.5)], dim=1)


def inside(points: Tensor, polygon: Tensor) -> Tensor:
    """Which points (D, 2) are in a polygon (V, 2): (D,) bool.

    A point on an edge belongs to one side of it. So of two zones that share an edge exactly one has it.
    """
    x, y = points[:, None, 0], points[:, None, 1]
    (x1, y1), (x2, y2) = polygon.T, polygon.roll(-1, dims=0).T
    swap = y1 > y2  # an edge gives the same numbers from either end, to the last bit
    x1, y1, x2, y2 = x1.where(~swap, x2), y1.where(~swap, y2), x2.where(~swap, x1), y2.where(~swap, y1)
    crosses = (y1 <= y) & (y < y2)
    right = (x - x1) * (y2 - y1) < (x2 - x1) * (y - y1)
    return (crosses & right).sum(1) % 2 == 1


def count_in_zones(
    found: Detections, zones: Sequence[Zone], classes: Sequence[str], *, spot: Spot = "foot"
) -> dict[str, list[int]]:
    """How many objects of each class are in the picture, under WHOLE, and in each zone, under its name.

    classes: all names, by label.
    """
    masks = {WHOLE: torch.ones(len(found), dtype=torch.bool)} | {zone.name: zone.inside(found, spot) for zone in zones}
    labels = found.labels.cpu()
    return {name: torch.bincount(labels[mask], minlength=len(classes)).tolist() for name, mask in masks.items()}


def in_words(counts: Sequence[int], classes: Sequence[str]) -> str:
    """The numbers of objects of each class, for people: those above 0, the largest first."""
    rows = sorted(((count, name) for count, name in zip(counts, classes, strict=True) if count), key=lambda row: -row[0])
    return ", ".join(f"{count:,} {name}" for count, name in rows) or "nothing"


def _numbers(name: str, text: str) -> list[float]:
    """The coordinates of a zone. Raise ConfigError unless they are those of three corners or more, in one unit."""
    where = f"--zone {name}"
    try:
        numbers = [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError as error:
        raise ConfigError("the corners of a zone are numbers", where=where, got=text, expected=_EXPECTED, fix=_FIX) from error
    if len(numbers) % 2 or len(numbers) < 6:
        what, got = "a zone has three corners or more, of two numbers each", f"{len(numbers)} numbers"
        raise ConfigError(what, where=where, got=got, expected=_EXPECTED, fix=_FIX)
    if not all(0 <= number < 1e6 for number in numbers):
        what = "the corners of a zone lie in the picture: no number is below 0"
        raise ConfigError(what, where=where, got=text, fix="take 0 for what is left of the picture or above it")
    if max(numbers) > 1 and any(0 < number < 1 for number in numbers):
        what, fix = "a zone has corners in pixels or in parts of the picture, not in both", "whole pixels, or none above 1"
        raise ConfigError(what, where=where, got=text, fix=fix)
    return numbers


def _has_area(corners: Sequence[tuple[float, float]]) -> bool:
    """Whether some corner is off the line through two others."""
    x, y = corners[0]
    far = max(corners, key=lambda corner: math.dist(corner, corners[0]))
    return any(abs((far[0] - x) * (b - y) - (far[1] - y) * (a - x)) > 1e-9 for a, b in corners)
