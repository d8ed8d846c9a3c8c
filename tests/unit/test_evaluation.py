"""evaluate(): from a model, a file or a run folder to a report; what would be ignored is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

import onestage
from onestage.errors import ConfigError, WeightsError
from onestage.weights.detector_file import save_detector
from small_runs import CONFIG, detector, pictures, write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), train=6, val=3)


def test_a_run_folder_a_file_and_a_model_give_one_report(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    onestage.train(detector(), data, out=run, config=replace(CONFIG, epochs=1))
    model = onestage.load(run)
    reports = [onestage.evaluate(it, data, workers=0).to_dict() for it in (model, run, run / "best.safetensors", str(run))]
    assert reports[0] == reports[1] == reports[2] == reports[3]
    assert reports[0]["pictures"] == 3


def test_a_run_folder_measures_what_its_run_held_out(tmp_path: Path) -> None:
    data, run = write_pictures(tmp_path / "data", train=10, val=0), tmp_path / "run"
    onestage.train(detector(), data, out=run, config=replace(CONFIG, epochs=1))
    assert onestage.evaluate(run, data, workers=0).coco.pictures == 1
    assert onestage.evaluate(onestage.load(run), data, workers=0).coco.pictures == 10


def test_the_format_is_handed_on(data: Path, tmp_path: Path) -> None:
    save_detector(detector(), tmp_path / "model.safetensors")
    assert onestage.evaluate(tmp_path / "model.safetensors", data, format="coco", workers=0).coco.pictures == 3
    with pytest.raises(onestage.errors.OnestageError, match=r"yolo|YOLO"):
        onestage.evaluate(detector(), data, format="yolo", workers=0)
    with pytest.raises(WeightsError):
        onestage.evaluate(tmp_path / "none.safetensors", data)


def test_nothing_is_accepted_and_ignored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="for a path"):
        onestage.evaluate(detector(), pictures(2), split="test")
    with pytest.raises(ConfigError, match="for a path"):
        onestage.evaluate(detector(), pictures(2), format="coco")
    with pytest.raises(ConfigError, match="for a path"):
        onestage.train(detector(), pictures(2), out=tmp_path / "run", format="coco")
