"""Laws of boxes: converters undo each other, IoU is bounded and symmetric, NMS is idempotent and knows no order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slow_references as slow
from onestage import boxes as box_ops
from onestage.structures import ImageMeta

# Whole numbers up to 2^10: converters, areas and overlaps are exact in float32.
corner, extent = st.integers(0, 1000), st.integers(0, 300)
box = st.tuples(corner, corner, extent, extent).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
boxes = st.lists(box, max_size=12).map(lambda rows: torch.tensor(rows, dtype=torch.float32).view(-1, 4))


@given(boxes)
def test_converters_undo_each_other(b):
    assert torch.equal(box_ops.from_xywh(box_ops.to_xywh(b)), b)
    assert torch.equal(box_ops.from_cxcywh(box_ops.to_cxcywh(b)), b)
    assert torch.equal(box_ops.flip_horizontal(box_ops.flip_horizontal(b, 2000), 2000), b)


@given(boxes, boxes)
def test_iou_is_symmetric_and_lies_in_0_to_1(a, b):
    iou = box_ops.iou(a, b)
    assert torch.equal(iou, box_ops.iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou > 0, box_ops.intersection(a, b) > 0)


@given(boxes)
def test_a_box_overlaps_itself_wholly_unless_it_is_empty(b):
    assert torch.equal(box_ops.iou(b, b).diagonal(), (box_ops.area(b) > 0).float())


@given(boxes, boxes)
def test_iou_is_at_most_the_part_covered(a, b):
    cover = box_ops.cover(a, b)
    assert (box_ops.iou(a, b) <= cover + 1e-6).all()
    assert (cover <= 1).all()


@given(boxes, st.integers(1, 1500), st.integers(1, 1500))
def test_clipping_lands_inside_once_and_for_all(b, height, width):
    clipped = box_ops.clip(b - 100, (height, width))
    assert torch.equal(box_ops.clip(clipped, (height, width)), clipped)
    assert (clipped >= 0).all() and (clipped <= torch.tensor([width, height, width, height])).all()
    assert (clipped[:, 2:] >= clipped[:, :2]).all()


solid = st.tuples(corner, corner, st.integers(1, 300), st.integers(1, 300))
pair = st.tuples(solid, solid).map(lambda p: [torch.tensor([x, y, x + w, y + h], dtype=torch.float32) for x, y, w, h in p])
measures = st.sampled_from([box_ops.paired_iou, box_ops.paired_giou, box_ops.paired_diou, box_ops.paired_ciou])


@given(pair, measures)
def test_an_overlap_of_two_is_symmetric_and_bounded(ab, measure):
    a, b = ab
    assert measure(a, b) == measure(b, a)
    assert -1.5 < measure(a, b) <= box_ops.paired_iou(a, b) <= 1
    assert measure(a, b) >= -1 or measure is box_ops.paired_ciou
    assert measure(a, a).item() == pytest.approx(1, abs=1e-6)
    assert measure(a, b) < 1 or torch.equal(a, b)


@given(pair, measures, st.integers(-500, 500), st.integers(-500, 500), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_an_overlap_knows_neither_place_nor_size(ab, measure, right, down, scale):
    moved = [(box + torch.tensor([right, down, right, down])) * scale for box in ab]
    assert measure(*moved).item() == pytest.approx(measure(*ab).item(), abs=1e-5)


@st.composite
def scored(draw):
    """Boxes with scores that all differ, so that the best first is one order only."""
    b = draw(boxes)
    scores = draw(st.permutations(range(len(b))))
    groups = draw(st.lists(st.integers(0, 2), min_size=len(b), max_size=len(b)))
    return b, torch.tensor(scores, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64)


thresholds = st.sampled_from([0.0, 0.3, 0.5, 0.9])


@given(scored(), thresholds)
def test_nms_keeps_what_it_kept(items, threshold):
    b, s, g = items
    kept = box_ops.nms(b, s, g, threshold)
    assert torch.equal(box_ops.nms(b[kept], s[kept], g[kept], threshold), torch.arange(len(kept)))
    assert (s[kept].diff() < 0).all()


@given(scored(), thresholds, st.randoms())
def test_nms_knows_no_order(items, threshold, random):
    b, s, g = items
    order = torch.tensor(random.sample(range(len(b)), len(b)), dtype=torch.int64)
    kept = box_ops.nms(b, s, g, threshold)
    assert torch.equal(order[box_ops.nms(b[order], s[order], g[order], threshold)], kept)


@given(scored(), thresholds)
def test_what_nms_drops_overlaps_a_better_one_of_its_group(items, threshold):
    b, s, g = items
    kept = box_ops.nms(b, s, g, threshold)
    iou = box_ops.iou(b.double(), b.double())
    for i in range(len(b)):
        rivals = [j for j in kept.tolist() if g[j] == g[i] and s[j] > s[i]]
        assert (i in kept.tolist()) == all(iou[i, j] <= threshold for j in rivals)


@st.composite
def tied(draw):
    """Solid boxes with few different scores, so that many are equal."""
    rows = draw(st.lists(st.tuples(solid, st.integers(1, 4), st.integers(0, 2)), max_size=10))
    b = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows], dtype=torch.float32).view(-1, 4)
    return b, torch.tensor([s / 4 for _, s, _ in rows]), torch.tensor([g for *_, g in rows], dtype=torch.int64)


@given(tied(), st.sampled_from([0.0, 0.05, 0.4]), st.sampled_from(["gaussian", "linear"]))
def test_soft_nms_is_the_slow_one(items, threshold, kind):
    def decay(iou):
        return (-iou.square() / 0.5).exp() if kind == "gaussian" else 1 - iou * (iou > 0.3)

    def slow_decay(iou):
        return math.exp(-iou * iou / 0.5) if kind == "gaussian" else 1 - iou * (iou > 0.3)

    b, s, g = items
    kept, scores = box_ops.soft_nms(b, s, g, decay=decay, threshold=threshold)
    expected = slow.soft_nms(b.tolist(), s.tolist(), g.tolist(), slow_decay, threshold)
    if all(abs(score - threshold) > 1e-6 for _, score in expected):  # there, rounding may decide
        assert scores.tolist() == pytest.approx([score for _, score in expected], abs=1e-5)
        assert sorted(kept.tolist()) == sorted(i for i, _ in expected)
    assert (scores.diff() <= 0).all() and len(kept.unique()) == len(kept)
    assert (scores <= s[kept]).all()


@given(tied(), st.sampled_from([-0.5, 0.0, 0.41, 1.0]))
def test_diou_nms_is_the_slow_one(items, threshold):
    b, s, g = items
    expected = slow.nms(b.tolist(), s.tolist(), g.tolist(), threshold, overlap=slow.diou)
    close = [abs(slow.diou(x, y) - threshold) < 1e-6 for x in b.tolist() for y in b.tolist() if x != y]
    if not any(close):
        assert box_ops.diou_nms(b, s, g, threshold).tolist() == [i for i, _ in expected]


sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


@given(boxes, sizes, sizes, st.tuples(st.integers(0, 500), st.integers(0, 500)))
@settings(max_examples=200)
def test_a_resize_is_undone(b, original, size, pad):
    scale = (size[0] / original[0], size[1] / original[1])
    meta = ImageMeta(original, size, scale, pad)
    there = meta.apply(b)
    # What float32 loses: a rounding of the input's coordinate, seen in the picture's pixels.
    tolerance = 1e-6 * (there.abs().amax() / min(scale) if len(b) else 0) + 1e-4
    assert ((meta.undo(there) - b).abs() <= tolerance).all()
