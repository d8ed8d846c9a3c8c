"""Whether an exported file finds what its source finds.

Shape letters: B images, D detections, E expected detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.errors import MismatchError, WeightsError
from onestage.model.detector import Detector
from onestage.predict.predictor import Predictor
from onestage.structures import Detections

LEAST = 0.05
"""Detections of lower scores are not compared: the graph looks at fewer of these candidates than predict()."""
BATCHES = (1, 2, 5)
"""How many pictures at once a file is checked with."""


@dataclass(frozen=True)
class Tolerance:
    """How far a detection may be from its partner: the boxes have at least that IoU, or each of their four sides is within
    ``pixels`` of the input; and the scores are within ``score``.

    The sides are for slivers. If the border of a picture leaves 0.1 pixels of a box, rounding that moves a side by 0.002
    pixels takes the IoU below 0.99.

    paired: the part of all detections that need a partner. Not all can have one: if two boxes overlap almost exactly as much
    as NMS allows, rounding decides which of them stay.
    """

    iou: float
    score: float
    pixels: float
    paired: float = 0.995


TOLERANCE = Tolerance(0.99, 1e-3, pixels=0.05)
"""Of files that compute in float32. A box of 20x20 pixels keeps an IoU of 0.99 if all its sides move by 0.05 pixels."""
IN_HALF = Tolerance(0.98, 5e-3, pixels=0.1)
"""Of files whose network is in float16. The same box keeps an IoU of 0.98 if all its sides move by 0.1 pixels."""


@dataclass(frozen=True)
class Agreement:
    """How well two sets of detections agree. compared: detections looked at on both sides; paired: those with a partner of
    the same label; slivers: those of them whose sides agree, and whose IoU alone would be too small. iou: the least of the
    other pairs; score: the largest difference in a pair.
    """

    compared: int = 0
    paired: int = 0
    iou: float = 1.0
    score: float = 0.0
    slivers: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        compared, paired, slivers = self.compared + other.compared, self.paired + other.paired, self.slivers + other.slivers
        return Agreement(compared, paired, min(self.iou, other.iou), max(self.score, other.score), slivers)

    def within(self, tolerance: Tolerance) -> bool:
        """Whether enough detections have a partner. A partner always lies within the tolerance."""
        return self.paired >= tolerance.paired * self.compared


def compare(
    expected: Detections,
    got: Detections,
    tolerance: Tolerance,
    *,
    places: int,
    least: float = LEAST,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Agreement:
    """Find a partner for each detection above ``least`` on either side: same label, and within the tolerance.

    places: how many detections a picture can have. If one side has so many, the last ones of the other may be missing there.
    scale: (y, x), input pixels for each pixel of the picture.
    """
    last = [float(side.scores[-1]) + tolerance.score for side in (expected, got) if len(side) == places]
    above = max(least, *last, 0.0)
    corners = torch.tensor([*scale[::-1]] * 2, dtype=torch.float64, device=expected.boxes.device)
    one, other = (_Compared(side.boxes.double() * corners, side.scores, side.labels) for side in (expected, got))
    return _partners(one, other, tolerance, above) + _partners(other, one, tolerance, above)


class _Compared(NamedTuple):
    """What is compared of D detections: boxes (D, 4) in input pixels, scores (D,), labels (D,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def _partners(these: _Compared, those: _Compared, tolerance: Tolerance, least: float) -> Agreement:
    """How many of these (E) above ``least`` have a partner among those (D)."""
    wanted = these.scores > least
    these = _Compared(*(column[wanted] for column in these))
    if not len(these.scores) or not len(those.scores):
        return Agreement(compared=len(these.scores))
    iou = box_ops.iou(these.boxes, those.boxes)
    apart = (these.scores[:, None] - those.scores).abs()
    sides = torch.cdist(these.boxes, those.boxes, p=torch.inf)
    same = (these.labels[:, None] == those.labels) & (apart <= tolerance.score)
    best, partner = torch.where(same & ((iou >= tolerance.iou) | (sides <= tolerance.pixels)), iou, -1.0).max(dim=1)
    found = best >= 0
    if not bool(found.any()):
        return Agreement(compared=len(these.scores))
    worst = float(apart.gather(1, partner[:, None])[found].max())
    alike = best[best >= tolerance.iou]
    lowest = float(alike.min()) if len(alike) else 1.0
    return Agreement(len(these.scores), int(found.sum()), lowest, worst, int(found.sum()) - len(alike))


def check_file(source: Detector, file: Predictor, pictures: Sequence[Tensor], tolerance: Tolerance) -> Agreement:
    """Run both on pictures (3, H, W) uint8, one, two and five at once. If the file takes inputs of any size, pictures of
    several sizes test several of them.

    Raise MismatchError if they find different objects, WeightsError if there is nothing to compare.
    """
    reference, threshold = Predictor.of(source), source.config.postprocess.score_threshold
    total = _agreement(reference, file, pictures, tolerance, LEAST)
    if not total.compared:
        total = _agreement(reference, file, pictures, tolerance, threshold)
    if not total.compared:
        what = "the file could not be checked: the detector finds nothing in these pictures"
        expected, fix = "pictures in which it finds objects", "onestage export MODEL --data FOLDER, or --no-check"
        raise WeightsError(what, where=source.config.name, expected=expected, fix=fix)
    if not total.within(tolerance):
        what = "the exported file finds other objects than its source"
        got = f"{total.paired:,} of {total.compared:,} detections have a partner of the same class"
        place = f"an IoU of {tolerance.iou} or sides within {tolerance.pixels} pixels"
        expected = f"{tolerance.paired:.1%} with {place}, and a score within {tolerance.score}"
        raise MismatchError(what, where=source.config.name, got=got, expected=expected)
    return total


def _agreement(source: Predictor, file: Predictor, pictures: Sequence[Tensor], tolerance: Tolerance, least: float) -> Agreement:
    """Compare both on pictures (3, H, W), in batches of all sizes, in detections above ``least``."""
    total, places = Agreement(), source.config.postprocess.detections
    for batch in BATCHES:
        for start in range(0, len(pictures), batch):
            group = pictures[start : start + batch]
            for expected, got in zip(source.detect(group), file.detect(group), strict=True):
                scale = source.config.preprocess.place(expected.size).scale
                total += compare(expected, got, tolerance, places=places, least=least, scale=scale)
    return total


def drawn_pictures(count: int = 5) -> list[Tensor]:
    """``count`` pictures (3, H, W) uint8 of several sizes, drawn with objects; the same at every call."""
    sizes = ((240, 320), (320, 240), (300, 300), (360, 480), (256, 192))
    return [generate(index, SyntheticConfig(seed=7, size=sizes[index % len(sizes)])).image for index in range(count)]
