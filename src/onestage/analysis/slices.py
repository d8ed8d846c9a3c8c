"""Which objects are found less often than others: by class, size, shape, neighbours, the border of the picture and brightness.

Shape letters: N detections, G true objects, P pictures, K classes, M pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.analysis.kinds import CLS, HIT, LOC, Kinds
from onestage.analysis.pairs import best_of, neighbours
from onestage.metrics.tables import Bools, Floats, Table

BORDER = 1.0
"""An object whose box comes so near to the border of the picture, in pixels, is taken as cut by it."""

QUANTILE = 1.959963984540054
"""Of the normal distribution, for an interval of 95 %."""


class Scale(NamedTuple):
    """How a quality of objects is divided: a name for each part, and the limits between them. A limit is in the upper part."""

    names: tuple[str, ...]
    limits: tuple[float, ...]


SCALES = {
    "size": Scale(
        ("below 16 x 16 pixels", "16 x 16 to 32 x 32", "32 x 32 to 96 x 96", "from 96 x 96 on"), (16.0**2, 32.0**2, 96.0**2)
    ),
    "shape": Scale(
        (
            "3 times as high as wide or more",
            "higher than wide",
            "about square",
            "wider than high",
            "3 times as wide as high or more",
        ),
        (1 / 3, 2 / 3, 3 / 2, 3.0),
    ),
    "crowding": Scale(
        (
            "no neighbour touches it",
            "a neighbour at IoU below .2",
            "a neighbour at IoU .2 to .5",
            "a neighbour at IoU .5 or more",
        ),
        (1e-9, 0.2, 0.5),
    ),
    "border": Scale(("inside the picture", "at its border"), (0.5,)),
    "brightness": Scale(("dark", "rather dark", "rather bright", "bright"), (64.0, 128.0, 192.0)),
}
"""The qualities. size: COCO's limits, and one more. shape: width / height. crowding: the highest IoU with another object of the
class. border: 1 at the border, else 0. brightness: the mean grey value of the pixels in the box, 0..255."""


@dataclass(frozen=True)
class Slice:
    """Objects that have a quality in common. found: how many of them a detection finds; low, high: the 95 % interval of their
    share (Wilson). mistaken: not found, but a detection of the wrong class, or in the wrong place, is meant for it.
    """

    name: str
    objects: int
    found: int
    mistaken: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The part that is found, 0..1; NaN if there is no object."""
        return self.found / self.objects if self.objects else math.nan


@dataclass(frozen=True)
class Quality:
    """All objects, divided by one quality. name: "class", or a key of SCALES."""

    name: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Slices:
    """Where objects are found and where not. Only detections of a score of at least ``score`` are looked at."""

    score: float
    iou: float
    qualities: tuple[Quality, ...]


def slices_of(
    table: Table,
    kinds: Kinds,
    *,
    score: float = 0.0,
    brightness: Mapping[int | str, Sequence[float]] | None = None,
) -> Slices:
    """Count which objects are found, by their qualities.

    brightness: of each object of a picture, by its id; 0..255, NaN where it is not known. Without it, that quality is absent.
    """
    found, mistaken = fate(table, kinds, score)
    values = {
        "class": table.true.label.astype(np.float64),
        "size": table.true.area,
        "shape": _shape(table),
        "crowding": _crowding(table, kinds.counted),
        "border": _at_border(table).astype(np.float64),
    }
    if brightness is not None:
        known = [brightness.get(image_id, ()) for image_id in table.image_ids]
        counts = np.bincount(table.true.picture, minlength=len(table.image_ids)).tolist()
        flat = [v for row, n in zip(known, counts, strict=True) for v in (list(row) if len(row) == n else [math.nan] * n)]
        values["brightness"] = np.array(flat, np.float64)
    scales = {"class": Scale(table.classes, tuple(np.arange(1.0, len(table.classes)).tolist())), **SCALES}
    qualities = [Quality(name, _divide(scales[name], v, kinds.counted, found, mistaken)) for name, v in values.items()]
    return Slices(score, kinds.iou, tuple(qualities))


def brightness_of(image: Tensor, boxes: Tensor) -> tuple[float, ...]:
    """The mean grey value, 0..255, of the pixels in each box; NaN for a box outside the picture or thinner than a pixel.

    image (3, H, W) uint8 RGB; boxes (N, 4) xyxy pixels. Grey is ITU-R BT.601's: .299 R + .587 G + .114 B.
    """
    sums = torch.zeros(image.shape[1] + 1, image.shape[2] + 1, dtype=torch.int64)  # of 1000 times the grey value
    for channel, weight in zip(image, (299, 587, 114), strict=True):  # one by one: a picture may be large
        sums[1:, 1:] += weight * channel.int()
    sums = sums.cumsum_(0).cumsum_(1)
    x1, y1, x2, y2 = box_ops.clip(boxes.double(), (image.shape[1], image.shape[2])).round().long().unbind(1)
    total = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return tuple((total / (1000 * (x2 - x1) * (y2 - y1)).double()).tolist())


def fate(table: Table, kinds: Kinds, score: float) -> tuple[Bools, Bools]:
    """(G,) the objects that a detection of at least that score finds; (G,) the others for which one is meant."""
    sure = table.found.score >= score
    found, meant = np.zeros((2, len(table.true)), np.bool_)
    found[kinds.target[sure & (kinds.kind == HIT)]] = True
    meant[kinds.target[sure & np.isin(kinds.kind, [CLS, LOC])]] = True
    return found, meant & ~found


def _shape(table: Table) -> Floats:
    """(G,) width / height; infinite for a box of no height, NaN for one of no extent."""
    width, height = (table.true.box[:, 2:] - table.true.box[:, :2]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return width / height


def _crowding(table: Table, counted: Bools) -> Floats:
    """(G,) the highest IoU of each object with another one of its class in its picture, both of which count; 0 if none."""
    rows = np.flatnonzero(counted)
    group = (table.true.picture * len(table.classes) + table.true.label)[rows]
    result, at = np.zeros(len(counted)), np.full(len(counted), -1)
    for mine, theirs, iou in neighbours(table, rows, group):
        best_of(mine, iou, np.ones(len(mine), np.bool_), best=result, at=at, theirs=theirs)
    return result


def _at_border(table: Table) -> Bools:
    """(G,) whether a side of the box is within BORDER of the border of its picture."""
    height, width = table.sizes[table.true.picture].T
    x1, y1, x2, y2 = table.true.box.T
    return (x1 < BORDER) | (y1 < BORDER) | (x2 > width - BORDER) | (y2 > height - BORDER)


def _divide(scale: Scale, value: Floats, counted: Bools, found: Bools, mistaken: Bools) -> tuple[Slice, ...]:
    """The objects in each part of the scale; those of unknown value (G,) are in none."""
    part = np.where(np.isnan(value), -1, np.searchsorted(scale.limits, value, side="right"))
    rows = []
    for i, name in enumerate(scale.names):
        mine = counted & (part == i)
        objects, hits = int(mine.sum()), int((mine & found).sum())
        rows.append(Slice(name, objects, hits, int((mine & mistaken).sum()), *wilson(hits, objects)))
    return tuple(rows)


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927, JASA 22, p. 209); (NaN, NaN) of nothing."""
    if not whole:
        return math.nan, math.nan
    share, z = part / whole, QUANTILE
    middle = share + z * z / (2 * whole)
    spread = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return max((middle - spread) / (1 + z * z / whole), 0.0), min((middle + spread) / (1 + z * z / whole), 1.0)
