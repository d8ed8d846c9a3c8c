"""``onestage compare``: models and files of detections on the same pictures, and what the difference of their AP says."""

import json
from pathlib import Path

import pytest

from onestage.cli.main import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Path) -> None:
    """A folder with two files of detections: all objects of the test pictures, and each a little beside its place."""
    monkeypatch.chdir(tmp_path)
    (file,) = (shapes / "annotations").glob("*test*.json")
    labels = json.loads(file.read_text())["annotations"]
    right = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for one in labels]
    beside = [one | {"bbox": [one["bbox"][0] + one["bbox"][2] * 0.15, *one["bbox"][1:]]} for one in right]
    Path("right.json").write_text(json.dumps(right))
    Path("beside.json").write_text(json.dumps(beside))
    Path("same.json").write_text(json.dumps(right[::-1]))


def test_which_of_two_files_is_better(shapes: Path, capsys: Captured) -> None:
    assert main(["compare", "beside.json", "right.json", "same.json", "--data", str(shapes), "--draws", "50"]) == 0
    told = capsys.readouterr().out
    assert "shapes test: 4 pictures, 50 draws" in told
    assert "A  beside.json\nB  right.json\nC  same.json\n" in told
    assert "A and B: B is better" in told and "B and C: cannot be told apart" in told and "A is better" not in told
    assert "AP50" in told and "ball" in told


def test_a_run_and_a_file(shapes: Path, run: Path, capsys: Captured) -> None:
    arguments = [str(run), "right.json", "--data", str(shapes), "--split", "test", "--draws", "20", "--workers", "0"]
    assert main(["compare", *arguments]) == 0
    assert "A and B: B is better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["right.json"], "there is nothing to compare"),
        (["right.json", "right.json"], "there is nothing to compare"),
        (["right.json", "nowhere"], "there is no such model"),
        (["right.json", "same.json", "--batch-size", "4"], "leave --batch-size out"),
        (["right.json", "same.json", "--split", "train"], "no detection of this file can be used"),
        (["right.json", "same.json", "--draws", "1"], "draws"),
    ],
)
def test_what_compare_refuses(arguments: list[str], message: str, shapes: Path, capsys: Captured) -> None:
    assert main(["compare", *arguments, "--data", str(shapes)]) == 2
    assert message in capsys.readouterr().err
