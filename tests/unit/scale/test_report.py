"""What a batch has found, told and measured."""

import json
import shutil
from pathlib import Path

import pytest

from batches_of_pictures import batch
from onestage import evaluate, load
from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.predict.measure import evaluate_dataset
from onestage.predict.predictor import Predictor
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


def test_the_report_of_a_batch_that_is_not_finished(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "found")
    (tmp_path / "found" / "part-000002.parquet").unlink()
    assert main(["batch", "report", str(tmp_path / "found"), "--pictures", "0"]) == 0
    assert "not finished: 5 pictures in 1 shard are left" in capsys.readouterr().out


def test_a_batch_is_measured_as_its_model_is(model: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=4, val=4)
    assert batch(data, tmp_path / "found", model, "--score", "0.01", "--top", "300") == 0
    dataset = open_data(data, None).load("val")
    expected, _ = evaluate_dataset(Predictor.folded(load(model)), dataset, batch_size=1)
    found = evaluate(tmp_path / "found", data, split="val", on_bad="skip")
    assert pytest.approx(expected.coco.AP50, abs=1e-3) == found.coco.AP50
