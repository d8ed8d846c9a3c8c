"""``onestage compare``: models and files of detections on the same pictures, and what the difference of their AP says."""

import json
from pathlib import Path
from typing import Any

import pytest

from onestage import create
from onestage.analysis.compare import Comparison
from onestage.cli.compare import short_names
from onestage.cli.main import main
from onestage.errors import ConfigError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Path) -> list[dict[str, Any]]:
    """The objects of the training pictures, in a folder with files of detections: all of them, and each a little beside its
    place. There are 8 pictures, enough to tell detectors apart.
    """
    monkeypatch.chdir(tmp_path)
    (file,) = (shapes / "annotations").glob("*train*.json")
    labels = json.loads(file.read_text())["annotations"]
    right = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for one in labels]
    beside = [one | {"bbox": [one["bbox"][0] + one["bbox"][2] * 0.15, *one["bbox"][1:]]} for one in right]
    Path("right.json").write_text(json.dumps(right))
    Path("beside.json").write_text(json.dumps(beside))
    Path("same.json").write_text(json.dumps(right[::-1]))
    return right


def test_which_of_three_files_is_better(shapes: Path, capsys: Captured) -> None:
    assert main(["compare", "beside.json", "right.json", "same.json", "--data", str(shapes), "--draws", "30"]) == 0
    told = capsys.readouterr().out
    assert "shapes train: 8 pictures, 30 draws" in told
    assert "A  beside.json\nB  right.json\nC  same.json\n" in told
    assert "A and B: B is better" in told and "A and C: C is better" in told and "A is better" not in told
    assert "AP50" in told and "ball" in told


def test_a_run_and_a_file_and_their_page(shapes: Path, run: Path, capsys: Captured) -> None:
    arguments = [str(run), "right.json", "--data", str(shapes), "--split", "train", "--draws", "10", "--workers", "0"]
    assert main(["compare", *arguments, "-o", "page"]) == 0
    told = capsys.readouterr().out
    assert "A and B: B is better" in told and f"page: {Path('page', 'index.html')}" in told
    page = Path("page", "index.html").read_text(encoding="utf-8")
    assert "<h1>x and right.json on shapes train</h1>" in page and "right.json is better than x: AP 1.000 against" in page
    assert page.count("data:image/jpeg") == 12 and f"x is {run}" in page and "onestage evaluate" in page
    comparison = Comparison.from_json(Path("page", "compare.json").read_text(encoding="utf-8"))
    assert [system.name for system in comparison.systems] == ["x", "right.json"]
    assert len(Path("page", "compare.csv").read_text(encoding="utf-8").splitlines()) == 9


def test_classes_in_another_order_are_the_same_classes(shapes: Path, run: Path, tmp_path: Path, capsys: Captured) -> None:
    """A copy of the model that names its classes the other way round takes each for the other one, so it has another AP."""
    (tmp_path / "other").mkdir()
    model = create("tinyssd", classes=("ring", "ball"), size=(64, 64))
    model.save(tmp_path / "other" / "best.safetensors")
    options = ["--data", str(shapes), "--draws", "10", "--workers", "0"]
    assert main(["compare", "other", str(run), *options]) == 0
    assert main(["compare", str(run), "other", *options]) == 0
    first, second = (block.splitlines() for block in capsys.readouterr().out.split("shapes test:")[1:])
    rows = [next(line.split()[1:3] for line in lines if line.startswith("ring")) for lines in (first, second)]
    assert rows[0] == rows[1][::-1]


def test_a_file_of_fewer_pictures_is_told(labels: list[dict[str, Any]], shapes: Path, capsys: Captured) -> None:
    some = [one for one in labels if one["image_id"] != labels[0]["image_id"]]
    Path("fewer.json").write_text(json.dumps(some))
    for _ in range(2):  # the second time it replaces what it wrote
        assert main(["compare", "right.json", "fewer.json", "--data", str(shapes), "--draws", "10", "--out", "page"]) == 0
    told = capsys.readouterr().err
    assert "fewer.json: 1 picture of 8 without detections" in told and "if a detector never saw it" in told
    assert "fewer.json: 1 picture of 8 without detections" in Path("page", "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["right.json"], "there is nothing to compare"),
        (["right.json", "./right.json"], "there is nothing to compare"),
        (["right.json", "nowhere"], "there is no such model"),
        (["right.json", "same.json", "--batch-size", "4"], "leave --batch-size out"),
        (["right.json", "same.json", "--split", "test"], "no detection of this file can be used"),
        (["right.json", "same.json", "--draws", "1"], "draws"),
        (["right.json", "same.json", "--out", "taken"], "files are in the way that onestage did not write"),
    ],
)
def test_what_compare_refuses(arguments: list[str], message: str, shapes: Path, capsys: Captured) -> None:
    Path("taken").mkdir()
    Path("taken", "compare.csv").write_text("mine")
    assert main(["compare", *arguments, "--data", str(shapes)]) == 2
    assert message in capsys.readouterr().err


def test_results_stay_out_of_the_data_set(shapes: Path, capsys: Captured) -> None:
    assert main(["compare", "right.json", "same.json", "--data", str(shapes), "--out", str(shapes)]) == 2
    assert "among the pictures of a data set" in capsys.readouterr().err


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    for name in ("a/first/best.safetensors", "a/second/best.safetensors", "b/first/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert short_names(["a/first", "a/second", "ssd300_vgg16.coco"]) == ["first", "second", "ssd300_vgg16.coco"]
    assert short_names(["a/first", "b/first"]) == ["a/first", "b/first"]
    assert short_names(["a/first/best.safetensors", "a/second"]) == ["first/best.safetensors", "second"]
    with pytest.raises(ConfigError, match="nothing to compare"):
        short_names(["a/first", "b/../a/first/"])
