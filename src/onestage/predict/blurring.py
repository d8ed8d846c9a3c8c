"""Objects made unrecognisable: faces, number plates.

Shape letters: D detections, H and W of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.structures import Detections

CELLS = 5
"""The most cells along the longer side of a box: each has one colour, so at most 25 colours are left of a face."""

MARGIN = 0.15
"""What is blurred around a box, on each side, in parts of its longer side: a box may be a little too small."""

STEP = 16
"""The colours of cells are multiples of this. Then a small change of an object shows in no cell, and trying out texts does not
find that of a plate.
"""


@dataclass(frozen=True)
class Blur:
    """Replace objects of some classes by a few cells of one colour each. labels: of these classes."""

    labels: tuple[int, ...]

    def __call__(self, found: Detections, image: Tensor) -> Tensor:
        """A copy of the picture (3, H, W) uint8 in which these objects are blurred."""
        chosen = torch.isin(found.labels.cpu(), torch.tensor(self.labels, dtype=torch.int64))
        blurred = image.clone()
        for x1, y1, x2, y2 in _regions(found.boxes.detach().cpu()[chosen], (image.shape[1], image.shape[2])):
            blurred[:, y1:y2, x1:x2] = pixelated(blurred[:, y1:y2, x1:x2])
        return blurred


def pixelated(region: Tensor) -> Tensor:
    """A region (3, H, W) uint8 as cells of one colour: at most CELLS along its longer side, nearly square."""
    height, width = region.shape[1:]
    side = max(height, width) / CELLS
    rows, columns = _edges(height, side), _edges(width, side)
    pixels = region.numpy().astype(np.uint32)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows[:-1], axis=1), columns[:-1], axis=2)
    means = sums / np.outer(np.diff(rows), np.diff(columns))
    colours = np.minimum(np.round(means / STEP) * STEP, 255).astype(np.uint8)
    return torch.from_numpy(colours.repeat(np.diff(rows), axis=1).repeat(np.diff(columns), axis=2))


def _edges(length: int, side: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where the cells of a side begin and end, in pixels from 0 to its length."""
    count = max(1, min(length, int(length / side + 1e-6)))
    return np.linspace(0, length, count + 1).round().astype(np.int64)


def _regions(boxes: Tensor, size: tuple[int, int]) -> list[list[int]]:
    """The boxes (D, 4) with their margin, in whole pixels of a picture of that size (H, W); those beside it are left out."""
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    margin = (MARGIN * longer).clamp(min=2)
    wide = torch.cat([(boxes[:, :2] - margin).floor(), (boxes[:, 2:] + margin).ceil()], dim=1)
    regions: list[list[int]] = box_ops.clip(wide, size).long().tolist()
    return [region for region in regions if region[0] < region[2] and region[1] < region[3]]
