"""What holds for every format: one truth, recognised and read alike, and one policy for what is bad."""

import json
from pathlib import Path

import pytest
import torch

import trees
from onestage.data import list_splits, load_dataset, open_data
from onestage.data.dataset import Dataset
from onestage.data.labels import StoredClasses
from onestage.data.table import OnBad
from onestage.errors import ConfigError, DataError


def truth_of(data: Dataset) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """As ``trees.TRUTH``."""
    found = {}
    for index, path in enumerate(data.paths):
        truth = data.truth(index)
        boxes = [tuple(round(v, 3) for v in box) for box in truth.boxes.tolist()]
        found[Path(path).stem] = list(zip([data.classes[k] for k in truth.labels.tolist()], boxes, strict=True))
    return found


@pytest.mark.parametrize("name", trees.WRITERS)
def test_one_truth_in_every_format(name: str, tmp_path: Path) -> None:
    data = load_dataset(trees.WRITERS[name](tmp_path))
    assert data.format == name
    assert truth_of(data) == trees.TRUTH
    assert data.classes == ("cat", "dog")
    assert data.sizes == (trees.SIZE,) * 3
    assert data.problems == ()
    assert data.boxes.dtype == data.area.dtype == torch.float32
    assert data.labels.dtype == data.offsets.dtype == torch.int64
    assert not data.ignore.any() and not data.crowd.any()
    assert data.area.tolist() == pytest.approx([28 * 17, 50 * 35, 150], rel=1e-5)
    assert data[0].image.shape == (3, *trees.SIZE)


@pytest.mark.parametrize("name", trees.WRITERS)
def test_one_folder_down_and_beside_strangers(name: str, tmp_path: Path) -> None:
    trees.WRITERS[name](tmp_path / "SET")
    trees.write(tmp_path / "test.csv", "filename,cell_type,xmin,xmax,ymin,ymax\nelsewhere.jpg,RBC,1,2,3,4\n")
    trees.write(tmp_path / "README.txt", "about this set")
    trees.write(tmp_path / "info.json", '{"version": 1}')
    assert truth_of(load_dataset(tmp_path)) == trees.TRUTH


@pytest.mark.parametrize("name", trees.WRITERS)
def test_classes_given_order_the_labels(name: str, tmp_path: Path) -> None:
    data = load_dataset(trees.WRITERS[name](tmp_path), classes=["bird", "dog", "cat"])
    assert data.classes == ("bird", "dog", "cat")
    assert truth_of(data) == trees.TRUTH
    assert len(set(data.category_ids)) == 3


