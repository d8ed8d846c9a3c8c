"""An explanation says what the detector itself does: the same matches, the same loss, the same boxes."""

from dataclasses import replace

import pytest
import torch

from onestage import boxes as box_ops
from onestage import create
from onestage.explain import explain_sample, stand_ins
from onestage.model.anchors.max_iou import BACKGROUND, IGNORED, MaxIoUAssigner
from onestage.model.detector import Detector
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.losses.quality_focal import QualityFocalLoss
from onestage.structures import Targets
from small_runs import detector, pictures

LOSSES = {"multibox": MultiBoxLoss(), "focal": FocalLoss(), "quality": QualityFocalLoss()}


@pytest.fixture
def model() -> Detector:
    return detector().eval()


@pytest.fixture
def sample():
    return next(s for s in (pictures(12)[i] for i in range(12)) if len(s.boxes) == 2)


def with_parts(model: Detector, **parts: object) -> Detector:
    torch.manual_seed(1)
    return Detector(replace(model.config, **parts)).eval()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_parts_of_the_anchors_are_the_whole_loss(model, sample, loss):
    model = with_parts(model, loss=loss, assigner=MaxIoUAssigner(positive=0.5, negative=0.3))
    seen = explain_sample(model, sample)
    images, metas = model.prepare([sample.image])
    targets = [Targets(metas[0].apply(sample.boxes), sample.labels, sample.ignore)]
    with torch.no_grad():
        output = model(images)
    expected = model.loss(output, targets)
    divisor = loss.normalizer(model.assign(targets, output.input_size).matches).clamp(min=1.0)
    assert float(seen.class_loss.sum()) == pytest.approx(float(expected["cls"] * divisor), rel=1e-5)
    assert seen.losses == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-5)
    assert (seen.matches == IGNORED).any() and float(seen.class_loss[seen.matches == IGNORED].sum()) == 0
    assert sum(g.share for g in seen.groups) == pytest.approx(1.0)
    assert sum(g.anchors for g in seen.groups) == len(seen.anchors)
    assert sum(seen.share(level.rows) for level in seen.levels) == pytest.approx(1.0)
    assert seen.mined == isinstance(loss, MultiBoxLoss)


@pytest.mark.parametrize("loss", [MultiBoxLoss(), MultiBoxLoss(negative_ratio=5.0, min_negatives=7)], ids=["usual", "changed"])
def test_the_hard_negatives_are_those_that_the_loss_mines(model, sample, loss):
    model = with_parts(model, loss=loss)
    seen = explain_sample(model, sample)
    with torch.no_grad():
        output = model(model.prepare([sample.image])[0])
    _, mined = model.config.loss.hard_negatives(output.logits, seen.matches[None])
    assert sorted(seen.hard.nonzero().flatten().tolist()) == sorted(mined.tolist())
    easy = seen.groups[2]
    assert easy.anchors > 0 and easy.share == 0
    empty = replace(sample, boxes=sample.boxes[:0], labels=sample.labels[:0], ignore=sample.ignore[:0])
    assert int(explain_sample(model, empty).hard.sum()) == loss.min_negatives


def test_levels_cut_the_anchors_into_maps(model, sample):
    seen = explain_sample(model, sample)
    assert [level.size for level in seen.levels] == list(model.level_sizes((64, 64)))
    assert seen.levels[0].rows.start == 0 and seen.levels[-1].rows.stop == len(seen.anchors)
    assert sum(seen.matched(level) for level in seen.levels) == int((seen.matches >= 0).sum()) > 0
    for level in seen.levels:
        assert level.anchors == level.size[0] * level.size[1] * len(level.shapes)
        torch.testing.assert_close(float(seen.cell_loss(level).sum()), float(seen.class_loss[level.rows].sum()))
        extents = box_ops.to_cxcywh(seen.anchors[level.rows][: len(level.shapes)])[:, 2:]
        torch.testing.assert_close(extents, torch.tensor(level.shapes))


def test_objects_lie_in_the_input_with_what_learns_them(model, sample):
    large = replace(sample, boxes=sample.boxes * 2, image=sample.image.repeat_interleave(2, 1).repeat_interleave(2, 2))
    seen = explain_sample(model, large)
    torch.testing.assert_close(seen.targets.boxes, sample.boxes)
    assert seen.original == (128, 128) and tuple(seen.picture.shape) == (3, 64, 64)
    for number, row in enumerate(seen.objects()):
        iou = box_ops.iou(sample.boxes[number][None], seen.anchors)[0]
        assert row.number == number + 1 and row.name == model.config.classes[sample.labels[number]]
        assert row.anchors == int((seen.matches == number).sum()) > 0
        assert row.best_iou == pytest.approx(float(iou.max()), abs=1e-6)
    assert (seen.picture.float() - sample.image.float()).abs().mean() < 8


def test_after_nms_is_what_predict_finds_and_before_has_all(model, sample):
    seen = explain_sample(model, sample, score=0.25)
    found = model.predict(sample.image, score=0.25)[0]
    torch.testing.assert_close(seen.after.boxes, found.boxes)
    assert seen.after.class_names == found.class_names
    assert len(seen.before) > len(seen.after) > 0
    assert float(seen.before.scores.min()) > 0.25


def test_a_picture_without_objects_is_all_background(model):
    empty = next(s for s in (pictures(12)[i] for i in range(12)) if len(s.boxes) == 0)
    seen = explain_sample(model, empty)
    assert (seen.matches == BACKGROUND).all() and seen.objects() == []
    assert int(seen.hard.sum()) == model.config.loss.min_negatives


def test_ignored_objects_say_so(model, sample):
    seen = explain_sample(model, replace(sample, ignore=torch.tensor([True, False])))
    first, second = seen.objects()
    assert first.name.endswith("(ignored)") and first.anchors == 0 and second.anchors > 0


def test_stand_ins_are_the_detections(model, sample):
    guess = stand_ins(model, sample.image, path="x.jpg", score=0.25)
    found = model.predict(sample.image, score=0.25)[0]
    torch.testing.assert_close(guess.boxes, found.boxes)
    seen = explain_sample(model, guess, guessed=True)
    assert seen.guessed and seen.source == "x.jpg" and int(seen.positive.sum()) > 0


FAMILIES = {
    **{name: {} for name in ("retinanet_r18_fpn", "efficientdet_d0", "ssdlite320_mobilenet_v3_large")},
    "dssd": {"backbone": "resnet18"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_explained(sample, name):
    check_whole(explain_sample(detector(name, size=(128, 128), **FAMILIES[name]).eval(), sample))


def test_a_detector_from_tensorflow_is_explained(sample, shared_data):
    file = shared_data / "weights" / "coco_ssd_mobilenet_v1_quant_2018_06_29.tflite"
    seen = explain_sample(create("ssd300_mobilenet_v1", weights=file).eval(), sample)
    check_whole(seen)
    assert len(seen.anchors) == 1917 and len(seen.after) <= len(seen.before)


def check_whole(seen):
    assert seen.levels[-1].rows.stop == len(seen.anchors) == sum(group.anchors for group in seen.groups)
    assert sum(group.share for group in seen.groups) == pytest.approx(1.0)
    assert int(seen.positive.sum()) > 0
