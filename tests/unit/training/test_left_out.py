"""Broken pictures and boxes without area: left out up to a limit, counted, listed; anything else stops a training."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.cli.main import main
from onestage.data.problems import left_out_of, most_left_out
from onestage.data.reader import load_dataset
from onestage.errors import ConfigError, DataError, OnestageError
from onestage.training import folder as run_folder
from onestage.training.config import TrainConfig, make_config
from onestage.training.folder import LEFT_OUT as NAME
from onestage.training.folder import Plan
from onestage.training.going_on import NewSettings
from onestage.training.inputs import read_data
from onestage.training.inventory import Inventory
from onestage.training.left_out import summary
from onestage.training.loop import Training, resume, train
from onestage.training.rules import before_data
from small_runs import CONFIG, detector, metrics, pictures, together, weights, write_pictures
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


def test_pictures_that_break_while_they_measure_can_be_mended(data: Path, tmp_path: Path) -> None:
    lost = {path: path.read_bytes() for path in paths(data, "val")[:3]}
    for path in lost:
        path.write_bytes(b"")
    heard, out = Heard(), tmp_path / "run"
    with pytest.raises(DataError, match="and at most 2 may be left out"):
        train(detector(), data, out=out, config=replace(LIMIT, epochs=2), monitor=heard)
    assert any("is saved. Go on once the pictures are mended" in line for line in heard.said)
    for path, content in lost.items():
        path.write_bytes(content)
    assert not resume(out).interrupted


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


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the next training to stop after a step."""
    inner = Training._step

    def stopping(training: Training, batch: object) -> None:
        training.stop.asked = training.step + 1 == step
        inner(training, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "_step", stopping)


def test_a_run_that_goes_on_keeps_what_it_has_listed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the picture is mended by then, so that it is not met again."""
    change(data, flatten(0))
    broken, out = paths(data)[3], tmp_path / "run"
    content = broken.read_bytes()
    broken.write_bytes(content[:300])
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        train(detector(), data, out=out, config=replace(LIMIT, epochs=2))
    listed = rows(out)
    assert [row["kind"] for row in listed] == ["box without area", "picture"] and broken.name in listed[1]["place"]
    broken.write_bytes(content)
    resume(out, accept_changes=True)
    assert rows(out) == listed


def test_pictures_of_an_earlier_process_count_from_the_beginning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they were mended. So no night of restarts leaves out more than the limit says."""
    change(data, flatten(0))
    broken, other = paths(data)[3:5]
    contents = {path: path.read_bytes() for path in (broken, other)}
    broken.write_bytes(contents[broken][:300])
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        train(detector(), data, out=tmp_path / "run", config=replace(LIMIT, epochs=2))
    heard = Heard()
    with monkeypatch.context() as patch:
        stop_at(8, patch)
        assert resume(tmp_path / "run", monitor=heard).interrupted
    assert any("left out: 1 box without area, 1 picture (at most 2)" in line for line in heard.said)
    assert not any("could not be read" in line for line in heard.said)  # that was said by the earlier process
    with (tmp_path / "run" / NAME).open("a") as file:
        file.write(f"{os.path.relpath(other, data)},picture,it was broken yesterday\n")
    other.write_bytes(b"")
    with pytest.raises(DataError, match="and at most 2 may be left out"):
        resume(tmp_path / "run", accept_changes=True)
    for path, content in contents.items():
        path.write_bytes(content)
    assert not resume(tmp_path / "run", accept_changes=True).interrupted


def deleted(picture: Path) -> None:
    picture.unlink()


def without_header(picture: Path) -> None:
    picture.write_bytes(b"")


def cut(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:300])


