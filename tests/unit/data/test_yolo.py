"""YOLO text files: rows, data.yaml, lists, and the layouts on disk."""

from pathlib import Path

import pytest

import trees
from onestage.data import list_splits, load_dataset
from onestage.data.plain_yaml import read_yaml
from onestage.errors import DataError


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "got: 4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", "got: 6 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9 0.1 0.3", "got: 8 columns"),
        ("0 0,5 0,5 0,2 0,2", "a decimal point, not a comma"),
        ("cat 0.5 0.5 0.2 0.2", "expected: a whole number"),
        ("0.5 0.5 0.5 0.2 0.2", "expected: a whole number"),
        ("1_0 0.5 0.5 0.2 0.2", "expected: a whole number"),
        ("0 0.5 0.5 0.2 0.1_5", "expected: a whole number"),
        ("0 0.5 0.5 ٠.2 0.2", "expected: a whole number"),
        (f"{'9' * 5000} 0.5 0.5 0.2 0.2", "expected: a whole number"),
        ("0 0.1 0.1 0.2 nan 0.3 0.4", "not finite numbers"),
        ("0 0.1 0.1 0.2 0.3 -inf 0.4", "not finite numbers"),
        ("0 0.1 0.1 0.2 0.3 30 0.4", "should be parts of the picture, 0-1"),
        ("0 0.5 0.5 0.2 0.2 0.5 0.5 3", "got: 8 columns"),
        ("2 0.5 0.5 0.2 0.2", "unknown class 2; expected: 0 ('cat'), 1 ('dog')"),
        ("-1 0.5 0.5 0.2 0.2", "unknown class -1"),
        ("0 30 20 10 10", "should be parts of the picture, 0-1"),
        ("0 0.5 0.5 nan 0.2", "not four finite numbers"),
        ("0 0.5 0.5 0 0.2", "zero or negative size"),
        ("0 0.5 0.5 -0.2 0.2", "zero or negative size"),
        ("0 0.9 0.5 0.4 0.2", "outside its picture"),
    ],
)
def test_a_bad_line_is_one_problem(line: str, message: str, tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "labels/train/c.txt", f"1 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert "labels/train/c.txt:3: " in str(caught.value) and message in str(caught.value)
    assert load_dataset(root, on_bad="skip").labels.tolist() == [0, 1, 1]


def test_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    (root / "labels/train/c.txt").write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.2 0.2\r\n\r\n  \r\n0 0.5 0.5 0.5 0.5\r\n")
    assert load_dataset(root).labels.tolist() == [0, 1, 1, 0]


def test_an_outline_counts_by_the_box_around_it(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "labels/train/c.txt", "1 0.1 0.5 0.4 0.25 0.3 0.75\n")
    assert load_dataset(root).boxes[-1].tolist() == pytest.approx([6, 10, 24, 30], abs=1e-4)


def test_labels_without_a_picture_and_labels_that_are_no_text(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "labels/train/lost.txt", "0 0.5 0.5 0.2 0.2\n")
    (root / "labels/train/c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="2 problems") as caught:
        load_dataset(root)
    assert "labels/train/lost.txt: there is no picture for these labels" in str(caught.value)
    assert "labels/train/c.txt: this file is not UTF-8 text" in str(caught.value)


def test_a_picture_that_is_no_picture(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    (root / "images/train/c.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"1 problem") as caught:
        load_dataset(root)
    assert "images/train/c.png: " in str(caught.value)
    assert len(load_dataset(root, on_bad="skip")) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, on]", ("no", "on")),
        ("[012, null]", ("012", "null")),
        ("\n  0: yes\n  1: 1e3", ("yes", "1e3")),
        ("\n  1: b\n  0: a", ("a", "b")),
        ("['a b', \"c\"]", ("a b", "c")),
    ],
)
def test_names_stay_text(names: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "data.yaml", f"train: images/train\nnames: {names}\n")
    assert load_dataset(root).classes == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnames: &x [cat, dog]\nother: *x\n", "aliases are not allowed"),
        ("train: images/train\nnames: [cat, dog]\ntrain: images/val\n", "the key 'train' is given twice"),
        ("train: images/train\nnames: [cat, dog\n", "not valid YAML"),
        ("train: images/train\nnames: [cat, dog]\ndeep: " + "[" * 5000, "nested too deeply"),
        ("train: images/train\nnames: [cat, dog]\n" + "#" * 1_000_001, "too large"),
        ("train: images/train\nnames: [cat, dog]\nnc: 3\n", "nc and names disagree"),
        ("train: images/train\nnames: [cat, cat]\n", "named twice"),
        ("train: images/train\nnames: cat\n", "cannot be read"),
        ("train: images/train\nnames:: cat\n", "cannot be read"),
        ("train: images/train\nnames:: [cat, dog]\n", "cannot be read"),
        ('train: images/train\nnames: [cat, "\\UFFFFFFFF"]\n', "not valid YAML"),
        (f"%YAML {'9' * 5000}.1\n---\ntrain: images/train\nnames: [cat, dog]\n", "not valid YAML"),
        ('train: images/train\nnames: [cat, "\\uD800"]\n', "lone surrogate"),
        ("train: images/train\nnames: [cat, dog\0]\n", "not valid YAML"),
        (f"train: {'x' * 300}\nnames: [cat, dog]\n", "none of the pictures"),
        (f"train: {'x' * 300}.txt\nnames: [cat, dog]\n", "none of the pictures"),
        (f"path: {'x' * 300}\ntrain: nowhere\nnames: [cat, dog]\n", "none of the pictures"),
        (f"train: images/train\nnames: [cat, {'x' * 100_000}, {'x' * 100_000}]\n", "named twice"),
        (f"train: images/train\nnames: [cat, dog]\nnc: {'x' * 100_000}\n", "nc and names disagree"),
        (f"train: /{'x' * 100_000}\nnames: [cat, dog]\n", "inside the data set"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "cannot be read"),
        ("train: images/elsewhere\nnames: [cat, dog]\n", "none of the pictures"),
        ("train: /data/images/elsewhere\nnames: [cat, dog]\n", "inside the data set"),
        ("train: images/../../x\nnames: [cat, dog]\n", "inside the data set"),
        ("train: {a: b}\nnames: [cat, dog]\n", "inside the data set"),
    ],
)
def test_a_bad_data_yaml(text: str, message: str, tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "data.yaml", text)
    with pytest.raises(DataError) as caught:
        load_dataset(root)
    assert message in str(caught.value) and len(str(caught.value)) < 900
    assert "data.yaml" in str(caught.value) or message == "lone surrogate"


