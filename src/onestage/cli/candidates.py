"""The detectors among which ``onestage train`` chooses if the user names none, and the rule by which it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log, sqrt
from typing import NamedTuple

import torch

from onestage.data import Dataset
from onestage.model.cost import cost_of
from onestage.model.detector import Detector
from onestage.structures import Size
from onestage.training.coverage import LARGEST
from onestage.training.machine import Kernels, Machine, kernels_of
from onestage.training.rules import LOOKED_AT, TRAINING
from onestage.zoo.table import recipe


@dataclass(frozen=True)
class Candidate:
    """A detector that may be chosen.

    backbone: its timm name; None where it is part of the model. multiply_adds: of the network for one picture of 320x320
    pixels, in thousands of millions. kernels: what most of its larger kernels are. needs: pictures that it must see in a
    training from fresh weights, or from trained ones if it is ``trained``. stride: of its finest map, in pixels. gpu: whether
    it is for a GPU alone.
    """

    model: str
    backbone: str | None
    multiply_adds: float
    kernels: Kernels
    needs: int
    stride: int
    gpu: bool = False
    trained: bool = False

    def from_trained(self) -> Candidate:
        """The candidate where it starts from trained weights: it needs fewer pictures."""
        return replace(self, needs=round(TRAINED * self.needs), trained=True)


CANDIDATES = (
    Candidate("dssd", "timm/resnet50", 11.21, "dense", needs=20_000, stride=8, gpu=True),
    Candidate("dssd", "timm/resnet34", 9.07, "dense", needs=12_000, stride=8, gpu=True),
    Candidate("dssd", "timm/resnet18", 5.29, "dense", needs=8_000, stride=8),
    Candidate("dssd", "timm/regnetx_002", 1.79, "grouped", needs=3_500, stride=8),
    Candidate("ssdlite320_mobilenet_v3_large", None, 0.41, "depthwise", needs=4_000, stride=16),
    Candidate("tinyssd", None, 1.54, "dense", needs=3_000, stride=8),
)
"""The most able first."""
TRAINED = 1 / 3
"""The part of the pictures that a start from trained weights needs: from fresh ones, detectors needed three times the steps to
catch up (He et al., Rethinking ImageNet Pre-training, arXiv 1811.08883, figure 1).
"""
SIDES = (256, 320, 384, 448, 512, LARGEST)
"""Sides of the input in pixels. Multiples of 64 suit every neck."""
USUAL, USUAL_ON_GPU = 320, 512
"""The side, where the objects need no larger one."""
PLENTY = 1.4
"""With so many times the pictures that a detector needs, the next larger side is better than more pictures, on a CPU."""
CELLS = 2
"""Cells of the finest map that the typical object of the smallest class should span."""
RARE = 10
"""A class of fewer objects, or of less than a hundredth of all, does not decide the size of the input."""
HOUR = 3600.0
"""The time that a training should take where the user sets none, in seconds."""
WIDE = 1.5
"""If nearly all pictures are wider than high, or higher than wide, by more than this, so is the input."""


@dataclass(frozen=True)
class DataFacts:
    """What decides about the detector. size: (height, width) of the median picture.

    small: side of the typical object of the smallest class, as a part of the side of its picture: square roots of areas.
    aspect: width by height of the pictures, if nearly all have about the same; else 1.
    """

    size: Size
    small: float
    aspect: float = 1.0

    @classmethod
    def of(cls, data: Dataset) -> DataFacts:
        """The facts of a data set. Pictures of unknown size are looked at, some of them."""
        if None in data.sizes:
            data = data.subset(range(0, len(data), max(1, len(data) // LOOKED_AT)))
        sizes = torch.tensor([data.size_of(index) or (0, 0) for index in range(len(data))])
        owners = torch.repeat_interleave(torch.arange(len(data)), data.offsets.diff())
        counted = ~(data.ignore | data.crowd) & (sizes[owners] > 0).all(1)
        sides = ((data.boxes[:, 2:] - data.boxes[:, :2]).prod(1) / sizes[owners].prod(1)).sqrt()[counted]
        sizes = sizes[(sizes > 0).all(1)]
        if not len(sides):
            return cls((SIDES[-1], SIDES[-1]), small=1.0)
        labels = data.labels[counted]
        classes = [sides[labels == label] for label in labels.unique()]
        typical = [part.median().item() for part in classes if len(part) >= max(RARE, 0.01 * len(sides))]
        low, middle, high = (sizes[:, 1] / sizes[:, 0]).float().quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        height, width = sizes.median(0).values.tolist()
        small = min(typical, default=sides.median().item())
        return cls((height, width), small, middle if high < 1.2 * low else 1.0)


class Choice(NamedTuple):
    """The chosen detector, its input (height, width) in pixels, and the pictures that it should see here in the time; None
    where the machine was not measured.
    """

    candidate: Candidate
    size: Size
    seen: int | None


def choose(
    candidates: Sequence[Candidate],
    sizes: Sequence[Size],
    machine: Machine | None,
    *,
    seconds: float,
    larger: Size | None = None,
) -> Choice:
    """The first candidate that sees enough pictures in the time, at the first of the sizes; if none does, the nearest to it.

    larger: a size that comes before these, where it sees ``PLENTY`` times as many pictures as the candidate needs.
    """
    tried = []
    for candidate, size in product(candidates, [*([] if larger is None else [larger]), *sizes]):
        if machine is None:
            return Choice(candidate, sizes[0], None)
        seen = int(rate_of(candidate, size, machine) * seconds * TRAINING)
        needs = candidate.needs * (PLENTY if size == larger else 1)
        if seen >= needs:
            return Choice(candidate, size, seen)
        tried.append((seen / needs, Choice(candidate, size, seen)))
    return max(tried, key=lambda pair: pair[0])[1]


def on_backbone(backbone: str) -> Candidate:
    """DSSD on a timm backbone. One that is not listed needs as many pictures as the listed one whose cost is nearest.

    Raise ConfigError if there is no such backbone.
    """
    listed = {each.backbone: each for each in CANDIDATES if each.backbone is not None}
    name = f"timm/{backbone.removeprefix('timm/')}"
    if name in listed:
        return listed[name]
    config = recipe("dssd", ("object",), size=(320, 320), backbone=name)
    cost = cost_of(config).multiply_adds / 1e9
    nearest = min(listed.values(), key=lambda each: abs(log(cost / each.multiply_adds)))
    return replace(nearest, backbone=backbone, multiply_adds=cost, kernels=kernels_of(Detector.on("meta", config)))


def larger_than(size: Size, data: DataFacts) -> Size | None:
    """The next larger input (height, width), or None if the pictures have no more pixels."""
    side = sqrt(size[0] * size[1])
    native = sqrt(data.size[0] * data.size[1])
    found = next((each for each in SIDES if each > 1.05 * side), None)
    return None if found is None or found > native else shaped(found, data.aspect)


def sizes_for(data: DataFacts, *, gpu: bool) -> list[Size]:
    """Inputs (height, width) to try, the best first: from the one that suits the small objects and the pictures down to the
    usual one, or below it where the objects are large.
    """
    native = max(SIDES[0], sqrt(data.size[0] * data.size[1]))
    usual = min(USUAL_ON_GPU if gpu else USUAL, max(side for side in SIDES if side <= native))
    least = min(8 * CELLS / max(data.small, 1e-3), native)
    needed = next((side for side in SIDES if side >= least), SIDES[-1])
    sides = [side for side in reversed(SIDES) if min(needed, usual) <= side <= max(needed, usual)]
    return [shaped(side, data.aspect) for side in sides]


def rate_of(candidate: Candidate, size: Size, machine: Machine) -> float:
    """Pictures per second in training, from the time of the small network that was measured."""
    return machine.rate(candidate.kernels, 1e9 * candidate.multiply_adds * size[0] * size[1] / 320**2)


def shaped(side: int, aspect: float) -> Size:
    """(height, width) of the input with the area of a square of that side: the square, or as wide as the pictures are."""
    if 1 / WIDE <= aspect <= WIDE:
        return side, side
    height, width = side / sqrt(aspect), side * sqrt(aspect)
    return max(64, 32 * round(height / 32)), max(64, 32 * round(width / 32))
