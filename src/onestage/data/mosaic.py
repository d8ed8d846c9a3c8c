"""Mosaic: four pictures share one input (YOLOv4, arXiv 2004.10934, section 3.3).

The input is cut at a random point into four cells. Each cell shows a region of a picture, at the size at which the picture
alone would be shown, or at one that ``scale_jitter`` draws. A region larger than its picture holds all of it, with the fill
colour around. So each picture is cut out, resized and recoloured once, into its cell, and only one is decoded at a time.

Shape letters: N objects of one picture, M objects of the mosaic; H, W a picture, h, w the input. Boxes are xyxy pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.transforms import (
    Prepared,
    TrainTransform,
    View,
    canvas_of,
    draw_mirrors,
    draw_zoom,
    place_region,
    stretch,
)
from onestage.data.undecoded import Undecoded
from onestage.structures import ImageMeta, Sample, Size, Targets

PICTURES = 4
MEETING = (0.3, 0.7)
"""Where the cells may meet, as a part of the input's height and width."""
VISIBLE = 0.2
"""The share of an object's area that a cell has to show: the object is dropped if it shows less."""


class Mosaic:
    """One input made of four pictures, which are added one after the other. The first one decides the size of the input.

    transform: says how large pictures are shown, their colours and mirror images. pictures: the numbers of the four: ``first``
    and three drawn by ``generator`` ``among`` so many pictures of a data set, or among the pictures of these numbers.
    """

    def __init__(self, transform: TrainTransform, *, first: int, among: int | Tensor, generator: torch.Generator) -> None:
        self._transform = transform
        drawn = torch.randint(among if isinstance(among, int) else len(among), (PICTURES - 1,), generator=generator)
        self.pictures: list[int] = [first, *(drawn if isinstance(among, int) else among[drawn]).tolist()]
        low, high = MEETING
        self._meeting = (low + (high - low) * torch.rand(2, generator=generator)).tolist()
        self._canvas = torch.empty(0)
        self._meta = ImageMeta((0, 0), (0, 0), (1, 1), (0, 0))
        self._targets: list[Targets] = []

    def add(self, sample: Sample | Undecoded, generator: torch.Generator) -> Targets:
        """Show a region of a picture (3, H, W) with boxes (N, 4) in the next cell. Return the objects in it."""
        place, augment = self._transform.place, self._transform.augment
        meta = place(sample.size)
        if not self._targets:
            self._meta = replace(ImageMeta.stretched(meta.input, meta.input), image_id=sample.image_id, path=sample.path)
            self._canvas = canvas_of(self._transform.fill, meta.input, like=torch.empty(0, dtype=torch.uint8))
        (top, left), cell = self._cell(len(self._targets))
        zoom = draw_zoom(augment.scale_jitter, generator)
        shown = (round(cell[0] / (zoom * meta.scale[0])), round(cell[1] / (zoom * meta.scale[1])))
        region = draw_mirrors(place_region(sample.size, shown, generator), augment, generator)
        view = self._transform.view(sample, region, stretch(cell))
        self._canvas[:, top : top + cell[0], left : left + cell[1]] = self._transform.pixels(sample, view, generator)
        self._targets.append(_seen(sample, view, torch.tensor([left, top, left, top]), augment.min_size))
        return self._targets[-1]

    def prepared(self) -> Prepared:
        """The input (3, h, w) and its objects (M, 4), once all four pictures are added. The meta names the first picture."""
        assert len(self._targets) == PICTURES
        columns = zip(*((targets.boxes, targets.labels, targets.ignore) for targets in self._targets), strict=True)
        return self._canvas, Targets(*(torch.cat(column) for column in columns)), self._meta

    def _cell(self, number: int) -> tuple[tuple[int, int], Size]:
        """(top, left) and (height, width) of a cell: 0 and 1 are the upper ones, 0 and 2 the left ones."""
        height, width = self._meta.input
        y, x = (min(max(round(part * side), 1), side - 1) for part, side in zip(self._meeting, (height, width), strict=True))
        lower, right = divmod(number, 2)
        return (y * lower, x * right), (height - y if lower else y, width - x if right else x)


def _seen(sample: Sample | Undecoded, view: View, corner: Tensor, min_size: float) -> Targets:
    """The objects of which a view shows enough, in pixels of the input. corner (4,): left, top, left, top of its cell.

    An ignored object stays if any part of it is visible: that part is no background either.
    """
    boxes = view.boxes(sample.boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    visible = box_ops.cover(sample.boxes, sample.boxes.new_tensor([view.region.box]))[:, 0] >= VISIBLE
    keep = (visible | sample.ignore) & (sides > 0).all(1) & (sides >= min_size).all(1)
    return Targets(boxes[keep] + corner, sample.labels[keep], sample.ignore[keep])