@pytest.mark.parametrize(
    "text",
    [
        "{names: [dog, cat], train: images/train}",
        '{"names": ["dog", "cat"], "test": "images/train"}',
        " names: [dog, cat]\n train: images/train\n",
        "\"names\": [dog, cat]\n'train': images/train\n",
        "? names\n: [dog, cat]\n? train\n: images/train\n",
        "--- {names: [dog, cat],\n  valid: images/train}",
        "names: [dog, cat]\ntest: images/train\n",
        "validation: images/train\nnames: [dog, cat]\n",
        "training: images/train\nnames: [dog, cat]\n",
        "trainval: images/train\nnames: [dog, cat]\n",
        "!!map {names: [dog, cat], train: images/train}",
    ],
)
def test_data_yaml_in_every_form_of_yaml(text: str, tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "data.yaml", text)
    assert load_dataset(root).classes == ("dog", "cat")
    assert load_dataset(root / "data.yaml").classes == ("dog", "cat")


@pytest.mark.parametrize(
    "text", ["names: [a]\n", "train: x\n", "a: {names: [b], train: c}\n", "- names\n- train\n", "names: *x\n", "a: b: names"]
)
def test_other_yaml_is_no_data_yaml(text: str, tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "other.yaml", text)
    assert load_dataset(root).classes == ("cat", "dog")


