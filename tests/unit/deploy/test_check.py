"""When two sets of detections agree. A lost, moved or relabelled one is seen; what rounding does to a sliver is none."""

from dataclasses import replace

import pytest
import torch

from onestage.deploy.check import BATCHES, TOLERANCE, Agreement, check_file, compare
from onestage.predict.predictor import Predictor
from onestage.structures import Detections

PLACES = 200
"""Detections that a picture can have."""


def at(*boxes, score=0.9, label=0):
    """Detections of one class in a picture of 100x120 pixels, all with one score."""
    count, names = len(boxes), ("ball", "cube")
    boxes, scores = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.full((count,), score)
    return Detections(boxes, scores, torch.full((count,), label), (names[label],) * count, (label,) * count, size=(100, 120))


SLIVER = (10.0, 0.0, 50.0, 0.1)
"""What the border of a picture leaves of a box. If its lower side moves by 0.002 pixels, the IoU is 0.98."""


def test_slivers_of_boxes_agree_if_their_sides_do():
    moved = at((10.0, 0.0, 50.0, 0.098), (20, 20, 90, 90))
    found = compare(at(SLIVER, (20, 20, 90, 90)), moved, TOLERANCE, places=PLACES)
    assert found == Agreement(compared=4, paired=4, slivers=2)  # the IoU is that of the other pair
    assert found + found == Agreement(compared=8, paired=8, slivers=4)


@pytest.mark.parametrize(
    "other",
    [
        at(),
        at(SLIVER, label=1),
        at(SLIVER, score=0.898),
        at((10.0, 0.0, 50.0, 0.16)),
        at((10.5, 0.0, 50.0, 0.1)),
        at((10.0, 60.0, 50.0, 60.1)),
    ],
    ids=["lost", "relabelled", "another score", "higher", "narrower", "moved"],
)
def test_slivers_that_are_others_are_seen(other):
    assert compare(at(SLIVER), other, TOLERANCE, places=PLACES) == Agreement(compared=1 + len(other))


def test_a_box_that_moves_by_more_than_its_iou_allows_is_seen_at_every_size():
    for side, least in ((0.5, 0.06), (10, 0.06), (60, 0.4)):  # pixels
        box = torch.tensor([20.0, 20, 20 + side, 20 + side])
        moved = at((box + torch.tensor([least, 0, least, 0])).tolist())
        assert compare(at(box.tolist()), moved, TOLERANCE, places=PLACES) == Agreement(compared=2), side


def test_sides_are_compared_in_pixels_of_the_input():
    """Of a large picture, an input pixel covers many."""
    large, moved = at((10.0, 0.0, 50.0, 1.0)), at((10.0, 0.0, 50.0, 0.9))
    assert compare(large, moved, TOLERANCE, places=PLACES) == Agreement(compared=2)
    assert compare(large, moved, TOLERANCE, places=PLACES, scale=(0.1, 0.1)) == Agreement(compared=2, paired=2, slivers=2)
    assert compare(large, moved, TOLERANCE, places=PLACES, scale=(1.0, 0.1)) == Agreement(compared=2)


def test_a_check_measures_slivers_in_the_input_of_the_detector(model, monkeypatch):
    """The picture is ten times as large as the input."""
    picture, size = torch.zeros(3, 960, 1280, dtype=torch.uint8), (960, 1280)
    boxes = iter([replace(at((10.0, 0, 500, 1.0)), size=size), replace(at((10.0, 0, 500, 0.9)), size=size)] * len(BATCHES))
    monkeypatch.setattr(Predictor, "detect", lambda self, group: [next(boxes)])
    total = check_file(model, Predictor.of(model), [picture], TOLERANCE)
    assert total == Agreement(compared=6, paired=6, slivers=6)
