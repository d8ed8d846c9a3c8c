"""Loggers beside the run folder: what they get, and that a fault of theirs stops nothing."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from onestage.cli.main import main
from onestage.errors import ConfigError
from onestage.training import journal, loggers
from onestage.training.folder import Plan
from onestage.training.loop import resume, train
from onestage.training.state import Record
from small_runs import CONFIG, detector, write_pictures
from unit.training.test_page import Notes

PACKAGES = ("tensorboard", "mlflow", "wandb")
ROW = {"epoch": 1, "step": 3, "loss": 2.5, "val/AP": float("nan"), "class/a (b)": 0.5}
PICTURES = {"1 a b.jpg": Image.new("RGB", (8, 6))}


class Kept:
    """A logger that keeps what it gets; it fails at a step if told to."""

    calls: ClassVar[list[str]] = []
    fails_at = 0

    def __init__(self, folder: Path, step: int) -> None:
        self.calls.append(f"made after {step}")

    def start(self, settings: Mapping[str, str]) -> None:
        self.calls.append(f"start {settings['model']} {settings['batch_size']}")

    def record(self, row: Record, pictures: Mapping[str, Image.Image]) -> None:
        if row["step"] == self.fails_at:
            raise ConnectionError("no network")
        self.calls.append(f"row {row['step']} {len(pictures)}")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("logged") / "data")


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_logger_gets_the_run_and_stops_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setitem(loggers.LOGGERS, "wandb", Kept)
    monkeypatch.setattr(Kept, "calls", [])
    monkeypatch.setattr(Kept, "fails_at", fails_at)
    notes = Notes()
    train(detector(), data, out=tmp_path / "run", config=replace(CONFIG, epochs=1, log="wandb"), monitor=notes)
    logged = [] if fails_at else ["row 3 3", "close"]
    assert Kept.calls == [
        "made after 0",
        "made after 0",
        "start tinyssd 4",
        *logged,
    ]  # the first one shows that it is installed
    assert len([line for line in notes.said if "no network; the training goes on" in line]) == bool(fails_at)
    if not fails_at:
        resume(tmp_path / "run", monitor=notes)  # the plan knows the logger
        assert Kept.calls[5:] == ["made after 0", "made after 3", "start tinyssd 4", "close"]


@pytest.mark.slow
def test_pictures_are_logged_at_the_step_of_their_measurement(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loggers.LOGGERS, "wandb", Kept)
    monkeypatch.setattr(Kept, "calls", [])
    monkeypatch.setattr(journal, "SHARE", 1e-9)  # the page, which also uses them up, is not drawn in between
    train(detector(), data, out=tmp_path, config=replace(CONFIG, epochs=4, evaluate_every=2, log="wandb"), monitor=Notes())
    rows = [call for call in Kept.calls if call.startswith("row")]
    assert rows == ["row 3 0", "row 6 3", "row 9 0", "row 12 3"]


def test_a_missing_package_is_told_before_anything_is_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that goes on where it is missing says how to go on without it."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="mlflow is not installed"):
        train(detector(), tmp_path / "no data", out=out, config=replace(CONFIG, minutes=1, epochs=100, log="mlflow"))
    assert main(["train", str(data), "--log", "mlflow", "--out", str(out)]) == 2
    assert not out.exists() and "pip install 'onestage[mlflow]'" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(loggers.LOGGERS, "mlflow", Kept)
        train(detector(), data, out=out, config=replace(CONFIG, epochs=1, log="mlflow"), monitor=Notes())
    assert main(["train", "--resume", str(out)]) == 2
    advice = f"onestage train --resume {out} --log none"
    assert advice in capsys.readouterr().err
    assert main(advice.split()[1:]) == 0
    assert "the result stays the same to the bit" in capsys.readouterr().out and Plan.load(out).train.log is None


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_told_with_its_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        loggers.LOGGERS[package](tmp_path, 0)
    assert caught.value.fix == f"pip install 'onestage[{package}]'"


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_real_package_takes_rows_and_pictures_and_goes_on(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for step in (0, 3):
        logger = loggers.LOGGERS[package](tmp_path, step)
        logger.start({"model": "tinyssd", "batch_size": "4"})
        logger.record(ROW | {"step": step + 3}, PICTURES)
        logger.close()
    if package == "tensorboard":
        assert len([*(tmp_path / "tensorboard").iterdir()]) == 2
    else:
        assert [*json.loads((tmp_path / "log.json").read_text())] == [package]
        assert any(path.is_file() for path in (tmp_path / ("mlruns" if package == "mlflow" else "wandb")).rglob("*"))
