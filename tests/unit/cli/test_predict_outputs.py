"""``onestage predict``: crops, blurred copies, zones and data sets, as a user asks for them."""

import csv
import json
from pathlib import Path

import pytest
import torch

from onestage import load
from onestage.cli.main import main
from onestage.data import load_dataset
from onestage.images import decode_image
from onestage.predict.blurring import CELLS

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def photos(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, two of them with the same name, in a folder that has the name of a split."""
    folder = tmp_path / "photos"
    for source, name in zip(sorted((shapes / "test").iterdir()), ("val/x.jpg", "b/x.jpg", "b/y.jpg"), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def predict(run: Path, *arguments: str) -> int:
    return main(["predict", str(run), "photos", "--score", "0.25", *arguments])


def test_everything_at_once_agrees_with_python(run: Path, photos: Path, capsys: Captured) -> None:
    zone = "left=0,0,.5,0,.5,1,0,1"
    assert predict(run, "--save-crops", "--zone", zone, "--to", "yolo", "coco", "voc", "labelme", "--format", "counts") == 0
    paths = ["photos/b/x.jpg", "photos/b/y.jpg", "photos/val/x.jpg"]
    expected = load(run / "best.safetensors").predict(paths, score=0.25)
    crops = [path for path in Path("predictions/crops").rglob("*") if path.is_file()]
    assert 0 < len(crops) <= sum(map(len, expected)) and {path.parent.name for path in crops} <= {"ball", "ring"}
    for format in ("yolo", "coco", "voc", "labelme"):
        data = load_dataset(f"predictions/{format}")
        assert [Path(path).stem for path in data.paths] == ["b_x", "b_y", "val_x"] and data.format == format
        for row, found in enumerate(expected):
            truth, clipped = data.truth(row), found.clipped()
            torch.testing.assert_close(truth.boxes, clipped.boxes, atol=1.1 if format == "voc" else 2e-3, rtol=0)
            assert tuple(data.classes[label] for label in truth.labels) == found.class_names
    rows = list(csv.DictReader(Path("predictions/counts.csv").read_text().splitlines()))
    assert [(row["image"], row["zone"]) for row in rows] == [
        (path, zone) for path in paths for zone in ("whole picture", "left")
    ]
    assert [int(row["objects"]) for row in rows[::2]] == [len(found) for found in expected]
    feet = sum((x1 + x2) / 2 < 32 for found in expected for x1, _, x2, _ in found.boxes.tolist())
    assert sum(int(row["objects"]) for row in rows[1::2]) == feet
    text = capsys.readouterr().out
    assert "in left: " in text and "crops: predictions/crops" in text and "data set (voc): predictions/voc" in text


def test_a_set_of_detections_trains(run: Path, photos: Path) -> None:
    assert predict(run, "--no-pictures", "--to", "yolo", "--link", "--top", "2") == 0
    assert main(["train", "predictions/yolo", "--model", "tinyssd", "--size", "64x64", "--steps", "2", "--out", "again"]) == 0
    assert Path("again/best.safetensors").is_file()


def test_a_set_and_crops_are_never_written_over(run: Path, photos: Path, capsys: Captured) -> None:
    assert predict(run, "--no-pictures", "--to", "labelme") == 0
    file = Path("predictions/labelme/b_x.json")
    file.write_text("corrected")
    assert predict(run, "--no-pictures", "--to", "labelme") == 2
    assert "may have corrected it" in capsys.readouterr().err and file.read_text() == "corrected"
    Path("predictions/crops").mkdir()
    assert predict(run, "--save-crops") == 0
    assert predict(run, "--save-crops") == 2


def test_all_pictures_are_blurred_that_are_written(run: Path, photos: Path) -> None:
    assert predict(run, "--blur", "ring", "ball", "--save-crops", "--to", "coco", "--format", "jsonl") == 0
    lines = [json.loads(line) for line in Path("predictions/predictions.jsonl").read_text().splitlines()]
    for line, stem in zip(lines, ("b_x", "b_y", "val_x"), strict=True):
        blurred = decode_image(f"predictions/blurred/{line['image_id']}")
        assert torch.equal(blurred, decode_image(f"predictions/coco/train/{stem}.jpg"))
        assert (blurred != decode_image(line["path"])).any()
        crops = [path for path in Path("predictions/crops").rglob(f"{stem}-*.jpg") if path.is_file()]
        assert crops
    assert CELLS < 8  # so that no cell of an object of 64 pixels is a detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blur", "face"], "the model knows no class 'face'"),
        (["--blur", "rings"], "did you mean 'ring'?"),
        (["--blur", "ring", "--top", "3"], "would stay readable"),
        (["--blur", "ring", "--classes", "ball"], "would stay readable"),
        (["--blur", "ring", "--to", "yolo", "--link"], "nothing to link to"),
        (["--link"], "nothing to link to"),
        (["--zone", "door"], "name and corners"),
        (["--zone", "a=0,0,1,0,1,1", "--zone", "a=0,0,1,0,1,1"], "two zones have one name"),
        (["--to", "xml"], "--to"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, run: Path, photos: Path, capsys: Captured) -> None:
    assert predict(run, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not Path("predictions").exists()
