"""Laws of the assignment: against the slow one on any batch, and what does not depend on the order of things."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slow_references as slow
from onestage import boxes as box_ops
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.anchors.max_iou import MaxIoUAssigner, assign
from onestage.structures import Targets

ANCHORS = anchor_boxes([AnchorLevel(((10.0, 10.0), (16.0, 8.0))), AnchorLevel(((28.0, 28.0),))], [(4, 4), (2, 2)], (40, 40))

position, extent = st.integers(0, 36), st.integers(1, 24)
box = st.tuples(position, position, extent, extent).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
claims = st.sampled_from(["best", "first", "greedy", "tied", "none"])


@st.composite
def image(draw, most=6):
    rows = draw(st.lists(st.tuples(box, st.booleans()), max_size=most))
    boxes = torch.tensor([b for b, _ in rows], dtype=torch.float32).view(-1, 4)
    return Targets(boxes, torch.arange(len(rows)), torch.tensor([i for _, i in rows], dtype=torch.bool))


@given(st.lists(image(), min_size=1, max_size=3), claims, st.sampled_from([(0.5, 0.5), (0.5, 0.3), (0.3, 0.05)]))
@settings(max_examples=150, deadline=None)
def test_equals_the_slow_one(batch, claim, limits):
    rules = {"positive": limits[0], "negative": limits[1], "claim": claim}
    matches = assign(MaxIoUAssigner(**rules), ANCHORS, batch).matches
    for row, targets in zip(matches, batch, strict=True):
        assert row.tolist() == slow.max_iou_matches(ANCHORS.tolist(), targets.boxes.tolist(), targets.ignore.tolist(), **rules)


@given(st.lists(image(), min_size=1, max_size=4), claims, st.randoms())
def test_images_do_not_know_each_other(batch, claim, random):
    order = random.sample(range(len(batch)), len(batch))
    matches = assign(MaxIoUAssigner(claim=claim), ANCHORS, batch).matches
    assert torch.equal(assign(MaxIoUAssigner(claim=claim), ANCHORS, [batch[i] for i in order]).matches, matches[order])


@given(image(), claims, st.randoms())
def test_the_order_of_objects_matters_only_where_overlaps_are_equal_or_anchors_wanted_twice(targets, claim, random):
    real = targets.boxes[~targets.ignore]
    iou = box_ops.iou(real, ANCHORS)
    overlapping = iou[iou > 0]
    wanted = iou[iou.amax(1) > 0].argmax(1)
    if len(overlapping.unique()) < len(overlapping) or (claim in ("best", "first") and len(wanted.unique()) < len(wanted)):
        return
    order = torch.tensor(random.sample(range(len(targets.labels)), len(targets.labels)), dtype=torch.int64)
    mixed = Targets(targets.boxes[order], targets.labels[order], targets.ignore[order])
    matches = assign(MaxIoUAssigner(claim=claim), ANCHORS, [targets]).matches
    again = assign(MaxIoUAssigner(claim=claim), ANCHORS, [mixed]).matches
    back = torch.cat([order, torch.tensor([-2, -1])])  # from the end: -1 and -2 stand for themselves
    assert torch.equal(back[again], matches)


@given(image(most=10))
def test_bipartite_matching_gives_every_object_an_anchor_of_its_own(targets):
    """As long as it overlaps an anchor that no better pair took, which the slow one above decides."""
    assigner = MaxIoUAssigner(positive=1.0, negative=1.0, claim="greedy")
    _, _, objects = assign(assigner, ANCHORS, [targets]).positives()
    exact = box_ops.iou(targets.boxes, ANCHORS) == 1
    for n in objects.unique().tolist():
        assert (objects == n).sum() <= max(1, int(exact[n].sum()))
        assert not targets.ignore[n]
