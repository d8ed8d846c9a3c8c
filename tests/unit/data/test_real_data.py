"""The readers on real data sets in every layout at hand."""

import shutil
from pathlib import Path

import pytest
import torch

from onestage.data import Dataset, list_splits, load_dataset
from onestage.data.check import check_dataset
from onestage.errors import DataError


def objects_by_picture(data: Dataset) -> dict[str, list[tuple[str, list[float]]]]:
    found = {}
    for index, path in enumerate(data.paths):
        truth = data.truth(index)
        names = [data.classes[k] for k in truth.labels.tolist()]
        found[Path(path).stem] = sorted(zip(names, truth.boxes.tolist(), strict=True))
    return found


def test_bccd_is_voc_one_folder_down_with_two_bad_boxes(shared_data: Path) -> None:
    root = shared_data / "bccd"
    assert list_splits(root) == ("train", "val", "trainval", "test")
    with pytest.raises(DataError, match="2 problems in this data set") as caught:
        load_dataset(root)
    assert "BCCD/Annotations/BloodImage_00343.xml object 4" in str(caught.value)
    data = load_dataset(root, on_bad="skip")
    assert (data.format, len(data), len(data.boxes), len(data.problems)) == ("voc", 364, 4886, 2)
    assert data.classes == ("Platelets", "RBC", "WBC")
    counts = {split: len(load_dataset(root, split=split, on_bad="skip")) for split in list_splits(root)}
    assert counts == {"train": 205, "val": 87, "trainval": 292, "test": 72}


def test_coco_tiny(shared_data: Path) -> None:
    data = load_dataset(shared_data / "coco_tiny")
    assert (data.format, data.split, len(data), len(data.boxes)) == ("coco", "train", 80, 705)
    assert len(data.classes) == 80 and data.category_ids[-1] == 90 and data.classes[-1] == "toothbrush"
    assert int(data.crowd.sum()) == 6
    sample = data[3]
    assert tuple(sample.image.shape[1:]) == data.sizes[3]


def test_the_form_of_the_banana_set(shared_data: Path) -> None:
    data = load_dataset(shared_data / "tinyssd_set")
    assert (data.format, data.split, len(data), len(data.boxes)) == ("csv", None, 1000, 1000)
    assert data.boxes[0].tolist() == [111, 71, 161, 125]
    assert list_splits(shared_data / "tinyssd_set") == ()


def test_one_picture_as_voc_coco_and_csv(shared_data: Path) -> None:
    root = shared_data / "formats_one_image"
    assert list_splits(root / "coco") == ("train", "val") == list_splits(root / "pascal")
    assert len(load_dataset(root / "coco", split="val").boxes) == 19
    person = load_dataset(root / "pascal", split="train")
    assert person.boxes.tolist() == [[48, 240, 195, 371], [8, 12, 352, 498]]
    assert load_dataset(root / "csv").boxes.tolist() == [[47, 239, 194, 370]]
    with pytest.raises(DataError, match="coco and voc and csv"):
        load_dataset(root)
    assert len(load_dataset(root, "voc")) == 1


@pytest.fixture(scope="module")
def same_truth(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that comes in several formats, each with its pictures where that format has them."""
    source, root = shared_data / "metrics_formats/data/database", tmp_path_factory.mktemp("formats")
    shutil.copytree(source / "gts", root, dirs_exist_ok=True)
    for folder in ("coco_format_v1", "coco_format_v2", "imagenet_format"):
        (root / folder / "images").symlink_to(source / "images")
    for folder in ("pascalvoc_format", "yolo_format/obj_train_data"):
        for picture in (source / "images").iterdir():
            (root / folder / picture.name).symlink_to(picture)
    return root


def test_formats_of_one_truth_agree(same_truth: Path) -> None:
    voc = load_dataset(same_truth / "pascalvoc_format")
    expected = objects_by_picture(voc)
    assert len(voc) == 100 and len(voc.boxes) == 273
    for folder in ("coco_format_v1", "coco_format_v2", "imagenet_format", "yolo_format"):
        data = load_dataset(same_truth / folder)
        found = objects_by_picture(data)
        assert found.keys() == expected.keys()
        assert set(data.classes) == set(voc.classes)
        tolerance = 1e-3 if folder == "yolo_format" else 0  # YOLO's six decimals
        for name, objects in expected.items():
            assert [label for label, _ in found[name]] == [label for label, _ in objects]
            found_boxes = torch.tensor([box for _, box in found[name]]).reshape(-1, 4)
            assert (found_boxes - torch.tensor([box for _, box in objects]).reshape(-1, 4)).abs().max() <= tolerance


def test_the_doctor_on_bccd(shared_data: Path) -> None:
    report = check_dataset(shared_data / "bccd", fast=True)
    assert [(split.name, split.pictures) for split in report.splits] == [("train", 205), ("val", 87), ("test", 72)]
    assert {summary.name: summary.objects for summary in report.classes} == {"Platelets": 361, "RBC": 4153, "WBC": 372}
    assert report.picture_sizes == (((480, 640), 364),) and report.file_kinds == {"jpg": 364}
    assert len(report.problems) == 2


LAYOUTS = {
    "capital_folders": 12, "pose_labels": 6, "voc_copies": 6, "voc_subfolders": 6, "yolo_deep": 6, "voc_same_stem": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_sets_as_people_leave_them(name: str, shared_data: Path) -> None:
    """Three objects in each picture."""
    report = check_dataset(shared_data / "layouts" / name, fast=True)
    assert (report.pictures, report.objects, report.problems) == (LAYOUTS[name], 3 * LAYOUTS[name], ())
    assert name != "voc_same_stem" or report.file_kinds == {"jpg": 3}


def test_two_orders_of_classes_are_told(shared_data: Path) -> None:
    with pytest.raises(DataError, match="disagree") as caught:
        load_dataset(shared_data / "layouts/two_classes_txt")
    assert "train/classes.txt: red, blue; val/classes.txt: blue, red" in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [("empty_val", "AP cannot be measured"), ("val_only_class", "does not have: blue")])
def test_a_validation_split_that_measures_nothing_is_told(name: str, words: str, shared_data: Path) -> None:
    (problem,) = check_dataset(shared_data / "layouts" / name, fast=True).problems
    assert words in problem.what
