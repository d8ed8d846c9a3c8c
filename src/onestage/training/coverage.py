"""How many objects of a data set some anchor of a detector reaches: in all, of each class, of each size, by each level.

Shape letters: M objects that count (neither difficult nor crowd regions), L levels, S anchor shapes of a level.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data import Dataset
from onestage.data.tallies import MEDIUM, SMALL, spans
from onestage.errors import counted
from onestage.files import Json
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import runs
from onestage.model.anchors.reach import REACHED, ROUNDING, distances, overlaps
from onestage.model.detector import Detector
from onestage.structures import ImageMeta, Size

GOOD, GOOD_IN_CLASS = 0.9, 0.7
"""Coverage below which training warns: of all objects, and of a class with ENOUGH objects (docs/training.md says why)."""
LARGEST = 640
"""The side of an input in pixels beyond which no rule goes."""
ENOUGH = 10
"""Objects of a class without which its share says nothing."""
AT_ONCE = 2**18
"""Objects that are placed at once: a data set of millions needs no more memory for it than this."""


@dataclass(frozen=True)
class Reached:
    """Of so many objects so many are reached by an anchor."""

    name: str
    objects: int
    reached: int

    @property
    def share(self) -> float:
        """The part that is reached, 0..1; 1 if there are no objects."""
        return self.reached / self.objects if self.objects else 1.0

    def __add__(self, other: Reached) -> Reached:
        """Of the objects of both, which have one name."""
        return Reached(self.name, self.objects + other.objects, self.reached + other.reached)

    @property
    def percent(self) -> str:
        """The share in whole per cent, rounded down, so that 100 % means all."""
        return f"{int(100 * self.share)} %"


@dataclass(frozen=True)
class Coverage:
    """The objects that some anchor reaches: with an IoU of 0.5 or more, after the model's resize and without augmentation.

    classes: one entry per class, in the order of the labels. sizes: small, medium and large, by the area in pixels of the
    original picture, as in COCO's evaluation. levels: the objects that an anchor of this level reaches, fine to coarse; several
    levels may reach an object. larger: whether a larger input would show most pictures with more of their pixels.
    """

    total: Reached
    classes: tuple[Reached, ...]
    sizes: tuple[Reached, ...]
    levels: tuple[Reached, ...]
    larger: bool = True

    @property
    def least(self) -> Reached | None:
        """The class that is reached least, among those with ENOUGH objects; None if there are none."""
        return min((part for part in self.classes if part.objects >= ENOUGH), key=lambda part: part.share, default=None)

    @property
    def poor(self) -> bool:
        """Whether too few objects are reached, in all or of some class."""
        return self.total.share < GOOD or (self.least is not None and self.least.share < GOOD_IN_CLASS)

    def to_dict(self) -> dict[str, Json]:
        """The numbers as plain data, for JSON."""
        data: dict[str, Json] = asdict(self)
        return data


class Group(NamedTuple):
    """Objects of pictures that have one input size. input: (height, width); maps: of every level; boxes (M, 4) xyxy input
    pixels; rows (M,): the objects among those of the data set.
    """

    input: Size
    maps: tuple[Size, ...]
    boxes: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class PlacedObjects:
    """The objects of a data set as they lie in a detector's input.

    labels (M,). area (M,): in pixels of the original pictures. rows (M,): their numbers among all objects of the data set.
    pictures: how many have a size; shrunk: of how many of them a larger input would show more pixels.
    """

    groups: tuple[Group, ...]
    labels: Tensor
    area: Tensor
    rows: Tensor
    classes: tuple[str, ...]
    pictures: int = 0
    shrunk: int = 0

    @classmethod
    def of(cls, model: Detector, data: Dataset) -> PlacedObjects:
        """Place all objects as in evaluation: without augmentation, each picture alone in its batch. No pixel is read.

        Objects of a picture whose size cannot be read are left out.
        """
        sizes = [data.size_of(index) for index in range(len(data))]
        metas = {size: model.config.preprocess.place(size) for size in sizes if size is not None}
        kinds = {size: kind for kind, size in enumerate(metas)}
        kind = torch.tensor([-1 if size is None else kinds[size] for size in sizes])[
            torch.repeat_interleave(data.offsets.diff())
        ]
        kept = (~(data.ignore | data.crowd) & (kind >= 0)).nonzero()[:, 0]
        boxes, kind = data.boxes[kept].double(), kind[kept]
        scales = torch.tensor([meta.scale[::-1] for meta in metas.values()], dtype=torch.float64)
        pads = torch.tensor([meta.pad[::-1] for meta in metas.values()], dtype=torch.float64)
        if len(boxes):
            boxes = boxes * scales[kind].repeat(1, 2) + pads[kind].repeat(1, 2)
        groups = []
        for input_size in dict.fromkeys(meta.input for meta in metas.values()):
            same = torch.tensor([meta.input == input_size for meta in metas.values()])
            rows = same[kind].nonzero()[:, 0]
            groups.append(Group(input_size, model.level_sizes(input_size), boxes[rows], rows))
        return cls(tuple(groups), data.labels[kept], data.area[kept], kept, data.classes, *_counts(sizes, metas))

    @property
    def larger(self) -> bool:
        """As in ``Coverage``."""
        return 2 * self.shrunk > self.pictures

    def apart(self, levels: Sequence[AnchorLevel]) -> tuple[Tensor, Tensor]:
        """Width and height of each object, (M, 2), and its distances across and down from the nearest cell of every level,
        (M, L, 2); float64 input pixels.
        """
        count = len(self.labels)
        extents, apart = torch.zeros(count, 2).double(), torch.zeros(count, len(levels), 2).double()
        for group in self.groups:
            extents[group.rows] = group.boxes[:, 2:] - group.boxes[:, :2]
            apart[group.rows] = distances(levels, group.maps, group.input, group.boxes)
        return extents, apart


def coverage_of(model: Detector, data: Dataset) -> Coverage:
    """The objects of a data set that the detector's anchors reach. Exact: every object is compared with every anchor shape."""
    levels, found, pictures, shrunk = model.config.levels, list[Coverage](), 0, 0
    for piece in pieces(data):
        objects = PlacedObjects.of(model, piece)
        found.append(coverage(levels, objects))
        pictures, shrunk = pictures + objects.pictures, shrunk + objects.shrunk
    return Coverage(
        total=_sum(one.total for one in found),
        classes=tuple(map(_sum, zip(*(one.classes for one in found), strict=True))),
        sizes=tuple(map(_sum, zip(*(one.sizes for one in found), strict=True))),
        levels=tuple(map(_sum, zip(*(one.levels for one in found), strict=True))),
        larger=2 * shrunk > pictures,
    )


