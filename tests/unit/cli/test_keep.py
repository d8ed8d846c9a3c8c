"""``onestage evaluate --keep-thresholds`` and ``--calibrate``: what the file of the model gets, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from onestage import load
from onestage.analysis.calibration import FITS, Temperature
from onestage.cli.judge import Judging
from onestage.cli.main import main
from onestage.errors import ConfigError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, which may be changed."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(run, tmp_path / "kept"))


def evaluated(run: Path, shapes: Path, *options: str) -> dict[str, object]:
    """The figures of a measurement."""
    shutil.rmtree("report", ignore_errors=True)
    assert main(["evaluate", str(run), str(shapes), "--out", "report", "--workers", "0", *options]) == 0
    figures: dict[str, object] = json.loads(Path("report/metrics.json").read_text())["coco"]
    return figures


def found(run: Path, shapes: Path, *options: str) -> list[list[float]]:
    """The scores that predict reports for each picture."""
    arguments = ["predict", str(run), str(shapes / "test"), "--no-pictures", "--format", "jsonl", "--runtime", "torch"]
    assert main([*arguments, *options]) == 0
    lines = [json.loads(line) for line in Path("predictions/predictions.jsonl").read_text().splitlines()]
    return [[one["score"] for one in line["detections"]] for line in lines]


def test_thresholds_are_kept_used_and_replaced_by_a_number(kept: Path, shapes: Path, capsys: Captured) -> None:
    before = load(kept)
    assert sum(map(len, found(kept, shapes))) == 0  # nothing reaches 0.5
    figures = evaluated(kept, shapes, "--keep-thresholds")
    text = capsys.readouterr().out
    assert "threshold of" in text and f"kept in {kept / 'best.safetensors'}: thresholds" in text
    after = load(kept)
    assert after.scores is not None and len(after.scores.thresholds) == 2 and after.scores.temperatures == ()
    old, new = before.state_dict(), after.state_dict()
    assert all(old[name].equal(new[name]) for name in old) and after.config == before.config
    paths = sorted(map(str, (shapes / "test").iterdir()))
    expected = [after.scores.reported(one, None).scores for one in before.predict(paths)]
    ours = found(kept, shapes)
    assert sum(map(len, ours)) > 0
    for scores, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(torch.tensor(scores), wanted, atol=2e-3, rtol=0)
    assert found(kept, shapes, "--score", "0.9") == [[]] * len(paths)
    assert evaluated(kept, shapes) == figures  # which never applies them


def test_a_calibration_is_kept_if_it_helps_and_drops_thresholds(kept: Path, shapes: Path, capsys: Captured) -> None:
    evaluated(kept, shapes, "--calibrate", "--keep-thresholds", "--want", "recall=0.1")
    assert "calibrated: fitted on 2 pictures; on the 2 others D-ECE" in capsys.readouterr().out
    scores = load(kept).scores
    assert scores is not None and len(scores.temperatures) == len(scores.thresholds) == 2
    figures = evaluated(kept, shapes, "--calibrate")
    assert load(kept).scores == scores  # thresholds stay, as they are about the same scores
    page = Path("report/index.html").read_text()
    assert "Reliability diagram before and after calibration" in page
    assert evaluated(kept, shapes) == figures
    assert "before and after calibration" not in Path("report/index.html").read_text()  # it was fitted once


def test_thresholds_about_other_scores_are_dropped(kept: Path, shapes: Path, capsys: Captured) -> None:
    evaluated(kept, shapes, "--keep-thresholds", "--draws", "0", "--no-analysis")
    capsys.readouterr()
    evaluated(kept, shapes, "--calibrate", "--draws", "0")
    assert "the thresholds in the file were about other scores" in capsys.readouterr().err
    again = load(kept).scores
    assert again is not None and len(again.temperatures) == 2 and again.thresholds == ()


def test_a_calibration_that_does_not_help_is_not_kept(
    kept: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    before = (kept / "best.safetensors").read_bytes()
    monkeypatch.setitem(FITS, "best", (lambda score, hit: Temperature(),))
    assert main(["evaluate", str(kept), str(shapes), "--calibrate", "--workers", "0"]) == 0
    assert "not calibrated: fitted on 2 pictures" in capsys.readouterr().out
    assert (kept / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--want", "recall=0.9", "--no-analysis"], "leave --no-analysis out"),
        (["--keep-thresholds", "--want", "recall"], "what is wanted is not understood"),
        (["--keep-thresholds", "--want", "precision=1.5"], "what is wanted is not understood"),
        (["--keep-thresholds", "--want", "f1=0.5"], "f1, precision=0.95 or recall=0.9"),
        (["--keep-thresholds", "--want", "precision=0.99999"], "no threshold has what is wanted in these pictures"),
    ],
)
def test_what_cannot_be_wanted(kept: Path, shapes: Path, options: list[str], message: str, capsys: Captured) -> None:
    before = (kept / "best.safetensors").read_bytes()
    assert main(["evaluate", str(kept), str(shapes), "--workers", "0", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "--want" in error
    assert (kept / "best.safetensors").read_bytes() == before


def test_only_the_file_of_a_model_keeps_anything(kept: Path, shapes: Path, capsys: Captured) -> None:
    labels = shapes / "annotations/instances_test.json"
    first = json.loads(labels.read_text())["images"][0]["id"]
    Path("found.json").write_text(json.dumps([{"image_id": first, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}]))
    assert main(["evaluate", "found.json", str(labels), "--calibrate"]) == 2
    assert "kept in the file of a model" in capsys.readouterr().err
    checkpoint = kept / "checkpoints/step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    shutil.copy(kept / "best.safetensors", checkpoint / "model.safetensors")
    assert main(["evaluate", str(checkpoint / "model.safetensors"), str(shapes), "--keep-thresholds"]) == 2
    assert "a part of a checkpoint" in capsys.readouterr().err


def test_what_is_wanted_is_read_as_it_is_typed() -> None:
    wanted = Judging(want="precision=0.95").wanted()
    assert (wanted.figure, wanted.value) == ("precision", 0.95) and Judging().wanted().figure == "f1"
    for text in ("", "F1", "recall=", "recall=nan", "precision=-1", "precision=0.9=1"):
        with pytest.raises(ConfigError, match="what is wanted is not understood"):
            Judging(want=text)


def test_the_advice_names_the_command_that_keeps_the_thresholds(kept: Path, shapes: Path, capsys: Captured) -> None:
    options = ["--split", "val", "--on-bad", "skip"]
    assert main(["evaluate", "kept", str(shapes), "--workers", "0", "--draws", "0", *options]) == 0
    command = f"onestage evaluate kept {shapes} {' '.join(options)} --keep-thresholds"
    assert command in capsys.readouterr().out
    assert main([*command.split()[1:], "--workers", "0", "--draws", "0"]) == 0
    told = capsys.readouterr().out
    assert "kept in kept/best.safetensors: thresholds" in told and "the model holds a score for each class" in told
