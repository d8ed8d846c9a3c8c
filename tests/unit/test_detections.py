"""Detections as a sequence: iterated, cut, masked, drawn, and given to other libraries."""

import json
import sys

import numpy as np
import pytest
import torch

from onestage.errors import ConfigError, DataError, RowError
from onestage.structures import Detection, Detections, to_pandas

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


def test_detections_introduce_themselves_in_a_line():
    many = found()
    assert repr(many).startswith(f"Detections({len(many)}: ") and "best score" in repr(many)
    assert len(repr(many)) < 120
    assert repr(many.select(torch.zeros(len(many), dtype=torch.bool))) == "Detections(0)"


def test_they_are_a_sequence():
    detections = found()
    objects = list(detections)
    assert objects[1] == Detection((5.0, 5.0, 20.0, 30.0), 0.5, 1, "dog", 3)
    assert len(objects) == len(detections) == 3 and objects[1] in detections
    assert [detections[i] for i in (-3, -2, np.int64(-1))] == [detections[i] for i in (0, 1, 2)] == objects
    assert list(reversed(detections)) == objects[::-1]
    assert detections[detections.scores.argmin()] == objects[2] == detections[np.array(-1)]
    (x1, *_), score, *_, category_id = objects[0]
    assert (x1, score, category_id) == (0.0, pytest.approx(0.9), 7)
    assert list(detections[:0]) == [] and not detections[:0]


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(5, 9), []),
        ([True, False, True], [0, 2]),
        (np.array([True, False, True]), [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        ([0, 2], [0, 2]),
        (np.array([2, -3], dtype=np.int16), [2, 0]),
        (torch.tensor([-1, 0]), [2, 0]),
        ([1, 1], [1, 1]),
        ([], []),
        ([np.int64(1)], [1]),
        (np.zeros(3, dtype=bool), []),
        (torch.zeros(0, dtype=torch.int64), []),
    ],
    ids=str,
)
def test_rows_are_chosen_by_slices_masks_and_numbers(key, rows):
    detections = found(image_id=5, path="a.jpg")
    chosen = detections[key]
    assert list(chosen) == [detections[i] for i in rows]
    assert torch.equal(chosen.boxes, BOXES[rows]) and chosen.class_names == tuple(("cat", "dog", "cat")[i] for i in rows)
    assert (chosen.image_id, chosen.path, chosen.size) == (5, "a.jpg", (25, 15))
    assert list(detections.select(key)) == list(chosen)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        (torch.tensor([1.0, 0, 1]), "float64"),
        (torch.tensor([1.0, 0, 1], dtype=torch.bfloat16), "float64"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([1, 0, 1], dtype=np.uint8), "uint8"),
        (torch.tensor([1, 0, 1], dtype=torch.uint8), "uint8"),
        ([1.0], "float64"),
        (torch.tensor([True, False]), "wrong length"),
        ([True] * 4, "wrong length"),
        (np.ones((3, 1), dtype=bool), r"shape \(3, 1\)"),
        (np.ones((3, 3), dtype=bool), r"shape \(3, 3\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.tensor(True), r"shape \(\)"),
        (True, "bool"),
        ([True, 1, 0], "object"),
        ([[0], [1, 2]], "object"),
        ((0, 1), "object"),
        ("cat", "object"),
        (None, "object"),
        (..., "object"),
        (1.0, "float64"),
        (3, "no such detection"),
        (-4, "no such detection"),
        ([0, 3], "no such detection"),
        (torch.tensor([-4]), "no such detection"),
    ],
    ids=str,
)
def test_what_names_no_rows_is_refused(key, word):
    with pytest.raises(RowError, match=word) as caught:
        found()[key]
    assert isinstance(caught.value, IndexError) and isinstance(caught.value, DataError)
    with pytest.raises(RowError):
        found().select(key)


def test_arrays():
    boxes, scores, labels = found().numpy()
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
    assert np.array_equal(boxes, BOXES.numpy()) and labels.tolist() == [0, 1, 0]
    assert found().numpy().scores.tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert found()[:0].numpy().boxes.shape == (0, 4)


@pytest.mark.filterwarnings("ignore:OpenCV")
@pytest.mark.parametrize("count", [3, 0])
def test_supervision_gets_a_copy(count):
    supervision = pytest.importorskip("supervision")
    detections = found()[:count]
    theirs = detections.to_supervision()
    assert isinstance(theirs, supervision.Detections) and len(theirs) == count
    assert theirs.data["class_name"].tolist() == list(detections.class_names)
    assert np.array_equal(theirs.xyxy, detections.boxes) and theirs.class_id.tolist() == detections.labels.tolist()
    assert np.array_equal(theirs.confidence, detections.scores)
    assert len(theirs[theirs.confidence > 0.3]) == min(count, 2)
    theirs.xyxy += 1
    assert torch.equal(detections.boxes, BOXES[:count])


@pytest.mark.parametrize("count", [3, 0])
def test_pandas_gets_a_row_for_each(count):
    pandas = pytest.importorskip("pandas")
    table = found(image_id=5, path="a.jpg")[:count].to_pandas()
    columns = ["x1", "y1", "x2", "y2", "score", "label", "class_name", "category_id", "image_id", "path"]
    assert list(table.columns) == columns and len(table) == count
    if count:
        row = table.iloc[1].to_dict()
        assert row == {**dict(zip(columns, (5, 5, 20, 30, 0.5, 1, "dog", 3, 5, "a.jpg"), strict=True))}
    assert table.label.dtype == table.category_id.dtype == np.int64 and table.x1.dtype == np.float32
    table.loc[:, "x1"] = 99.0
    assert isinstance(table, pandas.DataFrame) and torch.equal(found().boxes, BOXES)


@pytest.mark.parametrize("image_id", [5, "a"])
def test_pandas_gets_the_same_types_without_detections(image_id):
    pytest.importorskip("pandas")
    some, none = (found(image_id=image_id, path="a.jpg")[:count].to_pandas() for count in (2, 0))
    assert len(none) == 0 and none.dtypes.to_dict() == some.dtypes.to_dict() and list(none) == list(some)


def test_pandas_gets_one_table_for_several_pictures():
    pandas = pytest.importorskip("pandas")
    pictures = [found(image_id=5, path="a.jpg"), found(image_id=6, path="b.jpg")[:0], found(image_id=7, path="c.jpg")[:2]]
    table = to_pandas(iter(pictures))
    expected = pandas.concat([pictures[0].to_pandas(), pictures[2].to_pandas()], ignore_index=True)
    pandas.testing.assert_frame_equal(table, expected)
    for none in ([], pictures[1:2]):
        assert len(to_pandas(none)) == 0 and list(to_pandas(none)) == list(table)
    assert to_pandas(pictures[1:2]).dtypes.to_dict() == table.dtypes.to_dict()
    with pytest.raises(ConfigError, match=r"found\.to_pandas\(\)"):
        to_pandas(pictures[0])
    assert table.groupby("image_id").size().to_dict() == {5: 3, 7: 2}


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"{package} is not installed") as caught:
        getattr(found(), f"to_{package}")()
    assert caught.value.fix == f"pip install {package}"
