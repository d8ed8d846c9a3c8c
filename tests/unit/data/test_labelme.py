"""LabelMe's files: the same truth as in VOC's form, shapes of all types, and files that are damaged or foreign."""

import json
from pathlib import Path

import pytest
from PIL import Image

from onestage.data import load_dataset
from onestage.data.reader import open_data
from onestage.errors import DataError

WHERE = "metrics_formats/data/database"
Shape = dict[str, object]


def write(folder: Path, shapes: object, name: str = "a", **more: object) -> Path:
    """A picture of 40 x 30 and its file."""
    folder.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None} | more
    (folder / f"{name}.json").write_text(json.dumps({"imageHeight": 30, "imageWidth": 40} | content))
    return folder


def shape(kind: str | None = "rectangle", points: object = ((1, 2), (21, 22)), **more: object) -> Shape:
    return {"label": "cat", "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def test_the_truth_is_that_of_the_same_labels_in_vocs_form(shared_data: Path, tmp_path: Path) -> None:
    for name, folder in (("labelme", "gts/labelme_format"), ("voc", "gts/pascalvoc_format")):
        (tmp_path / name).mkdir()
        for part in ("images", folder):
            (tmp_path / name / Path(part).name).symlink_to(shared_data / WHERE / part)
    data, voc = load_dataset(tmp_path / "labelme"), load_dataset(tmp_path / "voc")
    assert (data.format, voc.format, len(data)) == ("labelme", "voc", 100)
    for row, image_id in enumerate(data.image_ids):
        mine, theirs = data.truth(row), voc.truth(voc.image_ids.index(image_id))
        assert mine.boxes.tolist() == theirs.boxes.tolist()
        assert [data.classes[k] for k in mine.labels.tolist()] == [voc.classes[k] for k in theirs.labels.tolist()]


@pytest.mark.parametrize(
    ("given", "box"),
    [
        (shape(), [1, 2, 21, 22]),
        (shape(points=[[21, 22], [1, 2]]), [1, 2, 21, 22]),
        (shape(points=[[1, 2], [21, 2], [21, 22], [1, 22]]), [1, 2, 21, 22]),
        (shape("polygon", [[5, 2], [21, 9], [1, 22]]), [1, 2, 21, 22]),
        (shape(None, [[5, 2], [21, 9], [1, 22]]), [1, 2, 21, 22]),
        (shape("circle", [[20, 15], [20, 25]]), [10, 5, 30, 25]),
    ],
)
def test_a_shape_is_the_box_around_it(given: Shape, box: list[int], tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path / "set", [given])).boxes.tolist() == [box]


def test_flags_mark_crowds_and_what_does_not_count(tmp_path: Path) -> None:
    flags: list[Shape] = [{}, {"flags": {"crowd": True}}, {"flags": {"difficult": True}}, {"difficult": True}, {"flags": None}]
    data = load_dataset(write(tmp_path / "set", [shape(**one) for one in flags]))
    assert data.crowd.tolist() == [False, True, False, False, False]
    assert data.ignore.tolist() == [False, False, True, True, False]


def test_points_and_lines_are_left_out_with_a_note(tmp_path: Path) -> None:
    thin = [shape("point", [[3, 3]]), shape("line"), shape("linestrip")]
    data = load_dataset(write(tmp_path / "set", [shape(), *thin]))
    assert len(data.boxes) == 1 and "3 shapes left out: points and lines have no area" in str(data.notes[0])


def test_splits_are_folders_and_classes_are_those_of_all(tmp_path: Path) -> None:
    for split, name in (("train", "dog"), ("val", "cat")):
        write(tmp_path / "set" / split, [shape(label=name)])
    opened = open_data(tmp_path / "set")
    assert opened.splits == ("train", "val")
    assert [opened.load(split).classes for split in opened.splits] == [("cat", "dog")] * 2


def test_the_picture_may_have_another_name_and_lie_in_another_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "set" / "labels", [shape()], imagePath="..\\images\\b.png").parent
    (root / "images").mkdir()
    (root / "labels" / "a.png").rename(root / "images" / "b.png")
    assert load_dataset(root).paths == (str(root / "images" / "b.png"),)


def test_a_data_set_of_another_format_goes_before(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [shape()])
    (root / "data.csv").write_text("image,label,xmin,ymin,xmax,ymax\na.png,cat,1,1,9,9\n")
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (root / "coco.json").write_text(json.dumps(coco))
    assert load_dataset(root, "labelme").boxes.tolist() == [[1, 2, 21, 22]]
    (root / "data.csv").unlink()
    assert load_dataset(root).format == "coco"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape("heart")], r"shapes\[0\]: this type of shape is not known"),
        ([shape(), shape(label=" ")], r"shapes\[1\]: a shape needs a label"),
        ([shape(points=[[1, 2]])], "a shape needs two points or more"),
        ([shape(points=[[1, 2], [3, "4"]])], "a point should be"),
        ([shape(points=[[1, 2], [True, 4]])], "a point should be"),
        ([shape(points=[[1, 2], [10**400, 4]])], "outside its picture"),
        ([shape(points=[[1, 2], [1, 22]])], "zero or negative size"),
        (["cat"], "a shape should be an object"),
        ({"a": 1}, "a file of LabelMe needs a list of shapes"),
    ],
)
def test_what_is_wrong_with_a_shape_is_told(shapes: object, message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", shapes)
    with pytest.raises(DataError, match=message):
        load_dataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"imagePath": "a.png", "shapes": [', "this is not valid JSON"),
        ('{"imagePath": "a.png", "shapes": [], "shapes": []}', "a key is given twice"),
        ('{"imagePath": "a.png", "imageHeight": NaN, "shapes": []}', "NaN is no JSON number"),
        ('{"imagePath": "a.png", "shapes": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"imagePath": "../../etc/passwd", "shapes": []}', "there is no picture"),
    ],
)
def test_a_damaged_file_is_a_problem(text: str, message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", [shape()], "b")
    (root / "c.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(root)
    assert len(load_dataset(root, on_bad="skip")) == 1


def test_two_files_for_one_picture_are_a_problem(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [shape()])
    (root / "old").mkdir()
    (root / "old" / "x.json").write_text((root / "a.json").read_text())
    with pytest.raises(DataError, match="a second file holds labels of this picture"):
        load_dataset(root)
