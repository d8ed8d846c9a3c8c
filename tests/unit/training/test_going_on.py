"""A run goes on with other settings: the plan keeps what changed, and the rest of the run is repeatable."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onestage.cli.main import main
from onestage.errors import ConfigError
from onestage.files import LAST
from onestage.processes import RESTARTS, VARIABLES
from onestage.training import folder as run_folder
from onestage.training.folder import Plan
from onestage.training.going_on import NewSettings
from onestage.training.history import Change
from onestage.training.loop import Training, resume
from small_runs import CONFIG, metrics, run, same_bits, write_pictures


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of 3 epochs of 3 steps that was stopped after 4 steps."""
    folder, step = tmp_path_factory.mktemp("stopped"), Training._step

    def stopping(training: Training, batch: Any) -> dict[str, float]:
        training.stop.asked = training.step + 1 == 4
        return step(training, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "plot_training_curves", lambda *_: None)
        patch.setattr(Training, "_step", stopping)
        assert run(write_pictures(folder / "data"), folder / "run", CONFIG).interrupted
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    return Path(shutil.copytree(stopped / "run", tmp_path / "run"))


@pytest.mark.parametrize(
    ("settings", "steps", "history"),
    [
        ({"epochs": 2}, 6, ["epochs 3 -> 2", "steps 9 -> 6"]),
        ({"batch_size": 6}, 7, ["batch_size 4 -> 6", "steps 9 -> 7"]),  # 5 of 9 steps are left, of 2 in place of 3 an epoch
        ({"lr": 0.5}, 9, ["lr None -> 0.5"]),
    ],
)
def test_changes_are_kept_and_repeated(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], steps: int, history: list[str]
) -> None:
    again = Path(shutil.copytree(folder, folder.with_name("again")))
    resume(folder, settings=NewSettings(**settings))
    assert "the result is no longer that of the run without this change" in capsys.readouterr().out
    plan = Plan.load(folder)
    assert [f"{c.what} {c.before} -> {c.after}" for c in plan.history] == history and {c.step for c in plan.history} == {4}
    assert metrics(folder)[-1]["step"] == steps
    shutil.copy(folder / "config.json", again)  # as if it had been killed right after the change
    resume(again)
    assert same_bits(folder, again)


def test_the_place_of_the_data_and_the_workers_change_no_bit(
    folder: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped / "data", tmp_path / "moved")
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    assert main(["train", str(tmp_path / "moved"), "--resume", str(folder), "--workers", "1"]) == 0
    assert "the result stays the same to the bit" in capsys.readouterr().out
    assert Plan.load(folder).data == str(tmp_path / "moved")
    resume(again)
    assert same_bits(folder, again)
    (tmp_path / "moved" / "train" / "000003.jpg").write_bytes(b"another picture")
    assert main(["train", str(tmp_path / "moved"), "--resume", str(again)]) == 2
    assert "has changed since this run began" in capsys.readouterr().err


def test_what_cannot_change_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(folder), "--seed", "3", "--model", "ssd300_vgg16"]) == 2
    said = capsys.readouterr().err
    assert "--seed, --model and its like" in said and "--epochs, --minutes" in said and f"--weights {folder / LAST}" in said
    (folder / LAST).unlink()
    (folder / "best.safetensors").unlink(missing_ok=True)
    assert main(["train", "--resume", str(folder), "--seed", "3"]) == 2
    assert "--weights" not in capsys.readouterr().err  # no advice names a file that is not there
    with pytest.raises(ConfigError, match="more epochs than that already"):
        resume(folder, settings=NewSettings(epochs=1))
    with pytest.raises(ConfigError, match="more minutes than that already"):
        resume(folder, settings=NewSettings(minutes=1e-6))
    with pytest.raises(ConfigError, match="two settings say how long"):
        resume(folder, settings=NewSettings(epochs=9, minutes=1))
    assert main(["train", "data", "--epochs", "100", "--minutes", "1"]) == 2
    assert "two settings say how long to train" in capsys.readouterr().err
    assert replace(CONFIG) == Plan.load(folder).train


def test_what_torchrun_starts_again_goes_on_by_the_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of its command are in the plan already; one that is not yet there comes to pass."""
    resume(folder, settings=NewSettings(lr=0.5))
    history = Plan.load(folder).history
    for name, value in zip((*VARIABLES, RESTARTS), ("0", "1", "0", "127.0.0.1", "1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    resume(folder, settings=NewSettings(lr=0.5))
    assert Plan.load(folder).history == history
    assert NewSettings(minutes=9.0, workers=1).left([Change(4, "minutes", 5.0, 9.0)]) == NewSettings(workers=1)
    assert NewSettings(minutes=9.0).left([Change(4, "minutes", 5.0, 9.0), Change(6, "minutes", 9.0, 7.0)]).minutes == 9.0
