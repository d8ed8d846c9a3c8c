"""Broken pictures and boxes without area: left out up to a limit, counted, listed; anything else stops a training."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.cli.main import main
from onestage.data.problems import most_left_out
from onestage.data.reader import load_dataset
from onestage.errors import ConfigError, DataError
from onestage.training import folder as run_folder
from onestage.training.config import TrainConfig, make_config
from onestage.training.going_on import NewSettings
from onestage.training.inputs import read_data
from onestage.training.left_out import NAME, summary
from onestage.training.loop import resume, train
from onestage.training.rules import before_data
from small_runs import CONFIG, detector, pictures, weights, write_pictures
from unit.training.test_doubtful_data import Heard

LIMIT = replace(CONFIG, epochs=1, on_bad="limit")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """25 pictures: 2 may be left out."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    return write_pictures(tmp_path / "data", train=20, val=5)


def change(data: Path, how: Callable[[dict], None], split: str = "train") -> None:
    file = data / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def flatten(number: int) -> Callable[[dict], None]:
    """Take the area of one box."""
    return lambda content: content["annotations"][number].update(bbox=[5, 5, 0, 9], area=0)


def paths(data: Path, split: str = "train") -> list[Path]:
    return [Path(path) for path in load_dataset(data, split=split, on_bad="skip").paths]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / NAME).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("share", "count", "most"),
    [(0.01, 8, 0), (0.01, 25, 2), (0.01, 100, 10), (0.01, 1000, 10), (0.01, 5000, 50), (0.1, 5000, 500), (0.0, 5000, 10)],
)
def test_the_limit(share: float, count: int, most: int) -> None:
    assert most_left_out(share, pictures(8).subset([i % 8 for i in range(count)])) == most


def test_a_missing_picture_and_a_box_without_area_are_left_out_up_to_the_limit(data: Path) -> None:
    lost = paths(data)[0]
    lost.unlink()
    change(data, flatten(-1))
    read = read_data(data, LIMIT)
    assert len(read.train) == 19 and summary(read.train.problems) == "1 picture, 1 box without area"
    with pytest.raises(DataError, match="2 problems"):
        read_data(data, CONFIG)
    paths(data, "val")[0].unlink()
    with pytest.raises(DataError, match="3 bad pictures and boxes in this data set, and at most 2 may be left out") as caught:
        read_data(data, LIMIT)
    assert lost.name in str(caught.value.got) and 'on_bad="skip"' in str(caught.value.fix)
    assert len(read_data(data, replace(LIMIT, on_bad="skip")).val) == 4


def test_a_class_that_is_not_named_or_a_malformed_entry_stops(data: Path) -> None:
    change(data, flatten(0))
    change(data, lambda content: content["annotations"][1].update(category_id=77))
    with pytest.raises(DataError, match="1 problem") as caught:
        read_data(data, LIMIT)
    assert "77" in str(caught.value.got) and "without area" not in str(caught.value.got)
    change(data, lambda content: content["annotations"][1].update(category_id=1, bbox=[1, 2, 3]))
    with pytest.raises(DataError, match="1 problem"):
        read_data(data, LIMIT)


def test_a_class_that_the_model_does_not_have_stops(data: Path) -> None:
    with pytest.raises(DataError, match="star"):
        read_data(data, LIMIT, classes=("ball", "cube"))
    assert read_data(data, replace(LIMIT, on_bad="skip"), classes=("ball", "cube")).train.problems


def test_pictures_that_break_in_an_epoch_count_too(data: Path, tmp_path: Path) -> None:
    """Until the limit is reached; then all is saved, and the run goes on if it is told to leave out all."""
    change(data, flatten(0))
    broken, other, third = paths(data)[3], paths(data, "val")[2], paths(data)[7]
    broken.write_bytes(broken.read_bytes()[:200])
    heard, out = Heard(), tmp_path / "run"
    train(detector(), data, out=out, config=LIMIT, monitor=heard)
    assert any(line.startswith("left out: 1 box without area (at most 2)") for line in heard.said)
    assert any("1 picture could not be read" in line and "left out in all" in line for line in heard.said)
    assert [row["kind"] for row in rows(out)] == ["box without area", "picture"] and broken.name in rows(out)[1]["place"]
    for path in (other, third):
        path.write_bytes(b"")
    heard, out = Heard(), tmp_path / "over"
    with pytest.raises(DataError, match="and at most 2 may be left out") as caught:
        train(detector(), data, out=out, config=replace(LIMIT, epochs=2), monitor=heard)
    assert f"--resume {out}" in str(caught.value.fix) and any("is saved" in line for line in heard.said)
    assert len(rows(out)) >= 3
    result = resume(out, settings=NewSettings(on_bad="skip"), monitor=heard)
    assert not result.interrupted and len(rows(out)) == 4 and weights(out)


def test_the_words_and_the_limit_belong_together() -> None:
    assert make_config({"bad_limit": 0.05}).on_bad == "limit" and before_data({}).on_bad == "limit"
    assert before_data({"on_bad": "stop"}).bad_share is None and before_data({}).bad_share == 0.01
    with pytest.raises(ConfigError, match="only on_bad limit has a limit"):
        TrainConfig(on_bad="skip", bad_limit=0.05)
    with pytest.raises(ConfigError):
        TrainConfig(on_bad="limit", bad_limit=0.2)
    narrow = TrainConfig(on_bad="limit", bad_limit=0.05)
    assert NewSettings(on_bad="skip").of(narrow).bad_limit is None
    assert NewSettings(bad_limit=0.02).of(TrainConfig()).bad_share == 0.02
    assert NewSettings(workers=1).of(narrow).bad_share == 0.05


def test_train_leaves_them_out_without_an_option(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(data, flatten(0))
    assert main(["train", str(data), "--model", "tinyssd", "--size", "64", "--plan-only", "--weights", "none"]) == 0
    assert "left out: 1 box without area" in capsys.readouterr().out
    assert main(["train", str(data), "--plan-only", "--on-bad", "stop", "--model", "tinyssd"]) != 0
    assert "--on-bad skip" in capsys.readouterr().err
    for number in range(3):
        change(data, flatten(number))
    assert main(["train", str(data), "--plan-only", "--model", "tinyssd"]) != 0
    said = capsys.readouterr().err
    assert "3 bad pictures and boxes" in said and "--on-bad skip" in said and "--bad-limit" not in said  # a tenth is 2