@pytest.mark.parametrize("name", trees.WRITERS)
def test_classes_that_were_not_given_are_one_error(name: str, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    with pytest.raises(DataError, match="2 objects of 1 class that the model does not have: dog") as caught:
        load_dataset(root, classes=["cat"])
    assert caught.value.got == "2 in the data: cat, dog" and caught.value.expected == "the model's 1: cat"
    assert "--on-bad skip" in str(caught.value.fix)
    data = load_dataset(root, classes=["cat"], on_bad="skip")
    assert len(data) == 3 and data.labels.tolist() == [0] and len(data.problems) == 2


def test_numbers_that_the_model_does_not_have_are_one_error(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    (root / "data.yaml").unlink()
    trees.write(root / "labels/train/c.txt", "7 0.5 0.5 0.2 0.2\n" * 620)
    with pytest.raises(DataError, match="621 objects of 2 classes that the model does not have: 1, 7") as caught:
        load_dataset(root, classes=["cat"])
    assert caught.value.got == "3 in the data: 0, 1, 7" and len(str(caught.value)) < 500


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("name", trees.WRITERS)
def test_none_of_the_classes_given_is_refused_at_once(name: str, on_bad: OnBad, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    with pytest.raises(ConfigError, match=r"differ in their classes\n.*\n  got:      2 in .*cat, dog\n.*1: cow") as caught:
        load_dataset(root, classes=["cow"], on_bad=on_bad)
    assert "skip" not in str(caught.value)


@pytest.mark.parametrize("name", trees.WRITERS)
def test_a_missing_picture_is_one_problem_and_its_objects_go_with_it(name: str, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    next(root.rglob("a.png")).unlink()
    with pytest.raises(DataError, match="1 problem in this data set"):
        load_dataset(root)
    data = load_dataset(root, on_bad="skip")
    assert sorted(truth_of(data)) == ["b", "c"] and len(data.boxes) == 1
    assert "a" in str(data.problems[0]) and "picture" in str(data.problems[0])


@pytest.mark.parametrize("name", trees.WRITERS)
@pytest.mark.parametrize(
    ("box", "message"),
    [((10, 5, 10, 40), "zero or negative size"), ((30, 5, 10, 40), "zero or negative size"), ((10, 5, 90, 40), "outside")],
)
def test_a_bad_box_names_its_place(name: str, box: tuple[int, ...], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(trees.TRUTH, "c", [("cat", (1, 1, 9, 9)), ("dog", box)])
    root = trees.WRITERS[name](tmp_path)
    places = {
        "coco": "annotations/instances_train2017.json: annotations[3] (id 4)",
        "voc": "Annotations/c.xml object 2",
        "yolo": "labels/train/c.txt:2",
        "csv": "label.csv:6",
    }
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(root)
    assert places[name] in str(caught.value)
    data = load_dataset(root, on_bad="skip")
    assert truth_of(data)["c"] == [("cat", (1, 1, 9, 9))]
    assert [p.where for p in data.problems] == [places[name]]


@pytest.mark.parametrize("name", trees.WRITERS)
def test_a_box_slightly_over_the_border_is_cut(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(trees.TRUTH, "c", [("dog", (-1.5, 3, 61.9, 41))])
    data = load_dataset(trees.WRITERS[name](tmp_path))
    assert truth_of(data)["c"] == [("dog", (0, 3, 60, 40))]


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u200b", "\ufeff", "\u00a0\u2060", "\u200e"])
def test_a_class_without_a_visible_name_is_refused(name: str) -> None:
    for stored in (StoredClasses.named, StoredClasses.by_number):
        with pytest.raises(DataError, match="empty or invisible"):
            stored(["dog", name])


TWINS = ["cat ", "\u00a0cat", "cat\u200b", "\ufeffcat\n", "\u2060cat"]


@pytest.mark.parametrize(
    ("one", "other"), [*(("cat", twin) for twin in TWINS), ("caf\u00e9", "cafe\u0301"), ("\u212b", "\u00c5")]
)
def test_classes_that_look_the_same_are_refused(one: str, other: str, tmp_path: Path) -> None:
    for stored in (StoredClasses.named, StoredClasses.by_number):
        with pytest.raises(DataError, match="look the same"):
            stored([one, "dog", other])
        assert stored([other, "dog"]).table.names == (other, "dog")


@pytest.mark.parametrize("name", ["", "cat ", "\u200b"])
def test_no_reader_takes_a_class_that_cannot_be_told_apart(name: str, tmp_path: Path) -> None:
    content = trees.coco_content()
    content["categories"].append({"id": 99, "name": name})
    with pytest.raises(DataError, match=r"look the same|invisible"):
        load_dataset(trees.coco(tmp_path / "coco", content))
    root = trees.yolo(tmp_path / "yolo")
    trees.write(root / "data.yaml", f'train: images/train\nnames: ["cat", "dog", {json.dumps(name)}]\n')
    with pytest.raises(DataError, match=r"look the same|invisible"):
        load_dataset(root)


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("name", ["coco", "voc"])
def test_boxes_in_parts_of_the_picture_in_a_format_of_pixels_are_an_error(
    name: str, on_bad: OnBad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(box: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(v / side for v, side in zip(box, (60, 40, 60, 40), strict=True))

    truth = {key: [(label, parts(box)) for label, box in objects] for key, objects in trees.TRUTH.items()}
    monkeypatch.setattr(trees, "TRUTH", truth)
    with pytest.raises(DataError, match="in pixels") as error:
        load_dataset(trees.WRITERS[name](tmp_path), on_bad=on_bad)
    assert error.value.fix and "multiply" in error.value.fix


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_one_box_of_a_pixel_is_none_in_parts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "TRUTH", trees.TRUTH | {"b": [("cat", (0.0, 0.0, 0.5, 0.75))]})
    assert len(load_dataset(trees.WRITERS[name](tmp_path)).boxes) == 4
    monkeypatch.setattr(trees, "TRUTH", {"a": [("cat", (0, 0, 1, 1)), ("dog", (0, 0, 1, 1))], "b": [], "c": []})
    assert len(load_dataset(trees.WRITERS[name](tmp_path)).boxes) == 2


def test_the_error_lists_ten_and_counts_the_rest(tmp_path: Path) -> None:
    rows = "".join(f"a.png,cat,{i},5,{i},9\n" for i in range(14))
    trees.csv(tmp_path, trees.csv_text() + rows)
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path)
    message = str(caught.value)
    assert "14 problems" in message and "... and 4 more" in message and 'on_bad="skip"' in message
    assert message.count("label.csv:") == 10


def test_a_missing_split_lists_the_existing(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    assert list_splits(root) == ("train", "val", "trainval")
    with pytest.raises(DataError, match="there is no split 'test'") as caught:
        load_dataset(root, split="test")
    assert "train, val, trainval" in str(caught.value)
    with pytest.raises(DataError, match="no split 'banana'"):
        load_dataset(root, split="banana")
    with pytest.raises(DataError, match="not divided"):
        load_dataset(trees.csv(tmp_path / "csv"), split="train")


@pytest.mark.parametrize("word", ["val", "valid", "validation", "VAL"])
def test_split_names_have_synonyms(word: str, tmp_path: Path) -> None:
    data = load_dataset(trees.voc(tmp_path), split=word)
    assert data.split == "val" and list(truth_of(data)) == ["c"]


def test_a_set_that_is_not_divided_has_no_splits(tmp_path: Path) -> None:
    assert list_splits(trees.csv(tmp_path)) == ()
    assert load_dataset(tmp_path).split is None


@pytest.mark.parametrize("name", trees.WRITERS)
def test_annotations_are_read_once_whatever_classes_are_wanted(name: str, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    opened = open_data(root)
    whole = opened.load()
    for file in root.rglob("*.*"):
        if file.suffix != ".png":
            file.unlink()
    assert truth_of(opened.load()) == truth_of(whole) == trees.TRUTH
    assert truth_of(opened.load(classes=["dog", "cat"])) == trees.TRUTH
    dogs = opened.load(classes=["dog"], on_bad="skip")
    assert dogs.classes == ("dog",) and dogs.labels.tolist() == [0, 0] and len(dogs.problems) == 1
    assert opened.load(on_bad="skip").problems == ()


def test_a_problem_holds_its_parts(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "labels/train/c.txt", "0 0.5 0.5 0.2\n")
    (problem,) = load_dataset(root, on_bad="skip").problems
    assert (problem.where, problem.what) == ("labels/train/c.txt:1", "the number of columns is wrong")
    assert problem.got == "4 columns" and str(problem.expected).startswith("class, centre x")
    parts = f"got: {problem.got}; expected: {problem.expected}; fix: {problem.fix}"
    assert str(problem) == f"{problem.where}: {problem.what}; {parts}"


def test_splits_agree_on_classes_though_one_lacks_a_class(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    assert load_dataset(root, split="val").classes == load_dataset(root, split="train").classes == ("cat", "dog")


def test_two_formats_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    trees.voc(tmp_path)
    trees.coco(tmp_path)
    with pytest.raises(DataError, match="coco and voc"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, "voc").format == "voc"
    assert load_dataset(tmp_path, "coco").format == "coco"


def test_nothing_there_says_what_would_be_recognised(tmp_path: Path) -> None:
    trees.pictures(tmp_path)
    with pytest.raises(DataError, match=r"no labelled pictures") as caught:
        load_dataset(tmp_path)
    assert all(word in str(caught.value) for word in ("COCO", "Pascal VOC", "YOLO", "CSV"))
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="did you mean 'coco'"):
        load_dataset(tmp_path, "cocoo")
    with pytest.raises(DataError, match="on_bad"):
        load_dataset(tmp_path, on_bad="ignore")  # type: ignore[arg-type]


def test_a_data_set_without_usable_pictures_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no usable picture"):
        load_dataset(root, on_bad="skip")


def test_a_split_without_pictures_is_named(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    labels = next(root.glob("annotations/*train*.json"))
    content = json.loads(labels.read_text()) | {"images": [], "annotations": []}
    labels.with_name(labels.name.replace("train", "val")).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no usable picture in split val of this data set(.|\n)*take it out"):
        load_dataset(root, split="val")


def test_only_regular_files_are_pictures(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    (root / "train2017/a.png").unlink()
    (root / "train2017/a.png").mkdir()
    with pytest.raises(DataError, match=r"no picture 'a.png'"):
        load_dataset(root)
