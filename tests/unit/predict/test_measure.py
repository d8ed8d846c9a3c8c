"""A detector measured on a data set: every picture once, by the model's own classes, whoever does the work."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import onestage
from onestage.creation import create
from onestage.data import load_dataset
from onestage.errors import ConfigError, DataError
from onestage.evaluation import evaluate
from onestage.metrics.report import Report
from onestage.model.decoder import Decoder
from onestage.model.output.postprocess import RawDetections
from onestage.model.output.scores import Scores
from onestage.predict.measure import evaluate_dataset
from onestage.predict.predictor import Predictor
from onestage.processes import Distributed, init
from onestage.structures import Detections, Targets
from onestage.training.loop import train
from small_runs import CONFIG, PICTURES, detector, pictures, together, write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), train=5, val=7)


def figures(report: Report) -> dict[str, Any]:
    """All of them, comparable: NaN is None."""
    return report.to_dict()


def test_what_is_measured_is_what_predict_finds(data: Path) -> None:
    model, dataset = detector(), load_dataset(data, split="val")
    report, found = evaluate_dataset(model, dataset, batch_size=3, workers=0)
    predicted = model.predict(list(dataset.paths), batch_size=3)
    assert [d.image_id for d in found] == list(dataset.image_ids)
    assert sum(len(d) for d in found) > 0
    for ours, theirs in zip(found, predicted, strict=True):
        assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-3) and ours.labels.equal(theirs.labels)
        assert ours.category_ids == theirs.category_ids and ours.path == theirs.path
    assert report.coco.pictures == 7 and report.coco.objects == len(dataset.boxes)
    assert (report.model, report.data) == ("tinyssd", f"{data.name} val")


def test_the_validation_loss_is_that_of_one_large_batch() -> None:
    model, dataset = detector().eval(), pictures(7)
    samples = [dataset[i] for i in range(7)]
    images, metas = model.prepare([s.image for s in samples])
    losses = model.loss(model(images), [Targets(m.apply(s.boxes), s.labels) for s, m in zip(samples, metas, strict=True)])
    for size in (1, 3, 7):
        measured = evaluate(model, dataset, batch_size=size, workers=0).losses
        assert measured["cls"] == pytest.approx(losses["cls"].item(), rel=1e-5)
        assert measured["box"] == pytest.approx(losses["box"].item(), rel=1e-5)
        assert measured["total"] == measured["cls"] + measured["box"]


def test_a_perfect_detector_gets_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = detector(), pictures(6)

    def truth(self: Decoder, output: Any, metas: Any, **_: Any) -> list[Detections]:
        found = []
        for meta in metas:
            t = dataset.truth(dataset.image_ids.index(meta.image_id))
            names = tuple(dataset.classes[k] for k in t.labels)
            ids = tuple(dataset.category_ids[k] for k in t.labels)
            found.append(Detections(t.boxes, torch.ones(len(t.labels)), t.labels, names, ids, meta.original, meta.image_id))
        return found

    monkeypatch.setattr(Decoder, "decode", truth)
    report = evaluate(model, dataset, workers=0)
    assert report.voc07.mAP == report.voc10.mAP == 1 == pytest.approx(report.coco.AP)


def test_book_figures_count_every_anchor() -> None:
    model = detector()
    report = evaluate(model, pictures(3), batch_size=2, workers=0)
    assert report.book is not None
    assert report.book.anchors == 3 * len(model.anchors((64, 64)))
    assert 0 < report.book.class_error < 1 and report.book.box_mae > 0


def test_the_test_split_goes_first(data: Path, tmp_path: Path) -> None:
    model = detector()
    assert evaluate(model, data, workers=0).coco.pictures == 7  # no test split: val
    assert evaluate(model, data, split="train", workers=0).coco.pictures == 5
    assert evaluate(model, write_pictures(tmp_path, train=4, val=0), workers=0).coco.pictures == 4
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate(model, data, split="test", workers=0)


def test_other_classes_are_a_clear_error(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"not the model's\n.*\n  got:      ball, cube, star\n  expected: star, cube, ball"):
        evaluate(create("tinyssd", classes=["star", "cube", "ball"], size=(64, 64)), pictures(2), workers=0)
    with pytest.raises(DataError, match="classes that the model does not have: ball, cube"):
        evaluate(create("tinyssd", classes=["cat", "star"], size=(64, 64)), data, workers=0)
    strange = create("tinyssd", classes=["cat", "dog"], size=(64, 64))
    for on_bad in ("stop", "skip"):
        with pytest.raises(ConfigError, match=r"differ in their classes\n.*\n  got:      3 in .*star\n.* 2: cat, dog\n") as e:
            evaluate(strange, data, workers=0, on_bad=on_bad)
        assert "skip" not in str(e.value)


def test_labels_follow_the_models_order_of_classes(data: Path) -> None:
    model = create("tinyssd", classes=["star", "cube", "ball"], size=(64, 64))
    report = evaluate(model, data, split="val", workers=0)
    counts = {row.name: row.objects for row in report.coco.per_class}
    dataset = load_dataset(data, split="val")
    expected = {name: int((dataset.labels == k).sum()) for k, name in enumerate(dataset.classes)}
    assert counts == expected and len(set(expected.values())) > 1


def test_an_engine_with_nms_inside_is_measured_without_what_needs_the_networks_output() -> None:
    model, dataset = detector().eval(), pictures(5)
    whole = Predictor.of(model)
    config = model.config

    class Engine:
        """The network and its NMS in one: it gives boxes, as an exported file does."""

        device = torch.device("cpu")

        def __call__(self, images: torch.Tensor, frames: torch.Tensor) -> list[RawDetections]:
            output = whole.engine(images, frames)
            anchors, counts = model.anchors(output.input_size), model.level_counts(output.input_size)
            activation = config.loss.activation
            return config.postprocess(output, anchors, config.coder, activation=activation, levels=counts, frames=frames)

    measured, found = evaluate_dataset(Predictor(Engine(), model.decoder), dataset, batch_size=2, workers=0)
    expected, same = evaluate_dataset(detector(), dataset, batch_size=2, workers=0)
    assert measured.to_dict()["coco"] == expected.to_dict()["coco"] and measured.coco.AP > 0
    assert [d.scores.tolist() for d in found] == [d.scores.tolist() for d in same] and any(len(d) for d in found)
    assert measured.losses is None and measured.book is None
    assert expected.losses is not None and expected.book is not None


def test_unreadable_pictures_stop_or_are_left_out(tmp_path: Path) -> None:
    data = write_pictures(tmp_path, train=1, val=5)
    (data / "val" / "001002.jpg").write_bytes((data / "val" / "001002.jpg").read_bytes()[:700])
    with pytest.raises(DataError, match=r"001002\.jpg"):
        evaluate(detector(), data, workers=0)
    dataset = load_dataset(data, split="val", on_bad="skip")
    report, found = evaluate_dataset(detector(), dataset, batch_size=2, workers=0, on_bad="skip")
    assert [d.image_id for d in found] == [1000, 1001, 1003, 1004] and report.coco.pictures == 4


def test_modes_are_as_they_were_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector().train()
    model.neck = None
    frozen = model.backbone.eval()
    evaluate(model, pictures(2), workers=0)
    assert model.training and model.head.training and not any(m.training for m in frozen.modules())
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stop"):
        patch.setattr(Decoder, "decode", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("stop")))
        evaluate(model, pictures(2), workers=0)
    assert model.training and model.head.training and not any(m.training for m in frozen.modules())


def test_a_measured_model_still_trains(tmp_path: Path) -> None:
    """What is cached while measuring (anchors) was not made in inference mode."""
    model = detector()
    evaluate(model, pictures(2), workers=0)
    train(model, pictures(5), out=tmp_path / "run", config=replace(CONFIG, epochs=1))
    assert onestage.evaluate(model, pictures(2), workers=0).coco.pictures == 2


def test_progress_tells_every_picture() -> None:
    seen: list[int] = []
    evaluate(detector(), pictures(7), batch_size=3, workers=0, advance=seen.append)
    assert seen == [3, 3, 1]


def test_pictures_without_objects_have_no_ap_and_a_loss() -> None:
    empty = pictures(40).subset([i for i in range(40) if not len(pictures(40).truth(i).boxes)])
    assert len(empty) == 4
    report = evaluate(detector(), empty, workers=0)
    assert math.isnan(report.coco.AP) and report.losses["cls"] > 0 and report.losses["box"] == 0


def measured(data: Path, count: int, group: Distributed) -> dict[str, Any]:
    """The figures, losses and detections of the first pictures, as plain data: every bit of them."""
    dataset = load_dataset(data, split="val").subset(range(count))
    report, found = evaluate_dataset(detector(), dataset, batch_size=2, workers=0, distributed=group)
    plain = [[d.image_id, d.boxes.tolist(), d.scores.tolist(), d.labels.tolist()] for d in found]
    result: dict[str, Any] = json.loads(json.dumps({"figures": figures(report), "found": plain}))
    return result


def measure_in_group(data: Path, out: Path) -> None:
    with init("cpu") as group:
        for count in (7, 1):
            (out / f"{count}-{group.rank}.json").write_text(json.dumps(measured(data, count, group)))


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_measure_what_one_does_to_the_bit(world: int, data: Path, tmp_path: Path) -> None:
    """7 pictures in batches of 2, of which each process takes whole ones; and 1, where all but the first have nothing to do."""
    with together(measure_in_group, data, tmp_path, log=tmp_path / "log", world=world):
        pass
    alone = Distributed(0, 1, 0, torch.device("cpu"))
    for count in (7, 1):
        expected = measured(data, count, alone)
        assert len(expected["found"]) == count and any(row[1] for row in expected["found"])
        for rank in range(world):
            assert json.loads((tmp_path / f"{count}-{rank}.json").read_text()) == expected


def test_the_classes_are_those_of_the_pictures() -> None:
    assert detector().config.classes == PICTURES.classes == pictures(1).classes


def test_a_measurement_calibrates_scores_and_applies_no_thresholds(data: Path) -> None:
    model, dataset = detector().eval(), load_dataset(data, split="val")
    plain, before = evaluate_dataset(model, dataset, batch_size=4, workers=0)
    model.scores = Scores(thresholds=(1.0, 1.0, 1.0), temperatures=(2.0, 2.0, 2.0))
    report, after = evaluate_dataset(model, dataset, batch_size=4, workers=0)
    assert abs(report.coco.AP - plain.coco.AP) < 1e-6 and report.losses == plain.losses
    assert any(len(one) for one in before)
    for one, changed in zip(before, after, strict=True):
        assert changed.scores.equal(model.scores.calibrated(one).scores) and len(changed) == len(one)