def pieces(data: Dataset, *, most: int = AT_ONCE) -> Iterator[Dataset]:
    """The data set itself, or, if it has more than ``most`` objects, parts of consecutive pictures with no more than that; a
    picture with more is a part by itself.
    """
    if len(data.labels) <= most:
        yield data
        return
    for pictures, _ in spans(data, most=most):
        yield data.subset(range(pictures.start, pictures.stop))


def coverage(levels: Sequence[AnchorLevel], objects: PlacedObjects) -> Coverage:
    """The same for objects that are placed already, and anchors of these levels, fine to coarse."""
    hits = _overlaps(levels, *objects.apart(levels)) >= REACHED - ROUNDING  # (M, L)
    hit, area = hits.any(1), objects.area
    bounds = {"small": area < SMALL, "medium": (area >= SMALL) & (area < MEDIUM), "large": area >= MEDIUM}
    everything = torch.ones_like(hit)
    return Coverage(
        total=_reached("all", everything, hit),
        classes=tuple(_reached(name, objects.labels == label, hit) for label, name in enumerate(objects.classes)),
        sizes=tuple(_reached(name, which, hit) for name, which in bounds.items()),
        levels=tuple(_reached(f"level {i}", everything, hits[:, i]) for i in range(len(levels))),
        larger=objects.larger,
    )


def overlaps_of(model: Detector, data: Dataset) -> tuple[Tensor, Tensor]:
    """How the detector's anchors lie to all objects of a data set (N): the highest IoU with an anchor of each level, (N, L)
    float64, and whether the object has a smaller area than every anchor, (N,) bool.

    NaN and false for objects that do not count, and in pictures whose size cannot be read.
    """
    levels = model.config.levels
    least = min(width * height for level in levels for width, height in level.shapes)
    ious, smalls = list[Tensor](), list[Tensor]()
    for piece in pieces(data):
        objects, count = PlacedObjects.of(model, piece), len(piece.labels)
        extents, apart = objects.apart(levels)
        ious.append(torch.full((count, len(levels)), math.nan, dtype=torch.float64))
        smalls.append(torch.zeros(count, dtype=torch.bool))
        ious[-1][objects.rows] = _overlaps(levels, extents, apart)
        smalls[-1][objects.rows] = extents.prod(1) < least
    return torch.cat(ious), torch.cat(smalls)


def told(found: Coverage, *, fitted: bool = False) -> str:
    """A line for the user: ``anchors reach 93 % of 4,888 objects (Platelets least, 71 %)``, and what helps if that is poor.

    fitted: whether the anchors were fitted to these objects.
    """
    last = found.least
    least = f" ({last.name} least, {last.percent})" if last is not None and len(found.classes) > 1 and last.share < 1 else ""
    line = f"anchors reach {found.total.percent} of {counted(found.total.objects, 'object')}{least}"
    if not found.poor:
        return line
    helps = [] if fitted else ["--fit-anchors finds better shapes"]
    helps += ["a larger --size shows more of their pixels"] if found.larger else []
    return f"{line}: few; {', and '.join(helps) or 'a model with a finer map may reach more'}"


def _overlaps(levels: Sequence[AnchorLevel], extents: Tensor, apart: Tensor) -> Tensor:
    """extents (M, 2) and apart (M, L, 2) -> (M, L): the largest IoU of each object with an anchor of each level."""
    return torch.stack([_best(level, extents, apart[:, i]) for i, level in enumerate(levels)], dim=1)


def _best(level: AnchorLevel, extents: Tensor, apart: Tensor) -> Tensor:
    """extents and apart (M, 2) -> (M,): the largest IoU of each object with an anchor of the level."""
    shapes = torch.tensor(level.shapes, dtype=torch.float64)
    parts = [overlaps(extents[run], apart[run], shapes).amax(1) for run in runs(len(extents), len(shapes))]
    return torch.cat(parts) if parts else extents.new_zeros(0)


def _counts(sizes: Iterable[Size | None], metas: Mapping[Size, ImageMeta]) -> tuple[int, int]:
    """How many pictures have a size, and of how many of these a larger input would show more pixels."""
    counts = Counter(size for size in sizes if size is not None)
    return counts.total(), sum(count for size, count in counts.items() if _shows_less(metas[size]))


def _shows_less(meta: ImageMeta) -> bool:
    """Whether a picture has more pixels than the input shows, and the input is not the largest one."""
    return math.prod(meta.scale) < 1 and math.prod(meta.input) < LARGEST**2


def _sum(parts: Iterable[Reached]) -> Reached:
    """All together."""
    return reduce(add, parts)


def _reached(name: str, which: Tensor, hit: Tensor) -> Reached:
    """Count objects: which (M,) bool are meant, and hit (M,) bool, which are reached."""
    return Reached(name, int(which.sum()), int((which & hit).sum()))
