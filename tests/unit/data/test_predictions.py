"""Detections as files: the right numbers, whole files only."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trees
from onestage.data import load_dataset
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


NAMES = st.one_of(
    st.text(min_size=1), st.sampled_from(["a\rb", "a\nb", "\r\n", '"', "a,b", " a ", "=1+1", "\x00", "\u2028", "\udce9", "é"])
)
TEXTS = NAMES.filter(lambda name: not any("\ud800" <= character < "\udc80" for character in name))
"""What file systems and label files can hold; other halves of characters are in the next test."""


@given(label=TEXTS, path=TEXTS)
def test_every_name_comes_back_from_a_csv_file_as_it_was(
    label: str, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("names") / "p.csv"
    found = detections(path=path)
    object.__setattr__(found, "class_names", (label, "cat"))
    with PredictionWriter(file, "csv") as writer:
        writer.add(found)
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert [row[:2] for row in rows[1:]] == [[path, label], [path, "cat"]]


@pytest.mark.parametrize("format", FORMATS)
def test_half_a_character_costs_no_results(format: Format, tmp_path: Path) -> None:
    found = detections("x\ud83d", path="x\ud83d")
    object.__setattr__(found, "class_names", ("dog\ud83d", "cat"))
    with PredictionWriter(tmp_path / "p", format) as writer:
        writer.add(found)
    assert "\\ud83d" in (tmp_path / "p").read_text() or format == "coco"


def as_text(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        entry["id"] = f"{entry['id']:012}"
    for entry in content["annotations"]:
        entry["image_id"] = f"{entry['image_id']:012}"


def as_floats(content: dict[str, Any]) -> None:
    for key in ("images", "annotations", "categories"):
        for entry in content[key]:
            entry |= {name: float(value) for name, value in entry.items() if name.endswith("id")}


@pytest.mark.parametrize("change", [lambda content: None, as_text, as_floats])
def test_pycocotools_takes_predictions_as_they_are(change: Any, tmp_path: Path) -> None:
    """Perfect predictions measure as 1 against the annotation file that the data set came from."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    content: dict[str, Any] = trees.coco_content()
    change(content)
    for entry in content["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    data = load_dataset(trees.coco(tmp_path, content))
    with PredictionWriter(tmp_path / "predictions.json", "coco") as writer:
        for index in range(len(data)):
            truth = data.truth(index)
            labels = truth.labels.tolist()
            writer.add(
                Detections(
                    boxes=truth.boxes,
                    scores=torch.full((len(labels),), 0.5),
                    labels=truth.labels,
                    class_names=tuple(data.classes[label] for label in labels),
                    category_ids=tuple(data.category_ids[label] for label in labels),
                    size=trees.SIZE,
                    image_id=truth.image_id,
                )
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth_file = coco.COCO(tmp_path / "annotations/instances_train2017.json")
        evaluation = cocoeval.COCOeval(truth_file, truth_file.loadRes(str(tmp_path / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
