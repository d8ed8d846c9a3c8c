"""Two policies of MaxIoUAssigner against the matchers they come from: torchvision's RetinaNet and EfficientDet's (effdet)."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from onestage import boxes as box_ops
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.anchors.max_iou import MaxIoUAssigner, assign
from onestage.structures import Targets

ANCHORS = anchor_boxes([AnchorLevel(((12.0, 12.0), (20.0, 10.0))), AnchorLevel(((28.0, 28.0),))], [(5, 5), (2, 2)], (50, 50))

position, extent = st.integers(0, 40), st.integers(2, 24)
box = st.tuples(position, position, extent, extent).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
# On whole pixels, and some of them twice: many equal overlaps.
objects = st.lists(box, min_size=1, max_size=6).map(lambda rows: torch.tensor([*rows, rows[0]], dtype=torch.float32))


def ours(boxes, **rules):
    return assign(MaxIoUAssigner(**rules), ANCHORS, [Targets(boxes, torch.arange(len(boxes)))]).matches[0]


@given(objects)
@settings(max_examples=200)
def test_tied_is_torchvisions_low_quality_matching(boxes):
    overlap = box_ops.iou(boxes, ANCHORS)
    assume((overlap.amax(1) > 0).all())  # of an object that touches no anchor, torchvision gives it all of them
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(overlap)
    assert torch.equal(ours(boxes, positive=0.5, negative=0.4, claim="tied"), theirs)


@given(objects, st.sampled_from([(0.5, 0.4), (0.7, 0.3)]))
def test_none_is_torchvisions_matching_without_it(boxes, limits):
    theirs = Matcher(*limits, allow_low_quality_matches=False)(box_ops.iou(boxes, ANCHORS))
    assert torch.equal(ours(boxes, positive=limits[0], negative=limits[1], claim="none"), theirs)


@given(objects)
@settings(max_examples=200)
def test_first_is_the_forced_matching_of_efficientdet(boxes):
    matcher = pytest.importorskip("effdet.object_detection.argmax_matcher")
    theirs = matcher.ArgMaxMatcher(0.5, unmatched_threshold=0.5, force_match_for_each_row=True)
    overlap = box_ops.iou(boxes, ANCHORS)
    assume((overlap.amax(1) > 0).all())  # of an object that touches no anchor, it gives it the first one
    assert torch.equal(ours(boxes, claim="first"), theirs.match(overlap).match_results)


def test_first_is_what_effdets_labeler_teaches():
    """From boxes to the label of every anchor, through its own overlaps."""
    effdet = pytest.importorskip("effdet.anchors")
    from effdet.config import get_efficientdet_config

    config = get_efficientdet_config("efficientdet_d0")
    config.image_size = (128, 256)
    anchors = effdet.Anchors.from_config(config)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([200.0, 80])
    boxes = torch.cat([corner, corner + 8 + torch.rand(12, 2, generator=generator) * 48], 1)
    labels = torch.arange(12) % 5
    boxes[6:] = boxes[:6] + 1  # neighbours that want the same anchors
    swapped = boxes[:, [1, 0, 3, 2]]
    levels, _, positives = effdet.AnchorLabeler(anchors, 5).label_anchors(swapped, labels + 1)
    theirs = torch.cat([level.flatten() for level in levels])
    assignment = assign(MaxIoUAssigner(claim="first"), anchors.boxes[:, [1, 0, 3, 2]], [Targets(boxes, labels)])
    learned = torch.where(assignment.matches[0] >= 0, labels[assignment.matches[0]], -1)
    assert positives == (learned >= 0).sum() > 12
    assert torch.equal(learned, theirs.where(theirs >= 0, -1))
