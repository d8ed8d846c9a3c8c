"""Usual mistakes in a first data set: what the message says, and that ``data check`` and ``train`` say the same."""

from pathlib import Path

import pytest

from layouts import build
from onestage.data import load_dataset
from onestage.data.check import check_dataset
from onestage.data.dataset import NO_VALIDATION
from onestage.data.reader import open_data
from onestage.errors import OnestageError
from onestage.training.config import TrainConfig
from onestage.training.inputs import read_data

YOLO = "train/images/a.jpg\ntrain/labels/a.txt\nval/images/b.jpg\nval/labels/b.txt\n"
NAMES = "names: [cat]"
CSV = "picture_name,x1,y1,x2,y2"

WRONG = {
    "a misspelt split": (YOLO + f"data.yaml    trian: train/images; val: val/images; {NAMES}", "'trian'.*'train'"),
    "the only split misspelt": (YOLO + f"data.yaml    trian: train/images; {NAMES}", "did you mean 'train'"),
    "a longer name of a split": (YOLO + f"data.yaml    train_images: train/images; val: val/images; {NAMES}", "'train'"),
    "misspelt names": (YOLO + "data.yaml    train: train/images; val: val/images; nmaes: [cat]", "'names'"),
    "a misspelt path": (YOLO + f"data.yaml    pahth: .; train: train/images; {NAMES}", "'path'"),
    "too few names": (YOLO + f"data.yaml    train: train/images; nc: 3; {NAMES}", "1 names: cat\n  fix: +write nc: 1"),
    "a class twice": (YOLO + "data.yaml    train: train/images; names: [cat, cat]", "fix: +give the classes different"),
    "bad YAML": (YOLO + "data.yaml    train: train/images; names: [a, b; nc: 2", r"line 3, column 3\n +nc: 2\n +\^\n"),
    "a YAML key twice": (YOLO + f"data.yaml    train: train/images; {NAMES}; {NAMES}", r"line 3, column 1\n.*\n +\^\n"),
    "commas in a line": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0,0.5,0.5,0.2,0.2", "write 0 0.5 0.5 0.2 0.2"),
    "commas and blanks": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0, 0.5, 0.5, 0.2, 0.2", "YOLO has blanks"),
    "semicolons": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0;0.5;0.5;0.2;0.2", "semicolons separate"),
    "decimal commas": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0 0,5 0,5 0,2 0,2", "write 0 0.5 0.5 0.2 0.2"),
    "a picture on a list that is not there": (
        "images/a.jpg\nlabels/a.txt\nclasses.txt    cat\ntrain.txt    images/a.jpg; images/z.jpg",
        "train.txt:2: there is no picture 'images/z.jpg'",
    ),
    "an XML file on a list that is not there": (
        "JPEGImages/a.jpg\nAnnotations/a.xml\nImageSets/Main/train.txt    a; z",
        "ImageSets/Main/train.txt:2: .* Annotations/z.xml; fix: put the file into Annotations/",
    ),
    "no column for the class": (f"all.csv    {CSV}; a.jpg,2,3,30,20\na.jpg", "none for the picture and the class"),
    "a value too much": (
        f"all.csv    filename,{CSV[13:]},class; a.jpg,2,3,30,20,cat,dog; b.jpg,2,3,30,20,cat\na.jpg\nb.jpg",
        "all.csv:2: too many values; got: 7; expected: 6",
    ),
    "splits that cannot be told": (
        "a.json    a.jpg\nb.json    b.jpg\na.jpg\nb.jpg",
        "fix: +call them, or their folders, train",
    ),
    "two places": (
        YOLO + f"data.yaml    path: sub; train: train/images; {NAMES}\nsub/train/images/c.jpg\nsub/train/labels/c.txt",
        "sub/train/images, train/images",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_usual_mistake_is_named_with_its_place_and_remedy(name: str, tmp_path: Path) -> None:
    tree, words = WRONG[name]
    root = build(tmp_path, tree)
    with pytest.raises(OnestageError, match=words) as caught:
        read_data(root, TrainConfig())
    assert caught.value.fix and caught.value.where
    try:
        said = "\n".join(map(str, check_dataset(root, fast=True).problems))
    except OnestageError as error:
        assert str(error) == str(caught.value)
    else:
        assert all(line.strip() in said for line in str(caught.value.got).splitlines())


@pytest.mark.parametrize(
    "said",
    ["path: sub; train: train/images; val: val/images", "path: sub; train: train/images; val: val.txt"],
)
def test_each_split_is_found_below_path_or_beside_the_file(said: str, tmp_path: Path) -> None:
    tree = f"data.yaml    {said}; {NAMES}\nsub/train/images/a.jpg\nsub/train/labels/a.txt\nval/images/b.jpg\nval/labels/b.txt\n"
    root = build(tmp_path, tree + "val.txt    val/images/b.jpg")
    assert [len(load_dataset(root, split=split)) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize(
    "key", ["author: x", "notes: y", "minival: z", "kpt_names: [a]", "train_size: 0.8", "image: d", "nc: 1"]
)
def test_other_keys_of_data_yaml_are_no_mistake(key: str, tmp_path: Path) -> None:
    root = build(tmp_path, YOLO + f"data.yaml    train: train/images; val: val/images; {NAMES}; {key}")
    assert open_data(root).splits == ("train", "val")


@pytest.mark.parametrize("folder", ["dev", "Validierung", "Prüfung"])
@pytest.mark.parametrize(
    "tree",
    [
        "images/{}/c.jpg\nlabels/{}/c.txt\nimages/train/a.jpg\nlabels/train/a.txt",
        "{}/c.jpg\n{}/c.xml\ntrain/a.jpg\ntrain/a.xml",
    ],
)
def test_a_folder_that_is_no_split_is_passed_over_aloud(folder: str, tree: str, tmp_path: Path) -> None:
    root = build(tmp_path, tree.replace("{}", folder) + "\nclasses.txt    cat")
    notes = [note for note in check_dataset(root, fast=True).notes if "passed over" in note.what]
    assert notes and all(folder in note.where and "rename it" in str(note.fix) for note in notes)
    with pytest.warns(UserWarning, match=f"{folder}/: this folder is passed over"):
        read_data(root, TrainConfig())


def test_no_validation_pictures_are_a_note(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    assert NO_VALIDATION in [note.what for note in check_dataset(root, fast=True).notes]
    assert not check_dataset(build(tmp_path / "divided", YOLO + "classes.txt    cat"), fast=True).notes


def test_names_that_differ_in_capitals_are_a_note(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    (root / "b.xml").write_text((root / "b.xml").read_text().replace("cat", "Cat"))
    words = "the classes 'Cat' and 'cat' differ in capitals or blanks only"
    assert words in [note.what for note in check_dataset(root, fast=True).notes]
    with pytest.warns(UserWarning, match=words):
        read_data(root, TrainConfig())


def test_classes_of_a_split_are_not_called_those_of_a_model(tmp_path: Path) -> None:
    root = build(tmp_path, "annotations/train.json    a.jpg\nannotations/val.json    b.jpg\ntrain/a.jpg\nval/b.jpg")
    train, val = (root / f"annotations/{split}.json" for split in ("train", "val"))
    train.write_text(train.read_text().replace(', {"id": 2, "name": "dog"}', ""))
    val.write_text(val.read_text().replace('"category_id": 1', '"category_id": 2'))
    (problem,) = check_dataset(root, fast=True).problems
    with pytest.raises(OnestageError, match="1 object of 1 class that the split train does not have: dog") as caught:
        read_data(root, TrainConfig())
    error = caught.value
    assert (problem.where, problem.what, problem.fix) == (error.where, error.what, error.fix) and "model" not in str(error)
