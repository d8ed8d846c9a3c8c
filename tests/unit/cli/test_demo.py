"""``onestage demo``, its small variant: everything in one folder, and on from wherever it stopped."""

import json
from pathlib import Path

import pytest

from onestage.cli import generate
from onestage.cli import walkthrough as command
from onestage.cli.main import main
from onestage.data.synthetic import SyntheticConfig

Captured = pytest.CaptureFixture[str]


def test_the_demo_leaves_everything_in_one_folder_and_goes_on_after_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    out = tmp_path / "demo[b]"  # a name that is no markup
    arguments = ["demo", "--fast", "--out", str(out)]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # while pictures are drawn
        patch.setattr("onestage.cli.generate._write", interrupted)
        assert main(arguments) == 130
    with monkeypatch.context() as patch:  # before the training's first checkpoint
        patch.setattr(command, "train", interrupted)
        assert main(arguments) == 130
    drawn = {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*")}
    with monkeypatch.context() as patch:  # after the training
        patch.setattr(command, "_measured", interrupted)
        assert main(arguments) == 130
    weights = (out / "run/best.safetensors").read_bytes()
    capsys.readouterr()

    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*")} == drawn
    assert (out / "run/best.safetensors").read_bytes() == weights
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["pictures"] == command.FAST.test and figures["class_error"] is not None and figures["box_mae"] is not None
    for name in ("index.html", "pr_curves.png", "training_curves.png", "predictions.json", "run/last.safetensors"):
        assert (out / name).is_file(), name
    assert len(list((out / "pictures").glob("*.jpg"))) == command.FAST.test
    text = capsys.readouterr().out
    assert (
        "the pictures in" in text
        and "are still there" in text
        and f"{figures['coco']['AP50']:.3f}" in text
        and "demo[b]/index.html" in text
    )
    score = text.split("--score ")[1].split()[0]  # after one epoch nothing is sure of anything
    assert float(score) < command.USUAL_SCORE and "labels alone" in text
    assert main(["predict", str(out / "run"), str(out / "data/test"), "--score", score, "--out", str(tmp_path / "seen")]) == 0
    assert "nothing reached" not in capsys.readouterr().err


def test_a_data_set_that_is_not_the_demos_is_not_mixed_in(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "data").mkdir()
    mark = tmp_path / "data" / command.FINISHED
    mark.write_text("onestage data generate FOLDER --train 7 --val 8")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "a data set that is not the demo's" in capsys.readouterr().err

    counts = {"train": command.FAST.train, "val": command.FAST.val, "test": command.FAST.test}
    other = SyntheticConfig(size=(command.FAST.side, command.FAST.side), classes=("ball", "ring"))
    mark.write_text(generate._description("coco", counts, other))  # of the same size, but other pictures
    assert main(["demo", "--fast", "--out", str(tmp_path)]) == 2
    assert "a data set that is not the demo's" in capsys.readouterr().err


def test_a_demo_deletes_nothing_that_it_did_not_make(tmp_path: Path, capsys: Captured) -> None:
    """A run without a whole checkpoint: what lies there stays, and damaged checkpoints are refused, not replaced."""
    mine, damaged = tmp_path / "run/mine.txt", tmp_path / "run/checkpoints/step-00000001/state.json"
    damaged.parent.mkdir(parents=True)
    for path in (mine, damaged):
        path.write_text("precious")
    assert main(["demo", "--fast", "--out", str(tmp_path)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert mine.read_text() == damaged.read_text() == "precious"
