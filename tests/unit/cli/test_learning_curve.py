"""``onestage evaluate --learning-curve``: three trainings with the settings of a run, which go on where they were stopped."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from onestage.cli import learning_curve
from onestage.cli.main import main
from onestage.files import LAST
from onestage.training import folder as run_folder
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan
from onestage.training.loop import Training
from small_runs import CONFIG, ask_to_stop, before_step, run, write_pictures

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures to train on, 3 to measure."""
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one epoch. Its learning curve takes two steps for each training, in place of minutes."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    run(data, tmp_path / "run", replace(CONFIG, epochs=1, augment="none"))

    def two_steps(config: TrainConfig, minutes: float) -> TrainConfig:
        return replace(learning_curve_settings(config, minutes), minutes=None, steps=2)

    learning_curve_settings = learning_curve.settings_for
    monkeypatch.setattr(learning_curve, "settings_for", two_steps)
    return tmp_path / "run"


def test_it_says_what_follows(trained: Path, data: Path, capsys: Captured) -> None:
    assert main(["evaluate", str(trained), str(data), "--learning-curve", "0.5", "--workers", "0"]) == 0
    told = capsys.readouterr()
    assert "training 3 of 3: 12 pictures" in told.out and "3 measured pictures" in told.out and "--resume" not in told.out
    assert "note: the run does not say which weights it began with" in told.err
    folder = trained / "learning-curve" / "0.5-minutes"
    curve = json.loads((folder / "curve.json").read_text())
    assert [point["pictures"] for point in curve["points"]] == [3, 6, 12]
    assert curve["answer"] in ("helps", "little", "unknown") and curve["measured"] == 3 and curve["minutes"] == 0.5
    plan = Plan.load(folder / "100-percent")
    assert plan.train.batch_size == CONFIG.batch_size and plan.train.steps == 2 and plan.model == Plan.load(trained).model


@pytest.mark.slow
def test_it_goes_on_and_repeats_nothing(trained: Path, data: Path, capsys: Captured) -> None:
    command = ["evaluate", str(trained), str(data), "--learning-curve", "0.5", "--workers", "0"]
    with patch.object(Training, "_step", before_step(2, ask_to_stop)):
        assert main(command) == 130
    told = capsys.readouterr()
    assert "training 1 of 3: 3 pictures" in told.out and "training 2" not in told.out
    assert "the same command goes on" in told.err and "--resume" not in told.out + told.err
    folder = trained / "learning-curve" / "0.5-minutes"
    first = (folder / "25-percent" / LAST).stat().st_mtime_ns

    assert main(command) == 0
    curve = json.loads((folder / "curve.json").read_text())
    done = [(folder / f"{part}-percent" / LAST).stat().st_mtime_ns for part in (25, 50, 100)]
    assert done[0] > first
    assert main(command) == 0
    assert [(folder / f"{part}-percent" / LAST).stat().st_mtime_ns for part in (25, 50, 100)] == done  # nothing is repeated
    assert json.loads((folder / "curve.json").read_text()) == curve


def test_the_length_is_that_of_the_minutes_and_the_rest_that_of_the_run() -> None:
    config = TrainConfig(steps=70, evaluate_steps=10, evaluate_pictures=5, lr=0.01, log="tensorboard", seed=3)
    changed = learning_curve.settings_for(config, 2.0)
    assert (changed.minutes, changed.steps, changed.evaluate_steps, changed.evaluate_pictures) == (2.0, None, None, None)
    assert (changed.lr, changed.seed, changed.log) == (0.01, 3, None)


@pytest.mark.parametrize(
    ("model", "minutes", "message"),
    [
        ("run", "0", "a number out of its range"),
        ("results.json", "1", "a learning curve is of a run, and these are detections"),
        ("alone/model.safetensors", "1", "this folder holds no run"),
    ],
)
def test_what_it_refuses(
    run: Path, shapes: Path, tmp_path: Path, capsys: Captured, model: str, minutes: str, message: str
) -> None:
    (tmp_path / "results.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}]')
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/model.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    path = run if model == "run" else tmp_path / model
    assert main(["evaluate", str(path), str(shapes), "--learning-curve", minutes]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_minutes(data: Path, tmp_path: Path, capsys: Captured) -> None:
    """With a real clock: three trainings of three seconds."""
    run(data, tmp_path / "run", replace(CONFIG, epochs=1, augment="none"))
    assert main(["evaluate", str(tmp_path / "run"), str(data), "--learning-curve", "0.05", "--workers", "0"]) == 0
    assert "training 3 of 3: 12 pictures" in capsys.readouterr().out
    assert Plan.load(tmp_path / "run/learning-curve/0.05-minutes/25-percent").train.minutes == 0.05
