"""Postprocess, which skips most of the work, against a slow one that does all of it."""

import math

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError, WeightsError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import DIoUNMS, HardNMS, LinearSoftNMS, SoftNMS
from onestage.structures import HeadOutput

SIZE = (90, 120)
LEVELS = (9 * 9 * 2, 4 * 4)
ANCHORS = anchor_boxes([AnchorLevel(((24.0, 24.0), (40.0, 20.0))), AnchorLevel(((60.0, 50.0),))], [(9, 9), (4, 4)], SIZE)


def outputs(images, classes, *, background, spread=1.0, seed=0, step=None):
    """Random logits; ``background``: how far that of the background lies above the others; ``step``: round them, for ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), classes + 1, generator=generator) * spread
    logits[:, :, 0] += background
    if step:
        logits = (logits / step).round() * step
    deltas = torch.randn(images, len(ANCHORS), 4, generator=generator)
    return HeadOutput(logits, deltas, ((9, 9), (4, 4)), SIZE)


HARD = HardNMS()


def run(rules, output, activation="softmax"):
    return rules(output, ANCHORS, BoxCoder(), activation=activation, levels=LEVELS)


def check(output, *, activation="softmax", nms=HARD, **rules):
    """Ours equals the slow one, which looks at all candidates at once, rank by rank. Returns how many each image has."""
    found = run(Postprocess(nms=nms, **rules), output, activation)
    settings = {"score_threshold": 0.01, "top_k": 400, "detections": 200, "nms": slow_nms(nms), "levels": LEVELS} | rules
    scores = output.logits.softmax(2)[:, :, 1:] if activation == "softmax" else output.logits.sigmoid()
    for image, ours in enumerate(found):
        rows = slow.detections(scores[image].tolist(), output.deltas[image].tolist(), ANCHORS.tolist(), SIZE, **settings)
        assert ours.labels.tolist() == [label for _, label, _, _ in rows]
        assert ours.scores.tolist() == pytest.approx([score for score, _, _, _ in rows], abs=1e-6)
        torch.testing.assert_close(ours.boxes, torch.tensor([box for *_, box in rows]).view(-1, 4), atol=1e-3, rtol=1e-4)
    return [len(ours.scores) for ours in found]


def slow_nms(nms):
    """The loops that do what this kind of NMS says."""
    match nms:
        case HardNMS(threshold):
            return lambda *candidates, least: slow.nms(*candidates, threshold)
        case DIoUNMS(threshold):
            return lambda *candidates, least: slow.nms(*candidates, threshold, overlap=slow.diou)
        case SoftNMS(sigma):
            return lambda *candidates, least: slow.soft_nms(*candidates, lambda iou: math.exp(-iou * iou / sigma), least)
        case LinearSoftNMS(threshold):
            return lambda *candidates, least: slow.soft_nms(*candidates, lambda iou: 1 - iou if iou > threshold else 1.0, least)


@pytest.mark.parametrize("classes", [1, 3, 90])
def test_outputs_like_a_trained_models(classes):
    counts = check(outputs(3, classes, background=6.5, spread=1.5))
    assert min(counts) > 0


@pytest.mark.parametrize("classes", [1, 3, 90])
def test_flat_outputs(classes):
    check(outputs(1, classes, background=0, spread=0.05), score_threshold=0.005, top_k=30)


def test_all_scores_count_where_the_threshold_is_zero():
    check(outputs(2, 3, background=3), score_threshold=0.0, top_k=50, detections=1000)


def test_equal_scores_keep_the_order_of_anchors_then_classes():
    counts = check(outputs(2, 5, background=4, spread=2, step=2.0), top_k=20, detections=60)
    assert min(counts) > 20
    check(outputs(1, 4, background=0, spread=0), score_threshold=0.1, top_k=30, detections=500)


def test_top_k_is_per_class_and_detections_per_image():
    counts = check(outputs(2, 4, background=1), top_k=7, detections=25)
    assert counts == [25, 25]
    check(outputs(2, 4, background=1), top_k=7, detections=1)


def test_images_of_a_batch_from_empty_to_full():
    output = outputs(4, 6, background=3, spread=2)
    output.logits[0, :, 0] += 100
    output.logits[2, :150, 0] += 100
    counts = check(output)
    assert counts[0] == 0
    assert 0 < counts[2] < counts[1]


def test_no_candidate_at_all():
    output = outputs(2, 3, background=100)
    found = run(Postprocess(), output)
    assert [tuple(f.boxes.shape) for f in found] == [(0, 4), (0, 4)]
    assert [f.labels.dtype for f in found] == [torch.int64] * 2


def test_it_goes_on_until_the_result_is_full():
    """Boxes that all lie on one another: the first helpings give one survivor each, the second place is far down."""
    output = outputs(1, 1, background=-5)
    output.deltas[:] = BoxCoder().encode(ANCHORS, torch.tensor([10.0, 10, 50, 50]))
    output.deltas[0, 7] = BoxCoder().encode(ANCHORS[7], torch.tensor([60.0, 60, 90, 90]))
    output.logits[0, 7] = torch.tensor([0.0, 0.0])
    assert check(output, detections=2, top_k=1000) == [2]


def test_sigmoid():
    output = outputs(2, 4, background=0)
    assert min(check(foreground(output, -2), activation="sigmoid", score_threshold=0.3)) > 0


def foreground(output, shift=0.0):
    """The outputs of a head with K sigmoids."""
    return HeadOutput(output.logits[:, :, 1:] + shift, output.deltas, output.level_sizes, SIZE)


@pytest.mark.parametrize("scope", ["class", "level", "image"])
@pytest.mark.parametrize("agnostic", [False, True], ids=["by class", "class-agnostic"])
def test_top_k_is_counted_for_each_scope(scope, agnostic):
    output = foreground(outputs(2, 4, background=0, spread=2), -1)
    rules = {"scope": scope, "class_agnostic": agnostic, "score_threshold": 0.05}
    counts = {k: check(output, activation="sigmoid", top_k=k, **rules) for k in (3, 40, 10_000)}
    assert counts[3] < counts[40] < counts[10_000]
    most = {"class": 4 * 3, "level": 2 * 3, "image": 3}[scope]
    assert max(counts[3]) <= most
    check(outputs(2, 3, background=2, spread=2, step=1.0), top_k=11, detections=30, **rules)


NMS = [HardNMS(0.3), DIoUNMS(0.2), SoftNMS(0.5), LinearSoftNMS(0.3)]


@pytest.mark.parametrize("nms", NMS, ids=lambda nms: type(nms).__name__)
@pytest.mark.parametrize("agnostic", [False, True], ids=["by class", "class-agnostic"])
def test_every_nms_stops_early_and_exactly(nms, agnostic):
    """A helping is four times the detections asked for: 8 of about 300 candidates, then 32, 128, ..."""
    output = foreground(outputs(2, 4, background=0, spread=2), -2)
    rules = {"score_threshold": 0.15, "top_k": 1000, "class_agnostic": agnostic}
    for detections in (2, 20, 1000):
        counts = check(output, activation="sigmoid", nms=nms, detections=detections, **rules)
    assert min(counts) > 20
    check(outputs(2, 3, background=2, spread=2, step=1.0), nms=nms, detections=25, top_k=50, class_agnostic=agnostic)


def test_detections_of_one_place_and_two_classes():
    """Two classes on the very same boxes: each suppresses by itself, or both together."""
    output = outputs(1, 2, background=4, spread=0.5)
    output.logits[:, :, 2] = output.logits[:, :, 1] - 0.1
    for nms in NMS:
        apart, together = (check(output, nms=nms, class_agnostic=agnostic, top_k=1000)[0] for agnostic in (False, True))
        assert together < apart


@pytest.mark.parametrize("step", [None, 1.0], ids=["distinct", "ties"])
def test_an_image_gets_the_same_in_any_company(step):
    output, rules = outputs(5, 4, background=3, spread=2, step=step), Postprocess(detections=40)
    output.logits[3, :, 0] += 100
    together = run(rules, output)
    for i in range(5):
        alone = HeadOutput(output.logits[i : i + 1], output.deltas[i : i + 1], output.level_sizes, SIZE)
        for ours, theirs in zip(run(rules, alone)[0], together[i], strict=True):
            assert torch.equal(ours, theirs)


def test_a_score_just_above_the_threshold_is_not_lost_to_rounding():
    """With one class the bound on the logits is exact: 1 / (1 + e^(b - f)) on either side of the threshold."""
    output = outputs(1, 1, background=0, spread=0)
    output.logits[0, :, 1] = torch.linspace(-1e-6, 1e-6, len(ANCHORS))
    scores = output.logits.softmax(2)[0, :, 1]
    rules = Postprocess(score_threshold=0.5, nms=HardNMS(1.0))
    assert len(run(rules, output)[0].scores) == (scores > 0.5).sum()


def test_bfloat16_outputs():
    output = outputs(1, 3, background=6, spread=2)
    low = HeadOutput(output.logits.bfloat16(), output.deltas.bfloat16(), output.level_sizes, SIZE)
    check(HeadOutput(low.logits.float(), low.deltas.float(), low.level_sizes, SIZE))
    (found,) = run(Postprocess(), low)
    (same,) = run(Postprocess(), HeadOutput(low.logits.float(), low.deltas.float(), (), SIZE))
    assert torch.equal(found.boxes, same.boxes)
    assert found.scores.dtype == torch.float32


@pytest.mark.parametrize(
    "rules",
    [{"score_threshold": 1.0}, {"score_threshold": -0.1}, {"top_k": 0}, {"detections": 0}],
)
def test_numbers_out_of_range_are_refused(rules):
    with pytest.raises(ConfigError):
        Postprocess(**rules)


def test_boxes_are_cut_to_the_picture_before_nms():
    """Two pictures, the second narrower than the input: it gives what it would in an input of its own size."""
    output = outputs(2, 3, background=1.0, spread=1.5)
    rules = Postprocess(nms=HARD, detections=1000)
    frames = torch.tensor([[0.0, 0, 120, 90], [0, 0, 70, 90]])
    found = rules(output, ANCHORS, BoxCoder(), activation="softmax", levels=LEVELS, frames=frames)
    for i, width in enumerate((120, 70)):
        alone = HeadOutput(output.logits[i : i + 1], output.deltas[i : i + 1], output.level_sizes, (90, width))
        (expected,) = run(rules, alone)
        assert all(torch.equal(a, b) for a, b in zip(found[i], expected, strict=True))
    assert found[1].boxes[:, 2].max() == 70
    assert len(found[1].boxes) != len(run(rules, output)[1].boxes)


def test_no_more_candidates_than_an_image_may_have(monkeypatch):
    """Boxes that all lie on one another never fill the result; yet what is beyond the top 40 of the image is not looked at."""
    looked = []

    def helping(self, count, work, original=Postprocess._survivors):
        looked.append(count)
        return original(self, count, work)

    monkeypatch.setattr(Postprocess, "_survivors", helping)
    output = outputs(1, 3, background=-2)
    output.deltas[:] = BoxCoder().encode(ANCHORS, torch.tensor([10.0, 10, 50, 50]))
    assert check(output, scope="image", top_k=40, detections=5) == [3]
    assert looked == [20, 40]


def test_boxes_beside_the_picture_take_nobodys_place():
    """Every anchor but the last looks far to the right, all of them surer than the one that sees something."""
    output = outputs(1, 2, background=-5.0, spread=0.1)
    output.deltas[0, :-1] = torch.tensor([1000.0, 0, 0, 0])
    output.deltas[0, -1] = 0
    output.logits[0, -1] = torch.tensor([0.0, 2, -9])
    (found,) = run(Postprocess(detections=20), output)
    assert len(found.scores) == 1
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_that_are_no_numbers_are_told(activation):
    output = outputs(2, 2, background=0.0)
    output.logits[1, 3, 1] = torch.nan
    with pytest.raises(WeightsError, match="not numbers"):
        run(Postprocess(), output, activation)


def test_offsets_that_are_no_numbers_leave_the_other_images_alone():
    output = outputs(2, 2, background=0.0)
    before = run(Postprocess(), output)[0]
    output.deltas[1, 3] = torch.nan
    for ours, theirs in zip(before, run(Postprocess(), output)[0], strict=True):
        assert torch.equal(ours, theirs)