def test_yaml_constructs_nothing(tmp_path: Path) -> None:
    file = trees.write(tmp_path / "x.yaml", "a: !!python/object/apply:os.getcwd []\nb: !!int 3\nc: 2001-01-01\n")
    assert read_yaml(file) == {"a": [], "b": "3", "c": "2001-01-01"}


def test_splits_of_data_yaml(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.yolo(tmp_path, "images/val", "labels/val")
    trees.write(root / "lists/test.txt", "./images/val/a.png\nimages/val/b.png\n")
    trees.write(root / "data.yaml", "train: [images/train]\nval: ../images/val\ntest: lists/test.txt\nnames: [cat, dog]\n")
    assert list_splits(root) == ("train", "val", "test") == list_splits(root / "data.yaml")
    assert [len(load_dataset(root, split=split)) for split in ("train", "val", "test")] == [3, 3, 2]
    assert len(load_dataset(root / "data.yaml")) == 6
    trees.write(root / "lists/test.txt", "/data/a.png\n")
    with pytest.raises(DataError, match="outside the data set"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("images", "labels", "splits"),
    [
        ("images/valid", "labels/valid", ("val",)),
        ("train/images", "train/labels", ("train",)),
        ("test", "test", ("test",)),
        ("images", "labels", ()),
        (".", ".", ()),
        ("obj_train_data", "obj_train_data", ("train",)),
    ],
)
def test_layouts_without_data_yaml(images: str, labels: str, splits: tuple[str, ...], tmp_path: Path) -> None:
    root = trees.yolo(tmp_path, images, labels)
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="nothing says the names"):
        load_dataset(root)
    assert load_dataset(root, classes=["cat", "dog"]).labels.tolist() == [0, 1, 1]
    trees.write(root / "classes.txt", "cat\ndog\n")
    data = load_dataset(root)
    assert data.classes == ("cat", "dog") and data.category_ids == (0, 1) and len(data) == 3
    assert list_splits(root) == splits


def test_darknet_lists(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path, "obj_train_data", "obj_train_data")
    (root / "data.yaml").unlink()
    trees.write(root / "obj.names", "cat\ndog\n")
    trees.write(root / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    trees.write(root / "valid.txt", "obj_train_data/c.png\nobj_train_data/gone.png\n")
    assert len(load_dataset(root, split="train")) == 2
    with pytest.raises(DataError, match=r"1 problem") as caught:
        load_dataset(root, split="val")
    assert "obj_train_data/gone.png" in str(caught.value)


@pytest.mark.parametrize(
    "other", ["dog; cat", "cat; bird; dog", "dog", "bird; cat", "cat; dog; x; y", "cat", "cat; cow", "x; dog", ""]
)
def test_another_list_of_names_beside_data_yaml(other: str, tmp_path: Path) -> None:
    """One name with two numbers is an error. Any other difference is said."""
    root = trees.yolo(tmp_path)
    names = other.split("; ") if other else []
    trees.write(root / "labels/classes.txt", "\n".join(names))
    if any(name in names and names.index(name) != number for number, name in enumerate(trees.NAMES)):
        with pytest.raises(DataError, match="two lists of the classes' names disagree"):
            load_dataset(root)
    else:
        notes = [note for note in load_dataset(root).notes if "classes.txt" in note.where]
        assert ["differs from data.yaml" in note.what for note in notes] == [True]


@pytest.mark.parametrize("path", ["nowhere", "/data/nowhere", "..", "../elsewhere/set", "[a]", "C:\\x", "http://host/x"])
def test_a_path_that_is_not_there_is_said(path: str, tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    trees.write(root / "data.yaml", f"path: {path}\ntrain: images/train\nnames: [cat, dog]\n")
    (note,) = load_dataset(root).notes
    assert note.where == "data.yaml" and "the folder of data.yaml is taken for it" in note.what
    for there in (".", "./", "''", "null", "images/.."[:0]):
        trees.write(root / "data.yaml", f"path: {there}\ntrain: images/train\nnames: [cat, dog]\n")
        assert load_dataset(root).notes == ()
