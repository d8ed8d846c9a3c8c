"""How well anchors reach objects: the IoU of each object with the best anchor of every shape.

Shape letters: N objects, S anchor shapes, L levels of H_l x W_l cells, ... any dimensions. Boxes and distances are input
pixels.

The anchors of one shape stand on a grid. The overlap of two boxes with given sides shrinks as their centres move apart, across
or down. So the best anchor of a shape is the one in the cell nearest to the object, and no other cell has to be compared. The
result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.levels import AnchorLevel
from onestage.structures import Size

REACHED = 0.5
"""The least IoU with which an anchor reaches an object: that at which SSD and RetinaNet learn it (SSD, section 2.2)."""
ROUNDING = 1e-6
"""Anchors are float32, so an IoU is known to about that."""


def distances(levels: Sequence[AnchorLevel], level_sizes: Sequence[Size], input_size: Size, boxes: Tensor) -> Tensor:
    """boxes (N, 4) xyxy -> (N, L, 2) float64: how far, across and down, each lies from the nearest cell of every level."""
    centres = box_ops.to_cxcywh(boxes.double())[:, :2]
    found = []
    for level, cells in zip(levels, level_sizes, strict=True):
        y, x = level.centres(cells, input_size)
        found.append(torch.stack([_distance(centres[:, 0], x), _distance(centres[:, 1], y)], dim=1))
    return torch.stack(found, dim=1)


def _distance(values: Tensor, centres: Tensor) -> Tensor:
    """(N,) and rising (cells,) -> (N,): from each value to the nearest centre."""
    nearest = torch.bucketize(values.contiguous(), (centres[1:] + centres[:-1]) / 2)
    return (values - centres[nearest]).abs()


def overlaps(extents: Tensor, apart: Tensor, shapes: Tensor) -> Tensor:
    """The IoU of N objects with anchors, (..., N, S), 0..1.

    extents (N, 2): width and height of the objects. apart (N, 2): from their centres to those of the anchors, across and down.
    shapes (..., S, 2): width and height of the anchors.
    """
    common = _common(0, extents, apart, shapes).mul_(_common(1, extents, apart, shapes))
    total = extents.prod(1)[:, None] + shapes.prod(-1)[..., None, :]
    return common / total.sub_(common)


def _common(axis: int, extents: Tensor, apart: Tensor, shapes: Tensor) -> Tensor:
    """The length that both have in common along one axis, (..., N, S)."""
    sides, shape = extents[:, axis, None], shapes[..., None, :, axis]
    meeting = ((sides + shape) / 2).sub_(apart[:, axis, None])
    return meeting.minimum(sides).minimum(shape).clamp_(min=0)
