"""ATSS on any batch: what the slow one gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slow_references as slow
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.anchors.max_iou import assign
from onestage.structures import Targets

MAPS, SHAPES = [(5, 5), (2, 2), (1, 1)], [2, 1, 1]
LEVELS = [AnchorLevel(((10.0, 10.0), (16.0, 8.0))), AnchorLevel(((28.0, 28.0),)), AnchorLevel(((40.0, 40.0),))]
COUNTS = (50, 4, 1)
ANCHORS = anchor_boxes(LEVELS, MAPS, (40, 40))

position, extent = st.integers(0, 36), st.integers(1, 24)
row = st.tuples(position, position, extent, extent, st.booleans())


@given(st.lists(st.lists(row, max_size=5), min_size=1, max_size=3), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_equals_the_slow_one(batch, top_k):
    targets = []
    for rows in batch:
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows], dtype=torch.float32).view(-1, 4)
        ignore = torch.tensor([i for *_, i in rows], dtype=torch.bool)
        targets.append(Targets(boxes, torch.arange(len(rows)), ignore))
    matches = assign(ATSSAssigner(top_k), ANCHORS, targets, levels=COUNTS).matches
    for found, t in zip(matches, targets, strict=True):
        expected = slow.atss_matches(ANCHORS.tolist(), COUNTS, t.boxes.tolist(), t.ignore.tolist(), shapes=SHAPES, top_k=top_k)
        if not any(near_the_limit(box, top_k) for box in t.boxes.tolist()):
            assert found.tolist() == expected


def near_the_limit(box, top_k):
    """Whether a candidate's IoU is so close to mean + deviation that rounding decides."""
    overlaps, start = [], 0
    for count, of_cell in zip(COUNTS, SHAPES, strict=True):
        cells = sorted(range(start, start + count, of_cell), key=lambda a: distance(a, box))[:top_k]
        overlaps += [slow.iou(ANCHORS[c + s].tolist(), box) for c in cells for s in range(of_cell)]
        start += count
    values = torch.tensor(overlaps, dtype=torch.float64)
    limit = values.mean() + (values.std() if len(values) > 1 else 0)
    return bool(((values - limit).abs() < 1e-6).any())


def distance(anchor, box):
    (ax, ay), (x, y) = slow.centre(ANCHORS[anchor].tolist()), slow.centre(box)
    return (ax - x) ** 2 + (ay - y) ** 2
