"""What a batch has found, told and measured."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.dataset
import pytest
from PIL import Image
from pyarrow.parquet import read_table

from batches_of_pictures import batch
from onestage import evaluate, load
from onestage.cli.main import main
from onestage.data.detections_batch import read_batch
from onestage.data.reader import open_data
from onestage.predict.measure import evaluate_dataset
from onestage.predict.predictor import Predictor
from onestage.scale.report_page import contact_sheet
from small_runs import write_pictures
from web_pages import Structure


def test_the_report_of_a_batch(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "report", str(whole), "--out", str(tmp_path / "report"), "--pictures", "5"]) == 0
    figures = json.loads((tmp_path / "report" / "batch.json").read_text())
    assert (figures["pictures"], figures["parts"]) == (23, 5) and sum(figures["objects"].values()) == 21 * 4
    assert figures["failures"] == {"broken": 1, "empty": 1}
    assert sum(map(sum, figures["scores"].values())) == 21 * 4
    page = (tmp_path / "report" / "index.html").read_text()
    assert Structure(page).faults == [] and page.count("<figure>") == 5 and "b/0017.jpg" in page
    assert "2 pictures could not be read (8.7 %)" in capsys.readouterr().out


def test_the_report_of_a_batch_without_objects(pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    """It names what was looked for; a second report without pictures leaves none of the first one."""
    out = tmp_path / "found"
    assert batch(pictures, out, model, "--score", "0.999", "--classes", "star", "cube") == 1
    assert "nothing reached a score of 0.999: try --score 0.2, in another folder\n" in capsys.readouterr().err
    for wanted, figures in (("3", 3), ("0", 0)):
        assert main(["batch", "report", str(out), "--pictures", wanted]) == 0
        assert "23 pictures: no object.\nNever found: star, cube.\n" in capsys.readouterr().out
        page = (out / "_report" / "index.html").read_text()
        assert Structure(page).faults == [] and page.count("<figure>") == figures and "Scores" not in page
        assert (out / "_report" / "contact-sheet.jpg").exists() == bool(figures)
        assert "can be read now" not in page


def test_classes_that_were_never_found_are_told(whole: Path, tmp_path: Path, capsys) -> None:
    """By the report, and by who measures the detections."""
    found = {name for row in read_table(whole).to_pylist() for name in row["names"]}
    never = [name for name in ("ball", "cube", "star") if name not in found]
    assert main(["batch", "report", str(whole), "--out", str(tmp_path / "report"), "--pictures", "0"]) == 0
    assert ("Never found: " in capsys.readouterr().out) == bool(never)
    notes = [note.what for note in read_batch(whole).notes]
    assert any("no object of" in note for note in notes) == bool(never)


def test_a_contact_sheet_is_as_high_as_its_rows() -> None:
    """A tall picture does not make all rows tall."""
    pictures = [Image.new("RGB", (320, 200), (200, 0, 0)) for _ in range(7)]
    pictures[6] = Image.new("RGB", (100, 320), (0, 0, 200))
    sheet = Image.open(io.BytesIO(contact_sheet(pictures)))
    assert sheet.size == (6 * 328 + 8, 200 + 320 + 3 * 8)
    assert sheet.getpixel((8 + 160, 8 + 100))[0] > 150 and sheet.getpixel((8 + 160, 216 + 160))[2] > 150


def test_the_report_of_a_batch_that_is_not_finished(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "found")
    (tmp_path / "found" / "part-000002.parquet").unlink()
    assert main(["batch", "report", str(tmp_path / "found"), "--pictures", "0"]) == 0
    assert "not finished: 5 pictures in 1 shard are left" in capsys.readouterr().out


COUNTS: dict[str, Callable[[Any], dict[str | None, int]]] = {
    "duckdb": lambda relation: dict(relation.fetchall()),
    "polars": lambda frame: dict(frame.rows()),
    "pandas": lambda series: series.to_dict(),
}


def line_of_the_docs(package: str) -> str:
    text = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text()
    block = text.partition("### The results in other programs\n\n```python\n")[2].partition("```")[0]
    (line,) = [line for line in block.splitlines() if line.startswith(f"{package}.")]
    return line


@pytest.mark.parametrize("package", COUNTS)
def test_the_lines_of_the_docs_for_other_programs(package: str, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run as they stand there, in the folder above the results."""
    names = {package: pytest.importorskip(package)}
    monkeypatch.chdir(whole.parent)
    found = COUNTS[package](eval(line_of_the_docs(package), names))
    expected = Counter(name for row in read_table(whole).to_pylist() for name in row["names"])
    assert {name: count for name, count in found.items() if name is not None} == expected


def test_the_line_of_the_docs_for_pyarrow(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.parent)
    assert eval(line_of_the_docs("pyarrow"), {"pyarrow": pyarrow}) == 2


def test_a_batch_is_measured_as_its_model_is(model: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=4)
    assert batch(data, tmp_path / "found", model, "--score", "0.01", "--top", "300") == 0
    dataset = open_data(data, None).load("val")
    expected, _ = evaluate_dataset(Predictor.folded(load(model)), dataset, batch_size=1)
    found = evaluate(tmp_path / "found", data, split="val", on_bad="skip")
    assert pytest.approx(expected.coco.AP50, abs=1e-3) == found.coco.AP50
