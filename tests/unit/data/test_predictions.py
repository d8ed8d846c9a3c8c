"""Detections as files: the right numbers, whole files only."""

import csv
import json
from pathlib import Path

import pytest
import torch

from onestage.data.predictions import FORMATS, Format, PredictionWriter, coco_results
from onestage.errors import DataError
from onestage.structures import Detections


def detections(image_id: int | str = 139, path: str = "a, b.jpg", count: int = 2) -> Detections:
    return Detections(
        boxes=torch.tensor([[10.0, 20.0, 40.0004, 60.0], [0.1, 0.2, 5.0, 5.0]])[:count],
        scores=torch.tensor([0.9, 0.25])[:count],
        labels=torch.tensor([1, 0])[:count],
        class_names=('"dog"', "cat")[:count],
        category_ids=(18, 17)[:count],
        size=(100, 200),
        image_id=image_id,
        path=path,
    )


def test_coco_results_have_the_ids_of_the_data_set_and_xywh_boxes() -> None:
    first, second = coco_results(detections())
    assert first == {"image_id": 139, "category_id": 18, "bbox": [10.0, 20.0, 30.0, 40.0], "score": pytest.approx(0.9)}
    assert second["bbox"] == [0.1, 0.2, 4.9, 4.8]


def test_scores_that_differ_stay_different() -> None:
    near = torch.tensor(0.3).nextafter(torch.tensor(1.0)).item()
    found = detections()
    object.__setattr__(found, "scores", torch.tensor([near, 0.3]))
    first, second = (entry["score"] for entry in coco_results(found))
    assert first > second


def test_coco_file(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.json", "coco") as writer:
        for found in (detections(1, count=0), detections(2), detections("x", count=1)):
            writer.add(found)
    content = json.loads((tmp_path / "p.json").read_text())
    assert [entry["image_id"] for entry in content] == [2, 2, "x"]


def test_csv_file_quotes_names(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.csv", "csv") as writer:
        writer.add(detections())
        writer.add(detections(count=0))
        writer.add(detections(5, path="", count=1))
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a, b.jpg", "a, b.jpg", "5"]
    assert rows[0]["label"] == '"dog"' and rows[0]["xmax"] == "40.0" and rows[0]["category_id"] == "18"
    assert float(rows[1]["score"]) == 0.25


def test_json_lines_hold_pictures_without_detections_too(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.jsonl", "jsonl") as writer:
        writer.add(detections(count=0))
        writer.add(detections())
    empty, full = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines())
    assert empty["detections"] == [] and (empty["height"], empty["width"]) == (100, 200)
    assert full["detections"][0]["box"] == [10.0, 20.0, 40.0, 60.0] and full["path"] == "a, b.jpg"


@pytest.mark.parametrize(("format", "text"), [("coco", []), ("csv", None), ("jsonl", None)])
def test_no_pictures_at_all_still_make_a_valid_file(format: Format, text: object, tmp_path: Path) -> None:
    path = tmp_path / FORMATS[format].file_name
    with PredictionWriter(path, format):
        pass
    if format == "coco":
        assert json.loads(path.read_text()) == text
    else:
        assert len(path.read_text().splitlines()) == (format == "csv")


def test_an_error_leaves_the_earlier_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("earlier")
    with pytest.raises(DataError), PredictionWriter(path, "coco") as writer:
        writer.add(detections())
        raise DataError("broken")
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_until_the_end_the_earlier_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("earlier")
    with PredictionWriter(path, "coco") as writer:
        writer.add(detections())
        assert path.read_text() == "earlier"
    assert len(json.loads(path.read_text())) == 2 and list(tmp_path.iterdir()) == [path]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    odd = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    for format in FORMATS:
        with PredictionWriter(tmp_path / FORMATS[format].file_name, format) as writer:
            writer.add(detections(odd, path=odd))
    assert b"caf\xe9.jpg" in (tmp_path / "predictions.csv").read_bytes()
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["image_id"] == odd