def yolo(data: Path, root: Path) -> Path:
    """The training pictures without a split, so that a tenth is held out, with labels that need the size of the picture."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for path in paths(data):
        (root / "images" / path.name).write_bytes(path.read_bytes())
        (root / "labels" / f"{path.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.25 0.25\n2 0.7 0.7 0.2 0.2\n")
    (root / "classes.txt").write_text("ball\ncube\nstar\n")
    return root


@pytest.mark.parametrize(
    ("format", "lose"),
    [("coco", deleted), ("yolo", deleted)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("coco", cut), ("yolo", without_header))],
)
def test_a_run_goes_on_without_pictures_that_were_lost_since_it_began(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, lose: Callable[[Path], None]
) -> None:
    data, out = data if format == "coco" else yolo(data, tmp_path / "yolo"), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        train(detector(), data, out=out, config=replace(CONFIG, epochs=2))
    known = Inventory.load(out)
    assert known is not None and len(known.train) + len(known.val) == (25 if format == "coco" else 20)
    lost = data / known.train[3].name
    lose(lost)
    if format == "yolo" and lose is deleted:  # no trace of it is left in the folder
        (data / "labels" / f"{lost.stem}.txt").unlink()
    with pytest.raises(OnestageError):
        resume(out)
    heard = Heard()
    resume(out, settings=NewSettings(on_bad="skip"), monitor=heard)
    line = next(line for line in heard.said if line.startswith("from step 2 on"))
    assert lost.name in line and "no longer that of the run" in line
    change = Plan.load(out).history[-1]
    assert (change.what, change.before, change.after, change.step) == ("pictures left out", 0, 1, 2) and lost.name in change.why
    assert len(rows(out)) == 1 and rows(out)[0]["kind"] == "picture"
    assert metrics(out)[-1]["step"] == (10 if format == "coco" else 8) and Inventory.load(out) == known
    assert len(resume(out, monitor=heard).folder.name) and Plan.load(out).history[-1] == change  # nothing new to tell


def test_the_parts_of_a_data_set_stay_apart_where_pictures_are_gone(data: Path, tmp_path: Path) -> None:
    root = yolo(data, tmp_path / "yolo")
    before = read_data(root, LIMIT)
    begun = Inventory.of(before.train, before.val)
    names = [Path(path).name for path in (before.train.paths[1], before.train.paths[-1], before.val.paths[0])]
    for name in names:
        (root / "images" / name).unlink()
    now = read_data(root, replace(LIMIT, on_bad="skip"), begun=begun)
    assert [Path(name).name for name in now.gone] == names and len(now.train) == len(before.train)
    assert now.val.paths == before.val.paths[1:] and not {*now.val.paths} & {*now.train.paths}
    assert now.train.paths == (
        before.train.paths[0],
        *before.train.paths[2:3],
        *before.train.paths[2:-1],
        before.train.paths[0],
    )
    assert begun.changes(now.train) == [] and len(left_out_of(now.train, now.val)) == 3
    label = root / "labels" / f"{Path(before.train.paths[4]).stem}.txt"
    label.write_text("0 0.5 0.5 0.5 0.4\n")
    assert begun.changes(read_data(root, replace(LIMIT, on_bad="skip"), begun=begun).train) == [
        f"images/{label.stem}.jpg: other labels"
    ]


def test_a_gone_picture_counts_once(data: Path) -> None:
    """Of a validation split, too, whose reader has noticed it."""
    before = read_data(data, LIMIT)
    paths(data, "val")[0].unlink()
    now = read_data(data, LIMIT, begun=Inventory.of(before.train, before.val))
    assert len(now.gone) == 1 and len(left_out_of(now.train, now.val)) == 1


def limited(data: Path, out: Path) -> None:
    """Train, and print the error of this process."""
    try:
        train(detector(), data, out=out, config=replace(LIMIT, augment="none"))
    except DataError as error:
        print(f"said {error.what}", flush=True)


def test_two_processes_count_together(data: Path, tmp_path: Path) -> None:
    """Neither meets more than the limit of its share before both stop, after the same step."""
    for path in paths(data)[::2]:
        path.write_bytes(path.read_bytes()[:300])
    log, out = tmp_path / "log", tmp_path / "run"
    with together(limited, data, out, log=log):
        pass
    said = [line for line in log.read_text().splitlines() if line.startswith("said")]
    assert len(said) == 2 and said[0] == said[1] and "and at most 2 may be left out" in said[0]
    (checkpoint,) = out.glob("checkpoints/step-*")
    assert 1 <= int(checkpoint.name.removeprefix("step-")) < 5 and len(rows(out)) >= 3
