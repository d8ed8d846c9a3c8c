"""Doubted labels as files for label tools: nothing is lost or corrected, and a proposal is no label."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from metric_cases import found, known
from onestage.analysis.label_tools import PROPOSAL, ToCheck, common_folder, pictures_to_check, write_coco, write_labelme
from onestage.analysis.labels import find_suspects
from onestage.data import load_dataset
from onestage.metrics.tables import tabulate
from onestage.structures import Detections, Truth

CLASSES = ("cat", "dög <b>")
IDS = (7, 9)
CAT, DOG, NEW, PLACED, BETTER = (
    (10, 10, 60, 60),
    (100, 100, 160, 160),
    (300, 300, 340, 340.5),
    (230, 20, 290, 80),
    (200, 20, 240, 60),
)
CROWD = (400, 400, 500, 470)


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Detections, Truth]]:
    """One label of each reason beside one that is right and a crowd; a picture without a fault; an object labelled twice."""
    pairs = [
        (
            found("a", [(0, 0.99, *CAT), (0, 0.98, *DOG), (1, 0.97, *NEW), (0, 0.9, *BETTER)]),
            known("a", [(0, *CAT), (1, *DOG), (0, *PLACED), (0, *CROWD)], crowd=[3]),
        ),
        (found("b", [(0, 0.9, *CAT)]), known("b", [(0, *CAT), (1, *DOG)], ignore=[1])),
        (found("c"), known("c", [(0, *CAT), (1, *CAT)])),
    ]
    paths = {"a": "x/a.png", "b": "y/b.png", "c": "y/c.png"}
    return [(one, replace(truth, path=str(tmp_path / "data" / paths[str(truth.image_id)]))) for one, truth in pairs]


def to_check(pairs: list[tuple[Detections, Truth]], *, everything: bool = False) -> list[ToCheck]:
    labels = find_suspects(tabulate([one for one, _ in pairs], [truth for _, truth in pairs], CLASSES))
    return pictures_to_check(labels, pairs, CLASSES, everything=everything)


def test_every_label_is_kept_and_a_doubted_one_says_why(pairs: list[tuple[Detections, Truth]]) -> None:
    by_id = {picture.image_id: picture for picture in to_check(pairs)}
    assert set(by_id) == {"a", "c"}
    labels = [box for box in by_id["a"].boxes if not box.proposal]
    assert [(box.box, box.label, box.crowd) for box in labels] == [
        (CAT, 0, False), (DOG, 1, False), (PLACED, 0, False), (CROWD, 0, True)
    ]  # fmt: skip
    assert [box.reason.partition(":")[0] for box in labels] == ["", "swapped", "badly placed", ""]
    assert "labelled as dög <b>, the detector says cat (score 0.98" in labels[1].reason
    proposals = [(box.box, box.label, box.reason.partition(":")[0]) for box in by_id["a"].boxes if box.proposal]
    assert sorted(proposals) == [(BETTER, 0, "badly placed"), (NEW, 1, "overlooked")]
    assert set(by_id["a"].reasons) == {"overlooked", "badly placed", "swapped"}
    twice = [box.reason for box in by_id["c"].boxes]
    assert len(twice) == 2 and all(reason.startswith("swapped: labelled twice, as ") for reason in twice)
    assert [picture.image_id for picture in to_check(pairs, everything=True)][2:] == ["b"]


def pictures(pairs: list[tuple[Detections, Truth]]) -> Path:
    """The pictures on disk, and the folder that holds them all."""
    for _, truth in pairs:
        Path(truth.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480)).save(truth.path)
    return common_folder(truth.path for _, truth in pairs)


@pytest.mark.parametrize("everything", [False, True])
def test_a_coco_file_is_read_by_pycocotools_and_by_us(everything: bool, pairs: list[tuple[Detections, Truth]]) -> None:
    root = pictures(pairs)
    chosen = to_check(pairs, everything=everything)
    write_coco(chosen, root / "suspects.json", classes=CLASSES, category_ids=IDS, root=root)
    coco = COCO(root / "suspects.json")
    assert [coco.cats[i]["name"] for i in coco.cats] == [*CLASSES, PROPOSAL + CLASSES[0], PROPOSAL + CLASSES[1]]
    assert [coco.cats[i]["id"] for i in coco.cats] == [*IDS, 10, 11]
    assert len(coco.getAnnIds()) == (10 if everything else 8) and len(coco.getAnnIds(iscrowd=True)) == 1
    doubted = [row for row in coco.anns.values() if "reason" in row]
    assert len(doubted) == 6 and all(row["attributes"]["reason"] == row["reason"] for row in doubted)
    assert [row["category_id"] > 9 for row in doubted] == [row["attributes"]["proposal"] for row in doubted]
    data = load_dataset(root)
    assert data.classes == (*CLASSES, PROPOSAL + CLASSES[0], PROPOSAL + CLASSES[1])
    assert [Path(path).name for path in data.paths] == [picture.path.name for picture in chosen]
    for row, picture in enumerate(chosen):
        truth = data.truth(row)
        assert truth.boxes.tolist() == [list(box.box) for box in picture.boxes]
        assert truth.crowd.tolist() == [box.crowd for box in picture.boxes]
        assert truth.ignore.tolist() == [box.ignore for box in picture.boxes]
        assert (truth.labels >= len(CLASSES)).tolist() == [box.proposal for box in picture.boxes]


def test_ids_of_pictures_stay_if_they_are_numbers(tmp_path: Path) -> None:
    pairs = [(found(i, [(0, 0.99, *NEW)]), replace(known(i, [(0, *CAT)]), path=f"{i}.jpg")) for i in (17, 4)]
    for place, ids in ((pairs, {17, 4}), ([*pairs, (found("x", [(0, 0.99, *NEW)]), known("x", [(0, *CAT)]))], {1, 2, 3})):
        write_coco(to_check(place), tmp_path / "s.json", classes=CLASSES, category_ids=IDS, root=Path())
        assert {row["id"] for row in json.loads((tmp_path / "s.json").read_text())["images"]} == ids


def test_a_class_that_is_called_like_a_proposal_stays_apart(tmp_path: Path) -> None:
    pair = found(1, [(0, 0.99, *NEW)]), known(1, [(0, *CAT)])
    names = ["cat", PROPOSAL + "cat"]
    labels = find_suspects(tabulate([pair[0]], [pair[1]], names))
    write_coco(pictures_to_check(labels, [pair], names), tmp_path / "s.json", classes=names, category_ids=(0, 1), root=Path())
    assert [row["name"] for row in json.loads((tmp_path / "s.json").read_text())["categories"]] == [
        *names,
        2 * PROPOSAL + "cat",
    ]


def test_a_labelme_file_has_what_labelme_reads(pairs: list[tuple[Detections, Truth]], tmp_path: Path) -> None:
    """The types are those that labelme/_label_file.py checks when it opens a file."""
    root = pictures(pairs)
    write_labelme(to_check(pairs), tmp_path / "out" / "suspects", classes=CLASSES, root=root)
    files = sorted((tmp_path / "out" / "suspects").rglob("*.json"))
    assert [file.relative_to(tmp_path / "out" / "suspects").as_posix() for file in files] == ["x/a.json", "y/c.json"]
    for file in files:
        content = json.loads(file.read_text())
        assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == content.keys()
        with Image.open(file.parent / content["imagePath"]) as picture:
            assert picture.size == (content["imageWidth"], content["imageHeight"])
        assert content["imageData"] is None and all(value is True for value in content["flags"].values())
        for shape in content["shapes"]:
            assert isinstance(shape["label"], str) and isinstance(shape["description"], str) and shape["group_id"] is None
            assert shape["shape_type"] == "rectangle" and [len(point) for point in shape["points"]] == [2, 2]
            assert all(isinstance(name, str) and isinstance(value, bool) for name, value in shape["flags"].items())
            assert shape["label"].startswith(PROPOSAL) == shape["flags"].get("proposal", False)
    for file, picture in zip(files, sorted(to_check(pairs), key=lambda one: one.path), strict=True):
        file.rename(picture.path.with_suffix(".json"))  # as LabelMe keeps it, beside its picture
        (data,) = [data for data in [load_dataset(picture.path.parent)] if data.format == "labelme"]
        truth = data.truth(data.image_ids.index(picture.path.stem))
        names = [data.classes[label] for label in truth.labels.tolist()]
        assert [name.startswith(PROPOSAL) for name in names] == [box.proposal for box in picture.boxes]
        assert [name.removeprefix(PROPOSAL) for name in names] == [CLASSES[box.label] for box in picture.boxes]
        assert truth.boxes.tolist() == [list(box.box) for box in picture.boxes]
        assert truth.crowd.tolist() == [box.crowd for box in picture.boxes]
    shapes = json.loads((root / "x" / "a.json").read_text())["shapes"]
    assert [shape["flags"] for shape in shapes[:4]] == [{}, {"suspect": True}, {"suspect": True}, {"crowd": True}]
    assert shapes[1]["points"] == [[100, 100], [160, 160]] and shapes[1]["description"].startswith("swapped: ")


def test_two_pictures_that_differ_in_their_suffix_have_two_files(tmp_path: Path) -> None:
    suffixes = ("jpg", "png", "png.webp")  # the last one has the name that the second one gets
    pairs = [(found(i, [(0, 0.99, *NEW)]), replace(known(i), path=str(tmp_path / f"a.{i}"))) for i in suffixes]
    write_labelme(to_check(pairs), tmp_path / "s", classes=CLASSES, root=tmp_path)
    names = {json.loads(file.read_text())["imagePath"]: file.name for file in (tmp_path / "s").iterdir()}
    assert sorted(names) == ["../a.jpg", "../a.png", "../a.png.webp"] and len(set(names.values())) == 3
