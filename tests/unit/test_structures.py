"""The types between the rooms: what they refuse, and what they keep."""

import pytest
import torch

from onestage.errors import DataError
from onestage.structures import Batch, ImageMeta, Sample, Targets, Truth, check_labels

BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 30], [1, 2, 3, 4]])
LABELS = torch.tensor([0, 1, 0])


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


def test_the_frame_is_where_the_picture_lies():
    meta = ImageMeta((100, 201), (320, 256), scale=(1.28, 256 / 201), pad=(40, 0))
    assert meta.frame.tolist() == [0, 40, 256, 168]
    assert ImageMeta.stretched((100, 201), (300, 333)).frame.tolist() == [0, 0, 333, 300]
