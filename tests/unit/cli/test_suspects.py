"""``onestage evaluate --suspects``: doubted labels for a label tool, without a label overwritten."""

import json
from pathlib import Path

import pytest

from onestage.analysis import AnalysisSettings, analyse
from onestage.cli.judge import Judging, with_truths
from onestage.cli.main import main
from onestage.cli.suspects import check_suspects, save_suspects
from onestage.data import load_dataset, read_detections
from onestage.errors import ConfigError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def detections(shapes: Path) -> str:
    """The labels of the test pictures as detections, each with a second one far from all labels of its class."""
    (file,) = (shapes / "annotations").glob("*test*.json")
    rows = [{**one, "score": 0.9} for one in json.loads(file.read_text())["annotations"]]
    kept = [{key: row[key] for key in ("image_id", "category_id", "bbox", "score")} for row in rows]
    Path("results.json").write_text(json.dumps([*kept, {**kept[0], "bbox": [0, 0, 3, 3], "score": 0.97}]))
    return "results.json"


def test_suspects_are_written_once_and_never_over_others(shapes: Path, detections: str, capsys: Captured) -> None:
    before = {file: file.read_bytes() for file in shapes.rglob("*") if file.is_file()}
    arguments = ["evaluate", detections, str(shapes), "--out", "report", "--draws", "0", "--suspects", "coco"]
    assert main(arguments) == 0
    assert "labels to check: report/suspects.json (1 suspect)" in capsys.readouterr().out
    content = json.loads(Path("report/suspects.json").read_text())
    reasons = [row["reason"] for row in content["annotations"] if "reason" in row]
    assert len(content["images"]) == len(reasons) == 1 and reasons[0].startswith("overlooked: ")
    assert "overlooked: no label, detected as" in Path("report/index.html").read_text()
    corrected = Path("report/suspects.json")
    corrected.write_text("corrected by now")
    assert main(arguments) == 2
    assert "may be corrected by now" in capsys.readouterr().err and corrected.read_text() == "corrected by now"
    assert {file: file.read_bytes() for file in shapes.rglob("*") if file.is_file()} == before


def test_labelme_gets_a_folder_and_no_suspect_gets_nothing(shapes: Path, detections: str, capsys: Captured) -> None:
    dataset, out = load_dataset(shapes, split="test"), Path("report")
    pairs = with_truths(read_detections(detections, dataset), dataset)
    found, truths = [one for one, _ in pairs], [truth for _, truth in pairs]
    out.mkdir()
    for sure in (0.98, 0.95):
        settings = AnalysisSettings(draws=0, sure=sure)
        judging = Judging(suspects="labelme", all_pictures=True, sure=sure)
        save_suspects(analyse(found, truths, dataset.classes, settings=settings), pairs, dataset, out, judging)
    said = capsys.readouterr()
    assert "no label looks wrong; no detection has a score of 0.98: try a lower --sure" in said.err
    assert "open them: labelme " in said.out
    assert len([*(out / "suspects").rglob("*.json")]) == len(dataset)
    assert (out / "suspects").stat().st_mode == out.stat().st_mode
    with pytest.raises(ConfigError, match="may be corrected by now"):
        check_suspects(judging, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suspects", "coco"], "name one, such as --out report/"),
        (["--suspects", "coco", "--out", "report", "--no-analysis"], "leave --no-analysis out"),
        (["--all-pictures", "--out", "report"], "add --suspects coco or --suspects labelme"),
        (["--suspects", "yolo", "--out", "report"], "there is no such choice"),
        (["--sure", "1.5"], "--sure"),
    ],
)
def test_what_is_refused_before_anything_is_measured(
    options: list[str], message: str, shapes: Path, detections: str, capsys: Captured
) -> None:
    assert main(["evaluate", detections, str(shapes), *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("report").exists()
