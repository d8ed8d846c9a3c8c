"""What rounding may decide: nothing where numbers are far apart, and all that follows from two that are near each other."""

from dataclasses import replace

import pytest
import torch

import onestage
from onestage.model.output.postprocess import RawDetections
from onestage.structures import HeadOutput
from rounding import Candidates, Rounding, candidates, fates, measured, unexplained

FRAME = torch.tensor([0.0, 0.0, 64.0, 64.0])
SMALL = Rounding(score=1e-6, pixels=1e-4)
LEAST = 0.05


@pytest.fixture(scope="module")
def detector():
    return onestage.build(onestage.recipe("tinyssd", ("ball", "cube", "mug"), size=(64, 64))).eval()


@pytest.fixture(scope="module")
def output(detector):
    """A random output with many overlaps: logits (1, A, 4) and deltas (1, A, 4)."""
    torch.manual_seed(0)
    count = len(detector.anchors((64, 64)))
    return HeadOutput(2 * torch.randn(1, count, 4), torch.randn(1, count, 4), detector.level_sizes((64, 64)), (64, 64))


def some(*rows):
    """Candidates of one class on one level: rows of a score and a box."""
    scores = torch.tensor([score for score, _ in rows]).double()
    none = torch.zeros(len(rows), dtype=torch.int64)
    return Candidates(torch.tensor([box for _, box in rows]).double(), scores, none, none, FRAME.double())


@pytest.mark.parametrize("scope", ["class", "level", "image"])
def test_what_predict_finds_is_between_what_must_and_what_may_be_found(detector, output, scope):
    post = replace(detector.config.postprocess, scope=scope, top_k=60, detections=80)
    config = replace(detector.config, postprocess=post)
    found = detector.decoder.raw(output, FRAME[None], post)[0]
    these = candidates(config, output, 0, FRAME, least=LEAST)
    must, may = fates(config, these, SMALL)
    assert bool((must <= may).all()) and int(must.sum()) <= int((found.scores > LEAST).sum()) <= int(may.sum())
    assert int(must.sum()) > 50 and int(may.sum()) - int(must.sum()) <= 2
    assert unexplained(config, these, found, SMALL, least=LEAST) == []


def test_a_lost_or_moved_detection_is_not_explained(detector, output):
    config, post = detector.config, detector.config.postprocess
    found = detector.decoder.raw(output, FRAME[None], post)[0]
    these = candidates(config, output, 0, FRAME, least=LEAST)
    lost = RawDetections(*(column[1:] for column in found))
    moved = found._replace(boxes=found.boxes + torch.tensor([[0.5, 0, 0, 0]]) * (torch.arange(len(found.scores)) == 3)[:, None])
    other = found._replace(labels=(found.labels + (torch.arange(len(found.scores)) == 5)) % 3)
    assert [line.split(":")[0] for line in unexplained(config, these, lost, SMALL, least=LEAST)] == ["missing"]
    for wrong in (moved, other):
        assert [line.split(":")[0] for line in unexplained(config, these, wrong, SMALL, least=LEAST)] == ["missing", "foreign"]


def test_an_overlap_near_the_threshold_leaves_open_what_follows_from_it(detector):
    # IoU 0.5, the threshold of TinySSD, between the first two; the third overlaps the second alone
    these = some((0.9, [0, 0, 30, 10]), (0.8, [10, 0, 40, 10]), (0.7, [11, 0, 41, 10]), (0.6, [0, 40, 10, 50]))
    must, may = fates(detector.config, these, SMALL)
    assert must.tolist() == [True, False, False, True] and may.tolist() == [True, True, True, True]
    clear = these._replace(boxes=these.boxes + torch.tensor([0, 0, 0.01, 0]) * (torch.arange(4) == 1)[:, None])
    must, may = fates(detector.config, clear, SMALL)
    assert must.tolist() == may.tolist() == [True, True, False, True]


def test_equal_scores_leave_open_which_box_removes_the_other(detector):
    must, may = fates(detector.config, some((0.9, [0, 0, 30, 10]), (0.9, [1, 0, 31, 10])), SMALL)
    assert must.tolist() == [False, False] and may.tolist() == [True, True]


def test_scores_near_one_are_nearer_to_each_other(detector):
    """What logits differ by moves them less than others."""
    rounding = Rounding(score=1e-4, pixels=1e-4)
    for best, decided in ((0.5, False), (0.99999, True)):
        must, may = fates(detector.config, some((best, [0, 0, 30, 10]), (best - 5e-6, [1, 0, 31, 10])), rounding)
        assert (must.tolist(), may.tolist()) == (([True, False],) * 2 if decided else ([False] * 2, [True] * 2))


def test_no_candidates_have_no_fates(detector):
    none = some((0.9, [0, 0, 30, 10]))._replace(scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    none = none._replace(boxes=torch.zeros(0, 4), levels=none.labels)
    assert [len(fate) for fate in fates(detector.config, none, SMALL)] == [0, 0]


@pytest.mark.parametrize("limit", [{"top_k": 2}, {"detections": 2}])
def test_the_limits_leave_open_which_of_equal_scores_come_in(detector, limit):
    config = replace(detector.config, postprocess=replace(detector.config.postprocess, **limit))
    places = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(3)]
    must, may = fates(config, some((0.9, places[0]), (0.5, places[1]), (0.5 + 1e-7, places[2])), SMALL)
    assert must.tolist() == [True, False, False] and may.tolist() == [True, True, True]
    must, may = fates(config, some((0.9, places[0]), (0.4, places[1]), (0.5, places[2])), SMALL)
    assert must.tolist() == may.tolist() == [True, False, True]


def test_a_box_that_hardly_reaches_into_the_picture_may_be_none(detector):
    must, may = fates(
        detector.config, some((0.9, [-10, 0, 1e-5, 10]), (0.8, [-10, 20, -1, 30]), (0.7, [-10, 40, 1, 50])), SMALL
    )
    assert must.tolist() == [False, False, True] and may.tolist() == [True, False, True]


def test_rounding_is_measured_in_what_both_programs_found():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 50, 50], [5, 5, 60, 60]])
    one = RawDetections(boxes, torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0, 1, 1]))
    other = RawDetections(
        boxes[:2] + torch.tensor([0.0, 0, 0, 0.0078125]), torch.tensor([0.9, 0.5 + 2**-14]), torch.tensor([0, 1])
    )
    found = measured([(one, other)], iou=0.99, score=1e-3)
    assert found == Rounding(score=2**-13, pixels=0.015625)
