"""``onestage data anchors``, and training with what it writes."""

import json
from pathlib import Path

import pytest

from onestage import create, load, recipe
from onestage.cli.anchors import _better_choice
from onestage.cli.choose import ModelChoice
from onestage.cli.main import main
from onestage.metrics import plots
from onestage.model.anchors import fit as search
from onestage.model.config import DetectorConfig
from onestage.training import folder as run_folder
from onestage.training.coverage import Coverage, Reached
from onestage.training.folder import Plan

Captured = pytest.CaptureFixture[str]
TINY = ["--model", "tinyssd", "--size", "64"]
SHORT = ["--epochs", "1", "--batch-size", "4", "--workers", "0"]


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "ROUNDS", 2)
    monkeypatch.setattr(search, "STEPS", (0.2, 0.05))


def test_fit_then_train(shapes: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["data", "anchors", str(shapes), *TINY, "-o", "a.json"]) == 0
    out = capsys.readouterr().out
    assert "train objects" in out and "val objects" in out and f"onestage train {shapes} --config a.json" in out
    config = DetectorConfig.from_json(Path("a.json").read_text())
    assert config.classes == ("ball", "ring") and config.preprocess.size == (64, 64) and Path("a.png").stat().st_size > 5000
    text = Path("a.json").read_bytes()
    monkeypatch.setattr(plots, "plot_anchors", lambda *_: None)
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    assert main(["data", "anchors", str(shapes), *TINY, "-o", "a.json"]) == 0 and Path("a.json").read_bytes() == text

    assert main(["train", str(shapes), "--config", "a.json", "--set", "loss.negative_ratio=2", *SHORT, "--out", "x"]) == 0
    assert Plan.load("x").model == config.replace({"loss.negative_ratio": 2})
    assert "from the weights" not in capsys.readouterr().err
    assert main(["train", str(shapes), *TINY, "--fit-anchors", *SHORT, "--out", "y"]) == 0
    model = load("y/last.safetensors")
    assert model.config == config == Plan.load("y").model
    started = create("tinyssd", classes=("ball",), weights="y/last.safetensors")
    assert started.config.anchors == config.anchors  # a model keeps its shapes unless it is asked to change them


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [((8, 9), (9, 9), True), ((9, 7), (9, 8), True), ((9, 9), (9, 9), False), ((9, 8), (8, 9), False), ((9, 9), (9, 8), False)],
)
def test_anchors_that_reach_no_more_are_not_advised(
    before: tuple[int, int], after: tuple[int, int], better: bool, capsys: Captured
) -> None:
    """The numbers are objects that are reached: in all, and of the class that is reached least."""
    found = [Coverage(Reached("all", 20, total), (Reached("ball", 10, least),), (), ()) for total, least in (before, after)]
    given = ModelChoice(model="tinyssd", size="64", changes=("loss.negative_ratio=2",), weights="none")
    choice = _better_choice(given, Path("a.json"), *found)
    assert choice == (ModelChoice(config_file=Path("a.json"), weights="none") if better else given)
    assert ("the usual anchors are as good" in capsys.readouterr().out) == (not better)


def test_the_next_command_trains_with_the_usual_anchors_if_the_fit_changes_nothing(
    shapes: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onestage.training.anchors.fit", lambda levels, *_, **__: levels)
    monkeypatch.setattr(plots, "plot_anchors", lambda *_: None)
    assert main(["data", "anchors", str(shapes), *TINY, "--format", "coco", "-o", "a b.json"]) == 0
    out = capsys.readouterr().out
    assert "those in a b.json reach no more objects" in out
    assert out.endswith(f"next: onestage train {shapes} --format coco {' '.join(TINY)}\n")


REFUSED = {
    "train {data} --config a.json --model tinyssd": ("--model", "leave out --model, or --config"),
    "train {data} --config a.json --size 96": ("--size", "leave out --size, or --config"),
    "train {data} --config none.json": ("no such file or directory", "check that path"),
    "train {data} --config notes.txt": ("does not describe a model", "onestage data anchors"),
    "train {data} --config run.json": ("does not describe a model", "onestage data anchors"),
    "train --resume r --fit-anchors": ("this folder holds no run", ""),
    "data anchors {data}": ("no model is named", "--model"),
    "data anchors {data} --model tinysd": ("tinyssd", ""),
    "data anchors nowhere --model tinyssd": ("no such file or folder", ""),
    "data anchors {data} --model tinyssd -o notes.txt": ("onestage did not write it", ""),
    "data anchors {data} --model tinyssd -o a.png": ("the drawing has that name", "a.json"),
    "data anchors {data} --model tinyssd -o taken.json": ("in the way of the drawing", "--out"),
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_refused(command: str, shapes: Path, capsys: Captured) -> None:
    model = usual_config()
    Path("a.json").write_text(json.dumps(model))
    Path("notes.txt").write_bytes(b"\xff not JSON")
    Path("run.json").write_text(json.dumps({"model": model, "train": {}}))
    Path("taken.png").write_bytes(b"a picture")
    assert main(command.format(data=shapes).split()) == 2
    text = capsys.readouterr().err
    assert all(part in text for part in REFUSED[command]) and "Traceback" not in text, text
    assert Path("taken.png").read_bytes() == b"a picture" and not Path("runs").exists()


def usual_config() -> dict[str, object]:
    data: dict[str, object] = json.loads(recipe("tinyssd", ("ball",), size=(64, 64)).to_json())
    return data


def test_several_processes_do_not_fit(shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(shapes), *TINY, "--fit-anchors", "--out", "x"]) == 2
    assert "--config FILE" in capsys.readouterr().err and not Path("x").exists()
