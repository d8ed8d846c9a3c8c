"""The types between the rooms: what they refuse, and what they keep."""

import json

import pytest
import torch

from onestage.errors import DataError
from onestage.structures import Batch, Detections, ImageMeta, Sample, Targets, Truth, check_labels

BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 30], [1, 2, 3, 4]])
LABELS = torch.tensor([0, 1, 0])


def found(**changes):
    parts = {
        "boxes": BOXES,
        "scores": torch.tensor([0.9, 0.5, 0.1]),
        "labels": LABELS,
        "class_names": ("cat", "dog", "cat"),
        "category_ids": (7, 3, 7),
        "size": (25, 15),
    }
    return Detections(**{**parts, **changes})


def test_labels_lie_among_the_classes():
    check_labels(torch.tensor([0, 2, 1]), 3, where="here")
    check_labels(torch.tensor([], dtype=torch.int64), 0, where="here")
    for labels, wrong in (([0, 3], 3), ([-1, 2], -1)):
        with pytest.raises(DataError, match=f"got: +{wrong}\n +expected: 0 to 2 for 3 classes"):
            check_labels(torch.tensor(labels), 3, where="here")


def test_targets_ignore_nothing_unless_told():
    assert Targets(BOXES, LABELS).ignore.tolist() == [False] * 3
    assert Targets(BOXES[:0], LABELS[:0]).ignore.shape == (0,)
    assert Targets(BOXES, LABELS, torch.tensor([True, False, False])).to("cpu").ignore.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [(BOXES, LABELS[:2]), (BOXES[:, :3], LABELS), (BOXES[0], LABELS[:1]), (BOXES, LABELS[:, None])],
    ids=["too few labels", "three coordinates", "a bare box", "labels in a column"],
)
def test_rows_that_do_not_line_up_are_refused(boxes, labels):
    with pytest.raises(DataError, match="do not line up"):
        Targets(boxes, labels)


def test_the_error_names_the_picture():
    flags = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(DataError, match="Sample 42"):
        Sample(torch.zeros(3, 9, 9, dtype=torch.uint8), BOXES, LABELS, flags[:1], 42, "a.jpg")
    with pytest.raises(DataError, match="Truth b"):
        Truth(BOXES, LABELS, flags, flags, torch.zeros(2), "b")


def test_batch_parts_have_one_length():
    meta = ImageMeta((10, 10), (10, 10), (1.0, 1.0), (0, 0))
    images = torch.zeros(2, 3, 10, 10, dtype=torch.uint8)
    with pytest.raises(AssertionError):
        Batch(images, (Targets(BOXES, LABELS),), (meta, meta))
    assert Batch(images, (Targets(BOXES, LABELS),) * 2, (meta, meta)).to("cpu").images.dtype == torch.uint8


def test_meta_maps_points_as_its_docstring_says():
    meta = ImageMeta(original=(50, 100), input=(300, 320), scale=(2.0, 3.0), pad=(10, 4))
    assert meta.apply(torch.tensor([[1.0, 2, 30, 40]])).tolist() == [[3 + 4, 4 + 10, 90 + 4, 80 + 10]]
    assert torch.equal(meta.undo(meta.apply(BOXES)), BOXES)


def test_detections_select_by_flags_and_by_rows():
    few = found().select(torch.tensor([True, False, True]))
    assert few.class_names == ("cat", "cat")
    assert few.category_ids == (7, 7)
    assert few.scores.tolist() == pytest.approx([0.9, 0.1])
    assert len(few) == 2
    again = found().select(torch.tensor([1]))
    assert again.class_names == ("dog",)
    assert torch.equal(again.boxes, BOXES[1:2])
    assert len(found().select(torch.zeros(3, dtype=torch.bool))) == 0


def test_detections_clip_to_their_picture():
    assert found().clipped().boxes[1].tolist() == [5, 5, 15, 25]


def test_detections_as_plain_data():
    plain = json.loads(json.dumps(found(image_id="a.jpg", path="d/a.jpg").to_dict()))
    assert (plain["image_id"], plain["path"], plain["height"], plain["width"]) == ("a.jpg", "d/a.jpg", 25, 15)
    assert plain["detections"][1] == {"box": [5, 5, 20, 30], "score": 0.5, "label": 1, "class_name": "dog", "category_id": 3}


def test_drawing_needs_a_picture():
    with pytest.raises(DataError, match=r"detections\.draw"):
        found().draw()
    grey = torch.full((3, 25, 15), 128, dtype=torch.uint8)
    drawn = found(source=lambda: grey).draw(score=0.6)
    assert drawn.size == (15, 25)
    assert drawn.tobytes() != found(source=lambda: grey).draw(score=0.95).tobytes()


def test_the_frame_is_where_the_picture_lies():
    meta = ImageMeta((100, 201), (320, 256), scale=(1.28, 256 / 201), pad=(40, 0))
    assert meta.frame.tolist() == [0, 40, 256, 168]
    assert ImageMeta.stretched((100, 201), (300, 333)).frame.tolist() == [0, 0, 333, 300]


def test_detections_introduce_themselves_in_a_line():
    many = found()
    assert repr(many).startswith(f"Detections({len(many)}: ") and "best score" in repr(many)
    assert len(repr(many)) < 120
    assert repr(many.select(torch.zeros(len(many), dtype=torch.bool))) == "Detections(0)"
