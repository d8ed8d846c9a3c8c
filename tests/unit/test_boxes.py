"""Boxes: converters, areas, overlaps and suppression, against numbers worked out by hand and slow loops."""

import pytest
import torch
import torchvision

import slow_references as slow
from onestage import boxes as box_ops

BOX = torch.tensor([[10.0, 20, 30, 60]])


def random_boxes(count, seed, *, side=100, least=1):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side, (count, 2), generator=generator)
    extent = torch.randint(least, side // 2, (count, 2), generator=generator)
    return torch.cat([corner, corner + extent], 1).float()


def test_converters():
    assert box_ops.to_xywh(BOX).tolist() == [[10, 20, 20, 40]]
    assert box_ops.to_cxcywh(BOX).tolist() == [[20, 40, 20, 40]]
    assert box_ops.from_xywh(torch.tensor([[10.0, 20, 20, 40]])).tolist() == BOX.tolist()
    assert box_ops.from_cxcywh(torch.tensor([[20.0, 40, 20, 40]])).tolist() == BOX.tolist()


def test_converters_take_any_leading_dimensions():
    boxes = random_boxes(24, 0).view(2, 3, 4, 4)
    assert torch.equal(box_ops.from_xywh(box_ops.to_xywh(boxes)), boxes)
    assert box_ops.area(boxes).shape == (2, 3, 4)
    assert box_ops.flip_horizontal(boxes, 200).shape == boxes.shape


def test_clip():
    outside = torch.tensor([[-5.0, -5, 5, 5], [90, 90, 120, 130], [200, 10, 220, 20]])
    assert box_ops.clip(outside, (100, 110)).tolist() == [[0, 0, 5, 5], [90, 90, 110, 100], [110, 10, 110, 20]]
    each = box_ops.clip(outside, torch.tensor([[3.0, 4.0], [100.0, 100.0], [50.0, 210.0]]))
    assert each.tolist() == [[0, 0, 4, 3], [90, 90, 100, 100], [200, 10, 210, 20]]


def test_flip():
    assert box_ops.flip_horizontal(BOX, 100).tolist() == [[70, 20, 90, 60]]


def test_area_of_a_box_turned_inside_out_is_nothing():
    assert box_ops.area(torch.tensor([[5.0, 5, 3, 9], [5, 5, 3, 3], [1, 1, 4, 5]])).tolist() == [0, 0, 12]


def test_iou_and_cover_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 20, 20], [10, 10, 20, 20], [3, 3, 3, 3]])
    assert box_ops.intersection(a, b).tolist() == [[50, 100, 0, 0]]
    assert box_ops.iou(a, b)[0].tolist() == pytest.approx([1 / 3, 1 / 4, 0, 0])
    assert box_ops.cover(a, b)[0].tolist() == pytest.approx([0.5, 1, 0, 0])


def test_two_empty_boxes_overlap_not_at_all():
    empty = torch.tensor([[3.0, 3, 3, 3]])
    assert box_ops.iou(empty, empty).item() == 0
    assert box_ops.cover(empty, BOX).item() == 0


def test_iou_equals_the_slow_one_and_torchvisions():
    a, b = random_boxes(40, 1), random_boxes(30, 2)
    expected = torch.tensor([[slow.iou(x, y) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(box_ops.iou(a, b), expected, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(box_ops.iou(a, b), torchvision.ops.box_iou(a, b), atol=1e-7, rtol=1e-6)


def test_iou_broadcasts_over_a_batch():
    a, b = random_boxes(12, 3).view(3, 4, 4), random_boxes(5, 4)
    assert torch.equal(box_ops.iou(a, b)[1], box_ops.iou(a[1], b))


@pytest.mark.parametrize("threshold", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("distinct", [1, 8, 1000], ids=["all scores equal", "many ties", "hardly a tie"])
def test_nms_equals_the_slow_one(threshold, distinct):
    boxes = random_boxes(150, 5)
    generator = torch.Generator().manual_seed(6)
    scores = torch.randint(0, distinct, (150,), generator=generator) / distinct
    groups = torch.randint(0, 4, (150,), generator=generator)
    expected = [i for i, _ in slow.nms(boxes.tolist(), scores.tolist(), groups.tolist(), threshold)]
    assert box_ops.nms(boxes, scores, groups, threshold).tolist() == expected


def test_nms_of_nothing():
    nothing = torch.zeros(0)
    assert box_ops.nms(nothing.view(0, 4), nothing, nothing.long(), 0.5).shape == (0,)


def test_nms_keeps_many_groups_exactly_apart():
    """Moved apart in float32, the boxes of late groups would lose their fractions: their IoU would be 1/3 no more."""
    boxes = torch.tensor([[0.0, 0, 0.30, 1], [0.15, 0, 0.45, 1]]).repeat(5000, 1)
    boxes[0] = torch.tensor([0.0, 0, 600, 600])
    groups = torch.arange(5000).repeat_interleave(2)
    scores = torch.linspace(1, 0, 10_000)
    assert len(box_ops.nms(boxes, scores, groups, 0.34)) == 10_000
    assert len(box_ops.nms(boxes, scores, groups, 0.32)) == 5_001
