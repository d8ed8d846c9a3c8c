"""What a run reads, and which pictures of a data set without splits it held out, asked of its folder afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest

from onestage.cli.main import main
from onestage.data import load_dataset
from onestage.training import folder as run_folder
from onestage.training.checkpoint import CheckpointStore
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan
from onestage.training.inputs import held_out, read_data
from onestage.training.inventory import Entry, Inventory
from onestage.training.loop import resume, train
from small_runs import detector, write_pictures

CONFIG = TrainConfig(seed=5)


def plan(run: Path, data: Path) -> Plan:
    run.mkdir()
    own = Plan(detector().config, CONFIG, str(data.resolve()))
    own.save(run)
    return own


def test_they_are_the_very_pictures_that_training_holds_out(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=20, val=0)
    plan(tmp_path / "run", data)
    rest, note = held_out(detector(), tmp_path / "run", data, on_bad="stop")
    read = read_data(data, CONFIG)
    trained, expected = read.train, read.val
    assert note is None and rest is not None and rest.image_ids == expected.image_ids and len(rest) == 2
    assert not {*rest.image_ids} & {*trained.image_ids}
    other = read_data(data, replace(CONFIG, seed=6)).val
    assert other.image_ids != expected.image_ids


def test_none_of_other_data_of_a_data_set_with_a_split_or_without_a_run(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=2)
    other = write_pictures(tmp_path / "other", train=4, val=0)
    plan(tmp_path / "run", data)
    assert held_out(detector(), tmp_path / "run", data, on_bad="stop") == (None, None)
    assert held_out(detector(), tmp_path / "run", other, on_bad="stop") == (None, None)
    assert held_out(detector(), tmp_path, other, on_bad="stop") == (None, None)
    (tmp_path / "config.json").write_text('{"of": "another program"}')
    assert held_out(detector(), tmp_path, other, on_bad="stop") == (None, None)


def test_a_single_picture_was_trained_on(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=1, val=0)
    plan(tmp_path / "run", data)
    rest, note = held_out(detector(), tmp_path / "run", data, on_bad="stop")
    assert rest is None and note == "the run trained on 1 picture of these, all there are"


def test_a_data_set_that_has_changed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pictures(tmp_path / "data", train=20, val=0)
    plan(tmp_path / "run", data)
    monkeypatch.setattr(CheckpointStore, "noted", lambda *_: "of other pictures")
    rest, note = held_out(detector(), tmp_path / "run", data, on_bad="stop")
    assert rest is None and note is not None and "has changed since this run began" in note
    assert len(load_dataset(data)) == 20


def test_a_data_set_without_any_picture_of_the_run_is_told(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=0)
    plan(tmp_path / "run", data)
    (tmp_path / "run" / "checkpoints").mkdir()
    Inventory((Entry(1, "train/old.jpg", ""),), (Entry(2, "train/older.jpg", ""),)).save(tmp_path / "run")
    rest, note = held_out(detector(), tmp_path / "run", data, on_bad="stop")
    assert rest is None and note is not None and "has changed since this run began" in note


@pytest.fixture
def annotations_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the annotation files whose text was read, one entry for each time."""
    names: list[str] = []
    inner = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.name.startswith("instances_"):
            names.append(self.name)
        return inner(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    return names


def test_annotations_are_read_once(tmp_path: Path, annotations_read: list[str]) -> None:
    """By the command line, which makes the model for the classes of the data; by train() and by resume()."""
    data = write_pictures(tmp_path / "data", train=4, val=1)
    out = tmp_path / "run"
    settings = ["--epochs", "1", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    once = ["instances_train.json", "instances_val.json"]
    assert main(["train", str(data), "--model", "tinyssd", "--size", "64", "--out", str(out), *settings]) == 0
    assert annotations_read == once
    train(detector(), data, out=tmp_path / "again", config=replace(CONFIG, epochs=1, batch_size=4, workers=0, device="cpu"))
    assert annotations_read == once * 2
    resume(out)
    assert annotations_read == once * 3
    assert Plan.load(out).data == str(data.resolve()) and Plan.load(out).format is None


def test_annotations_without_splits_are_read_once(tmp_path: Path, annotations_read: list[str]) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=0)
    parts = read_data(data, CONFIG, format="coco")
    assert (len(parts.train), len(parts.val), parts.path, parts.format) == (3, 1, str(data.resolve()), "coco")
    assert annotations_read == ["instances_train.json"]
