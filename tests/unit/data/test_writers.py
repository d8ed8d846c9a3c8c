"""Data sets on disk: what is written is what our readers read back."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from onestage.data.reader import list_splits, load_dataset
from onestage.data.writers import encode, write_coco, write_voc, write_yolo
from onestage.errors import DataError
from onestage.structures import Sample

CLASSES = ("cat", "dog", "eel")
WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
TOLERANCE = {"coco": 1e-3, "voc": 0.5, "yolo": 1e-3}


def _sample(image_id: int | str, boxes: list[list[float]], labels: list[int], ignore: list[bool] | None = None) -> Sample:
    ramp = torch.arange(40 * 60, dtype=torch.float32).reshape(40, 60) / 10
    image = torch.stack([ramp, 255 - ramp, ramp * 0 + 90]).to(torch.uint8)
    flags = torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool)
    return Sample(image, torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), flags, image_id, "")


@pytest.fixture
def samples() -> list[Sample]:
    """Two objects with fractions, none, and three that touch the borders."""
    return [
        _sample(3, [[1.25, 2.5, 30.75, 20.5], [10.0, 10.0, 10.625, 39.0]], [2, 0]),
        _sample(4, [], []),
        _sample(7, [[0.0, 0.0, 60.0, 40.0], [59.75, 3.0, 60.0, 4.0], [5.0, 39.6, 9.0, 40.0]], [1, 1, 0]),
    ]


@pytest.mark.parametrize("format", WRITERS)
def test_round_trip(format: str, samples: list[Sample], tmp_path: Path) -> None:
    assert WRITERS[format](samples, tmp_path, classes=CLASSES, split="train") == 3
    assert WRITERS[format]([_sample(9, [[1, 2, 3, 4]], [2])], tmp_path, classes=CLASSES, split="val") == 1
    assert list_splits(tmp_path) == ("train", "val")
    read = load_dataset(tmp_path, split="train")
    assert read.format == format and read.classes == CLASSES and len(read) == 3
    for i, sample in enumerate(samples):
        back = read[i]
        assert Path(back.path).name == f"{sample.image_id:06d}.jpg"
        assert torch.equal(back.labels, sample.labels) and not back.ignore.any()
        # VOC: a box narrower than a pixel is written one pixel wide
        assert ((back.boxes - sample.boxes).abs() <= TOLERANCE[format] + (0.5 if format == "voc" else 0)).all()
        assert (back.image.float() - sample.image.float()).abs().mean() < 4
    held_out = load_dataset(tmp_path, split="val")
    assert len(held_out) == 1 and held_out.truth(0).boxes.tolist()[0] == pytest.approx([1, 2, 3, 4], abs=1e-4)


def test_the_layouts_hold_the_same_pictures(samples: list[Sample], tmp_path: Path) -> None:
    for format, write in WRITERS.items():
        write(samples, tmp_path / format, classes=CLASSES, split="test")
    for folder in ("coco/test", "voc/JPEGImages", "yolo/images/test"):
        files = sorted((tmp_path / folder).iterdir())
        assert [file.read_bytes() for file in files] == [encode(sample).data for sample in samples]


def test_coco_keeps_ids_and_flags(samples: list[Sample], tmp_path: Path) -> None:
    crowd = _sample(8, [[1, 1, 5, 5], [2, 2, 9, 9]], [0, 1], [False, True])
    write_coco([*samples, crowd], tmp_path, classes=CLASSES, category_ids=(17, 18, 90))
    read = load_dataset(tmp_path)
    assert read.image_ids == (3, 4, 7, 8) and read.category_ids == (17, 18, 90)
    assert read[3].ignore.tolist() == [False, True]
    content = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    assert len({a["id"] for a in content["annotations"]}) == 7 and content["annotations"][0]["area"] == 29.5 * 18


def test_voc_marks_what_is_to_be_ignored_and_yolo_leaves_it_out(tmp_path: Path) -> None:
    sample = _sample("pier-4_b", [[1, 1, 5, 5], [2, 2, 9, 9]], [0, 1], [False, True])
    write_voc([sample], tmp_path / "voc", classes=CLASSES)
    read = load_dataset(tmp_path / "voc")
    assert read[0].ignore.tolist() == [False, True] and read.image_ids == ("pier-4_b",)
    write_yolo([sample], tmp_path / "yolo", classes=CLASSES)
    assert load_dataset(tmp_path / "yolo").labels.tolist() == [0]


def test_png_keeps_every_pixel(samples: list[Sample], tmp_path: Path) -> None:
    write_yolo([encode(sample, ".png") for sample in samples], tmp_path, classes=CLASSES)
    read = load_dataset(tmp_path)
    assert torch.equal(read[0].image, samples[0].image) and read.paths[0].endswith("000003.png")


def test_class_names_survive_yaml(tmp_path: Path) -> None:
    names = ("no", "012", "a: b", "Äpfel")
    write_yolo([_sample(1, [[1, 1, 5, 5]], [3])], tmp_path, classes=names)
    assert load_dataset(tmp_path).classes == names


@pytest.mark.parametrize("image_id", ["../x", "a/b", "", ".hidden", "a\0b"])
def test_an_id_that_leads_elsewhere_is_refused(image_id: str) -> None:
    with pytest.raises(DataError, match="cannot be a file name"):
        encode(_sample(image_id, [], []))


@pytest.mark.parametrize("write", WRITERS.values())
def test_what_cannot_be_written_is_refused(write: Callable[..., int], samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the same id"):
        write([samples[0], dataclasses.replace(samples[1], image_id=3)], tmp_path / "twice", classes=CLASSES)
    with pytest.raises(DataError, match="a label has no class"):
        write(samples, tmp_path / "labels", classes=CLASSES[:2])


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("name", ["000003.png", "000003.JPG"])
def test_two_pictures_with_one_file_of_labels_are_refused(name: str, format: str, tmp_path: Path) -> None:
    first = encode(_sample(3, [[1, 2, 3, 4]], [2]))
    with pytest.raises(DataError, match="the same id"):
        WRITERS[format]([first, dataclasses.replace(first, name=name)], tmp_path, classes=CLASSES)
