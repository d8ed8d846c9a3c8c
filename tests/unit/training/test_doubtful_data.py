"""What training says of data that may not be what the user means, and what it makes of validation without objects."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layouts import build
from onestage.data.check import check_dataset
from onestage.data.dataset import NOTHING_TO_MEASURE
from onestage.data.table import OnBad
from onestage.errors import DataError, OnestageError
from onestage.evaluation import read_for
from onestage.files import BEST, LAST
from onestage.training import folder as run_folder
from onestage.training.checkpoint import CheckpointStore
from onestage.training.inputs import read_data
from onestage.training.loop import train
from onestage.training.monitor import Monitor
from small_runs import CONFIG, detector, pictures, write_pictures

YAML = (
    "data.yaml    train: images/train; names: [cat, dog]\nimages/train/a.jpg\nimages/train/b.jpg\n"
    "labels/train/a.txt\nlabels/train/b.txt"
)


class Heard(Monitor):
    """Keeps what the training says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def without_objects(root: Path, split: str) -> Path:
    file = root / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": []}))
    return root


def test_without_an_object_to_measure_best_follows_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    data = without_objects(write_pictures(tmp_path / "data"), "val")
    heard, out, bests = Heard(), tmp_path / "run", []
    save = CheckpointStore.save

    def noted(store: CheckpointStore, checkpoint: object, *, best: bool = False) -> Path:
        bests.append(best)
        return save(store, checkpoint, best=best)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStore, "save", noted)
    train(detector(), data, out=out, config=CONFIG, monitor=heard)
    assert NOTHING_TO_MEASURE in heard.said[:3]  # before the first step
    assert all(bests[-3:]) and (out / BEST).read_bytes() == (out / LAST).read_bytes()
    assert NOTHING_TO_MEASURE in [problem.what for problem in check_dataset(data, fast=True).problems]


def test_nothing_is_said_where_there_is_something_to_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    heard = Heard()
    train(detector(), pictures(8), out=tmp_path / "run", config=CONFIG, monitor=heard)
    assert NOTHING_TO_MEASURE not in heard.said


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ("labels/old/x.txt\nlabels/old/y.txt", "2 files look like labels, and nothing reads them: x.txt, y.txt"),
        ("labels/old/x.txt", "labels/old/x.txt: this file looks like labels, and nothing reads it"),
    ],
)
def test_labels_that_nothing_reads_are_a_warning(tree: str, words: str, tmp_path: Path) -> None:
    root = build(tmp_path, f"{YAML}\n{tree}")
    with pytest.warns(UserWarning, match=words):
        read_data(root, CONFIG)


def test_a_path_of_another_machine_is_a_warning(tmp_path: Path) -> None:
    root = build(tmp_path, f"{YAML.replace('train: images', 'train: /home/me/images')}\nlabels/old/a.txt")
    with pytest.warns(UserWarning) as caught:
        read_data(root, CONFIG)
    said = " ".join(str(warning.message) for warning in caught)
    assert "another machine" in said and "labels/old/a.txt" in said


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("line", ["", "0 40 40 20 20"])
def test_no_object_to_learn_is_an_error_that_lists_what_was_left_out(line: str, on_bad: OnBad, tmp_path: Path) -> None:
    root = build(tmp_path, YAML)
    for name in "ab":
        (root / f"labels/train/{name}.txt").write_text(line)
    with pytest.raises(DataError) as caught:
        read_data(root, replace(CONFIG, on_bad=on_bad))
    assert (on_bad == "stop" and line) or "nothing to learn" in str(caught.value)
    assert ("labels/train/b.txt:1" in str(caught.value)) == bool(line)


def test_a_data_set_in_memory_without_objects_is_an_error() -> None:
    data = pictures(2)
    bare = replace(data, ignore=torch.ones_like(data.ignore))
    with pytest.raises(DataError, match="nothing to learn"):
        read_data(bare, CONFIG)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_stated_and_missing_is_an_error(split: str, tmp_path: Path) -> None:
    other = "val" if split == "train" else "train"
    tree = f"data.yaml    {other}: images/a; {split}: images/b; names: [cat, dog]\nimages/a/1.jpg\nlabels/a/1.txt"
    root = build(tmp_path, tree)
    with pytest.raises(DataError, match=f"for '{split}' are here"):
        read_data(root, CONFIG)
    assert check_dataset(root, fast=True).problems[0].what.startswith("none of the pictures that this file names")


def test_a_missing_validation_split_is_not_measured_on_the_training_pictures(tmp_path: Path) -> None:
    root = build(tmp_path, YAML.replace("names", "val: images/val; names"))
    model = detector()
    with pytest.raises(DataError, match="for 'val' are here"):
        read_for(model, root, split=None, on_bad="stop")


@pytest.mark.parametrize("shared", ["cat", "cow"])
def test_a_class_that_only_validation_has_stops_training_as_the_doctor_says(shared: str, tmp_path: Path) -> None:
    """Also if the two splits have no class in common."""
    tree = "annotations/instances_train.json    a.jpg\nannotations/instances_val.json    b.jpg\ntrain/a.jpg\nval/b.jpg"
    root = build(tmp_path, tree)
    file = root / "annotations/instances_train.json"
    file.write_text(file.read_text().replace(', {"id": 2, "name": "dog"}', "").replace('"cat"', f'"{shared}"'))
    other = root / "annotations/instances_val.json"
    other.write_text(other.read_text().replace('"category_id": 1', '"category_id": 2'))
    with pytest.raises(OnestageError) as caught:
        read_data(root, CONFIG)
    (problem,) = check_dataset(root, fast=True).problems
    assert problem.what == caught.value.what and problem.got == caught.value.got


def test_a_class_that_no_training_picture_has_is_told(tmp_path: Path) -> None:
    tree = "data.yaml    train: images/train; val: images/val; names: [cat, dog]\nimages/train/a.jpg\nimages/val/b.jpg\n"
    root = build(tmp_path, tree + "labels/train/a.txt\nlabels/val/b.txt    1 0.5 0.5 0.2 0.2")
    words = "no training picture has an object of a class that validation pictures have: dog"
    with pytest.warns(UserWarning, match=words):
        read_data(root, CONFIG)
    assert words in [note.what for note in check_dataset(root, fast=True).notes]


@pytest.mark.parametrize(
    "said",
    [
        {"labels/train/a.txt": "0 9 .5 .2 .2", "labels/val/c.txt": "7 .5 .5 .2 .2"},  # in both splits
        {"labels/train/a.txt": "", "labels/train/b.txt": "0 9 9 9 9"},  # and then nothing to learn
        {"labels/val/c.txt": "0 9 .5 .2 .2", "labels/val/d.txt": "0 .5 .5 .2 .2"},  # and no picture d
    ],
)
def test_training_and_the_doctor_list_the_same(said: dict[str, str], tmp_path: Path) -> None:
    yaml = YAML.replace("names", "val: images/val; names")
    root = build(tmp_path, f"{yaml}\nimages/val/c.jpg\nlabels/val/c.txt")
    for name, line in said.items():
        (root / name).write_text(line)
    listed = [str(problem) for problem in check_dataset(root, fast=True).problems]
    with pytest.raises(DataError, match=f"^{len(listed)} problem") as caught:
        read_data(root, CONFIG)
    assert listed and all(problem in str(caught.value) for problem in listed)
    assert "onestage data check" in str(caught.value.fix)
