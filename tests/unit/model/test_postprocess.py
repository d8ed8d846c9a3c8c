"""Postprocess, which skips most of the work, against a slow one that does all of it."""

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors import AnchorLevel, anchor_boxes
from onestage.model.coder import BoxCoder
from onestage.model.postprocess import Postprocess
from onestage.structures import HeadOutput

SIZE = (90, 120)
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


def check(output, **rules):
    """Ours equals the slow one, rank by rank. Returns how many there are in each image."""
    found = Postprocess(**rules)(output, ANCHORS, BoxCoder())
    settings = {"score_threshold": 0.01, "iou_threshold": 0.45, "top_k": 400, "detections": 200} | rules
    softmax = settings.pop("activation", "softmax") == "softmax"
    scores = output.logits.softmax(2)[:, :, 1:] if softmax else output.logits.sigmoid()
    for image, ours in enumerate(found):
        rows = slow.detections(scores[image].tolist(), output.deltas[image].tolist(), ANCHORS.tolist(), SIZE, **settings)
        assert ours.labels.tolist() == [label for _, label, _, _ in rows]
        assert ours.scores.tolist() == pytest.approx([score for score, _, _, _ in rows], abs=1e-6)
        torch.testing.assert_close(ours.boxes, torch.tensor([box for *_, box in rows]).view(-1, 4), atol=1e-3, rtol=1e-4)
    return [len(ours.scores) for ours in found]


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
    found = Postprocess()(output, ANCHORS, BoxCoder())
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
    only = HeadOutput(output.logits[:, :, 1:] - 2, output.deltas, output.level_sizes, SIZE)
    assert min(check(only, activation="sigmoid", score_threshold=0.3)) > 0


@pytest.mark.parametrize("step", [None, 1.0], ids=["distinct", "ties"])
def test_an_image_gets_the_same_in_any_company(step):
    output, rules = outputs(5, 4, background=3, spread=2, step=step), Postprocess(detections=40)
    output.logits[3, :, 0] += 100
    together = rules(output, ANCHORS, BoxCoder())
    for i in range(5):
        alone = HeadOutput(output.logits[i : i + 1], output.deltas[i : i + 1], output.level_sizes, SIZE)
        for ours, theirs in zip(rules(alone, ANCHORS, BoxCoder())[0], together[i], strict=True):
            assert torch.equal(ours, theirs)


def test_a_score_just_above_the_threshold_is_not_lost_to_rounding():
    """With one class the bound on the logits is exact: 1 / (1 + e^(b - f)) on either side of the threshold."""
    output = outputs(1, 1, background=0, spread=0)
    output.logits[0, :, 1] = torch.linspace(-1e-6, 1e-6, len(ANCHORS))
    scores = output.logits.softmax(2)[0, :, 1]
    rules = Postprocess(score_threshold=0.5, iou_threshold=1.0)
    assert len(rules(output, ANCHORS, BoxCoder())[0].scores) == (scores > 0.5).sum()


def test_bfloat16_outputs():
    output = outputs(1, 3, background=6, spread=2)
    low = HeadOutput(output.logits.bfloat16(), output.deltas.bfloat16(), output.level_sizes, SIZE)
    check(HeadOutput(low.logits.float(), low.deltas.float(), low.level_sizes, SIZE))
    (found,) = Postprocess()(low, ANCHORS, BoxCoder())
    (same,) = Postprocess()(HeadOutput(low.logits.float(), low.deltas.float(), (), SIZE), ANCHORS, BoxCoder())
    assert torch.equal(found.boxes, same.boxes)
    assert found.scores.dtype == torch.float32


@pytest.mark.parametrize(
    "rules",
    [{"score_threshold": 1.0}, {"score_threshold": -0.1}, {"iou_threshold": 1.1}, {"top_k": 0}, {"detections": 0}],
)
def test_numbers_out_of_range_are_refused(rules):
    with pytest.raises(ConfigError):
        Postprocess(**rules)
