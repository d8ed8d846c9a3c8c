"""Our TinySSD against the d2l book's definitions (sections 14.4 and 14.7), written out slowly, and against a network of theirs.

The book works in parts of the picture's side; ours in pixels. The book's code adds 1e-6 inside the logarithm of the offsets.
"""

import csv
import math

import pytest
import torch

import onestage
import slow_references as slow
from onestage import boxes as box_ops
from onestage.metrics.coco import coco_metrics
from onestage.structures import Targets, Truth

SIDE = 256
SIZES = [(0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961)]
RATIOS = [1, 2, 0.5]
MAPS = [32, 16, 8, 4, 1]


@pytest.fixture(scope="module")
def model():
    return onestage.create("tinyssd", num_classes=1).eval()


def book_anchors():
    """14.4: at every pixel of the map, width s * sqrt(r), height s / sqrt(r), for (s1, r1), (s2, r1), (s1, r2), (s1, r3)."""
    anchors = []
    for cells, (s1, s2) in zip(MAPS, SIZES, strict=True):
        shapes = [(s1, RATIOS[0]), (s2, RATIOS[0]), (s1, RATIOS[1]), (s1, RATIOS[2])]
        for row in range(cells):
            for column in range(cells):
                x, y = (column + 0.5) / cells, (row + 0.5) / cells
                for s, r in shapes:
                    w, h = s * math.sqrt(r), s / math.sqrt(r)
                    anchors.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return anchors


def book_matches(anchors, boxes, threshold=0.5):
    """14.4: first by threshold; then, once per object, the largest IoU left of all, whose row and column are struck out."""
    table = [[slow.iou(a, b) for b in boxes] for a in anchors]
    matches = [row.index(max(row)) if max(row) >= threshold else -1 for row in table]
    for _ in boxes:
        best = max(max(row) for row in table)
        a = next(i for i, row in enumerate(table) if best in row)
        n = table[a].index(best)
        matches[a] = n
        table[a] = [-1.0] * len(boxes)
        for row in table:
            row[n] = -1.0
    return matches


OBJECTS = [
    [[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]],  # the book's dog and cat
    [[0.3, 0.3, 0.4, 0.4], [0.31, 0.3, 0.41, 0.41], [0.3, 0.31, 0.39, 0.41]],  # three that want the same anchors
    [[0.0, 0.0, 1.0, 1.0]],
]


def test_anchors(model):
    ours = model.anchors((SIDE, SIDE))
    assert ours.shape == (5444, 4)
    torch.testing.assert_close(ours / SIDE, torch.tensor(book_anchors()), atol=1e-6, rtol=0)


def test_matches_and_offsets(model):
    targets = [Targets(torch.tensor(boxes) * SIDE, torch.zeros(len(boxes), dtype=torch.int64)) for boxes in OBJECTS]
    assignment = model.assign(targets, (SIDE, SIDE))
    anchors = model.anchors((SIDE, SIDE))
    pixels = anchors.tolist()
    for image, boxes in enumerate(OBJECTS):
        expected = book_matches(pixels, (torch.tensor(boxes) * SIDE).tolist())
        assert assignment.matches[image].tolist() == expected
        positive = [a for a, n in enumerate(expected) if n >= 0]
        theirs = [slow.offsets(book_anchors()[a], boxes[expected[a]], eps=1e-6) for a in positive]
        matched = assignment.boxes[image, assignment.matches[image, positive]]
        ours = model.config.coder.encode(anchors[positive], matched)
        torch.testing.assert_close(ours, torch.tensor(theirs), atol=2e-4, rtol=1e-5)


def test_every_object_has_an_anchor_of_its_own(model):
    boxes = torch.tensor(OBJECTS[1]) * SIDE
    _, _, objects = model.assign([Targets(boxes, torch.zeros(3, dtype=torch.int64))], (SIDE, SIDE)).positives()
    assert set(objects.tolist()) == {0, 1, 2}


@pytest.fixture(scope="module")
def trained(shared_data):
    return onestage.create("tinyssd", num_classes=1, weights=shared_data / "weights" / "tinyssd_d2l_net30.pkl").eval()


def test_the_book_s_network_sees_pixels_as_they_are(trained):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(trained.config.preprocess.normalize(pixels), pixels.float())


def test_the_book_s_network_reaches_its_known_ap(trained, shared_data):
    """Every 5th picture: AP50 .741, AP75 .689, by the recipe's own settings: scores above 0.01, NMS at IoU 0.5."""
    folder = shared_data / "tinyssd_set"
    with (folder / "label.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::5]
    boxes = torch.tensor([[[float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")]] for row in rows])
    flags = torch.zeros(1, dtype=torch.bool)
    truths = [
        Truth(b, flags.long(), flags, flags, box_ops.area(b), row["img_name"]) for b, row in zip(boxes, rows, strict=True)
    ]
    found = trained.predict([folder / "images" / row["img_name"] for row in rows], batch_size=40)
    metrics = coco_metrics(found, truths, trained.config.classes)
    assert len(rows) == 200
    assert metrics.figures["AP50"] == pytest.approx(0.741, abs=5e-4)
    assert metrics.figures["AP75"] == pytest.approx(0.689, abs=5e-4)
