"""Whether an exported file finds what its source finds.

Shape letters: B images, D detections, E expected detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """How far a detection may be from its partner. paired: the part of all detections that need a partner. Not all can have
    one: if two boxes overlap almost exactly as much as NMS allows, rounding decides which of them stay.
    """

    iou: float
    score: float
    paired: float = 0.995


TOLERANCE = Tolerance(0.99, 1e-3)
"""Of files that compute in float32."""
IN_HALF = Tolerance(0.98, 5e-3)
"""Of files whose network is in float16."""


@dataclass(frozen=True)
class Agreement:
    """How well two sets of detections agree. compared: detections looked at on both sides; paired: those with a partner of
    the same label. iou: the least of a pair; score: the largest difference in a pair.
    """

    compared: int = 0
    paired: int = 0
    iou: float = 1.0
    score: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        compared, paired = self.compared + other.compared, self.paired + other.paired
        return Agreement(compared, paired, min(self.iou, other.iou), max(self.score, other.score))

    def within(self, tolerance: Tolerance) -> bool:
        """Whether enough detections have a partner. A partner always lies within the tolerance."""
        return self.paired >= tolerance.paired * self.compared


def compare(expected: Detections, got: Detections, tolerance: Tolerance, *, places: int, least: float = LEAST) -> Agreement:
    """Find a partner for each detection above ``least`` on either side: same label, and within the tolerance.

    places: how many detections a picture can have. If one side has so many, the last ones of the other may be missing there.
    """
    last = [float(side.scores[-1]) + tolerance.score for side in (expected, got) if len(side) == places]
    least = max(least, *last, 0.0)
    return _partners(expected, got, tolerance, least) + _partners(got, expected, tolerance, least)


def _partners(these: Detections, those: Detections, tolerance: Tolerance, least: float) -> Agreement:
    """How many of these (E) have a partner among those (D)."""
    these = these.select(these.scores > least)
    if not len(these):
        return Agreement()
    if not len(those):
        return Agreement(compared=len(these))
    iou = box_ops.iou(these.boxes.double(), those.boxes.double())
    apart = (these.scores[:, None] - those.scores).abs()
    pair = (these.labels[:, None] == those.labels) & (apart <= tolerance.score) & (iou >= tolerance.iou)
    best, partner = torch.where(pair, iou, -1.0).max(dim=1)
    found = best >= 0
    if not bool(found.any()):
        return Agreement(compared=len(these))
    worst = float(apart.gather(1, partner[:, None])[found].max())
    return Agreement(len(these), int(found.sum()), float(best[found].min()), worst)


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
        expected = f"{tolerance.paired:.1%} with an IoU of {tolerance.iou} and a score within {tolerance.score}"
        raise MismatchError(what, where=source.config.name, got=got, expected=expected)
    return total


def _agreement(source: Predictor, file: Predictor, pictures: Sequence[Tensor], tolerance: Tolerance, least: float) -> Agreement:
    """Compare both on pictures (3, H, W), in batches of all sizes, in detections above ``least``."""
    total, places = Agreement(), source.config.postprocess.detections
    for batch in BATCHES:
        for start in range(0, len(pictures), batch):
            group = pictures[start : start + batch]
            for pair in zip(source.detect(group), file.detect(group), strict=True):
                total += compare(*pair, tolerance, places=places, least=least)
    return total


def drawn_pictures(count: int = 5) -> list[Tensor]:
    """``count`` pictures (3, H, W) uint8 of several sizes, drawn with objects; the same at every call."""
    sizes = ((240, 320), (320, 240), (300, 300), (360, 480), (256, 192))
    return [generate(index, SyntheticConfig(seed=7, size=sizes[index % len(sizes)])).image for index in range(count)]
