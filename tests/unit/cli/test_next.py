"""What ``onestage evaluate`` says to do next, and what it knows of the run, the anchors and the data for that."""

import json
from pathlib import Path

import pytest

from metric_cases import found
from onestage.analysis import AnalysisSettings, analyse
from onestage.analysis.advice import Epoch, advise
from onestage.cli.advice import background, facts_of_run
from onestage.cli.main import main
from onestage.data import Dataset, load_dataset
from onestage.model.detector import Detector
from onestage.training.config import TrainConfig
from onestage.training.coverage import coverage_of
from onestage.training.folder import Plan
from onestage.training.rules import ANCHORS, Decision
from onestage.zoo.table import recipe
from small_runs import detector, pictures

Captured = pytest.CaptureFixture[str]


def test_the_sentences_come_before_the_figures(run: Path, shapes: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["evaluate", str(run), str(shapes), "--workers", "0"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("What to do next\n1. ") and str(shapes) in told.partition("VOC mAP")[0]

    (labels,) = (shapes / "annotations").glob("*test*.json")
    image_id = json.loads(labels.read_text())["images"][0]["id"]
    one = {"image_id": image_id, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}
    (tmp_path / "one.json").write_text(json.dumps([one]))
    assert main(["evaluate", str(tmp_path / "one.json"), str(shapes)]) == 0
    assert capsys.readouterr().out.startswith("What to do next\n1. hardly anything is found")


def test_an_analysis_that_is_interrupted_loses_no_figure(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (labels,) = (shapes / "annotations").glob("*test*.json")
    image_id = json.loads(labels.read_text())["images"][0]["id"]
    (tmp_path / "one.json").write_text(
        json.dumps([{"image_id": image_id, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}])
    )
    monkeypatch.setattr("onestage.analysis.analyse", interrupted)
    assert main(["evaluate", str(tmp_path / "one.json"), str(shapes), "--out", str(tmp_path / "report")]) == 130
    told = capsys.readouterr()
    assert "not analysed: it was interrupted" in told.err and "VOC mAP" in told.out
    assert (tmp_path / "report" / "metrics.json").exists()


def test_what_a_run_tells(tmp_path: Path) -> None:
    folder, data = tmp_path / "a run", Path("my data")
    assert facts_of_run(folder, data).history == () and facts_of_run(folder, data).data == "'my data'"
    folder.mkdir()
    decisions = (Decision(ANCHORS, "fitted", "", "--fit-anchors"),)
    Plan(recipe("tinyssd", ("ball",), size=(256, 320)), TrainConfig(), None, decisions=decisions).save(folder)
    (folder / "last.safetensors").write_bytes(b"")
    (folder / "metrics.csv").write_text("epoch,step,loss,val/loss,val/AP\n1,3,2.5,,\n2,6,2.0,2.25,0.5\n")
    for path in (folder, folder / "last.safetensors"):
        facts = facts_of_run(path, data)
        assert (
            facts.fitted and facts.resized and facts.run == f"'{folder}'" and facts.model == f"'{folder / 'last.safetensors'}'"
        )
        assert facts.history[1] == Epoch(2, 2.0, 2.25, 0.5)
        assert facts.history[0].loss == 2.5 and facts.history[0].AP != facts.history[0].AP
    (folder / "metrics.csv").write_text("epoch,loss\nnone,\n")
    assert facts_of_run(folder, data).history == ()


def test_what_the_anchors_reach(tmp_path: Path) -> None:
    data, model = pictures(6), detector()
    known = background(model, tmp_path / "x.safetensors", Path("data"), data)
    assert known.overlaps is not None and known.overlaps.keys() == {*data.image_ids}
    hits = sum(int((one.iou.max(1) >= 0.5).sum()) for one in known.overlaps.values())
    assert hits == coverage_of(model, data).total.reached and known.facts.larger == coverage_of(model, data).larger


def without_detections(model: Detector, data: Dataset) -> tuple[str, ...]:
    """What is said if a model finds nothing."""
    known = background(model, Path("runs/x"), Path("bccd"), data)
    truths = [data.truth(i) for i in range(len(data))]
    nothing = [found(image_id) for image_id in data.image_ids]
    analysis = analyse(nothing, truths, data.classes, settings=AnalysisSettings(draws=0), overlaps=known.overlaps)
    return advise(analysis, known.facts)


@pytest.mark.slow
def test_platelets_are_too_small_for_the_anchors_of_ssdlite(shared_data: Path) -> None:
    data = load_dataset(shared_data / "bccd", split="test", on_bad="skip")
    model = Detector.on("meta", recipe("ssdlite320_mobilenet_v3_large", data.classes))
    first = without_detections(model, data)[0]
    assert first.startswith("Platelets: ") and "no anchor is small enough" in first
    assert "a model with a finer map such as --model ssd300_vgg16" in first and first.endswith("--fit-anchors")
