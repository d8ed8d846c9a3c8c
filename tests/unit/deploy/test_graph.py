"""The graph that is exported, run by torch itself: NMS of fixed shape, and the detections of predict()."""

import functools

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import onestage
from lively import lively
from onestage import boxes as box_ops
from onestage.deploy.benchmark import pictures
from onestage.deploy.check import TOLERANCE, Agreement, compare
from onestage.deploy.graph import Graph, ending_of
from onestage.deploy.survivors import suppress_by_operator, suppress_by_rounds
from onestage.model.output.postprocess import RawDetections
from onestage.model.output.suppress import SoftNMS


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 60), st.sampled_from([0.1, 0.45, 0.9]))
def test_both_kinds_of_nms_keep_what_nms_keeps(seed, batch, number, count, threshold):
    generator = torch.Generator().manual_seed(seed)
    corner, extent = torch.rand(2, batch, count, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + extent + 0.1], dim=-1)
    scores = (torch.rand(batch, count, generator=generator) - 0.2).clamp(min=0).sort(dim=1, descending=True).values
    groups = torch.randint(0, number, (batch, count), generator=generator)
    expected = torch.zeros_like(scores)
    for image in range(batch):
        rows = scores[image].nonzero()[:, 0]
        kept = rows[box_ops.nms(boxes[image, rows], scores[image, rows], groups[image, rows], threshold)]
        expected[image, kept] = scores[image, kept]
    for suppress in (suppress_by_operator, suppress_by_rounds):
        assert suppress(boxes, scores, groups, number, threshold).equal(expected)


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.25, 0.45, 0.5, 0.6, 0.75]))
def test_boxes_that_overlap_exactly_as_much_as_nms_allows_stay(seed, threshold):
    """Small whole numbers: many IoUs equal the threshold, and torchvision's NMS computes them in another type."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 4, (1, 30, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 6, (1, 30, 2), generator=generator)], dim=-1)
    scores = torch.linspace(1, 0.1, 30)[None]
    expected = torch.zeros_like(scores)
    kept = torchvision.ops.nms(boxes[0].double(), scores[0].double(), threshold)
    expected[0, kept] = scores[0, kept]
    assert suppress_by_rounds(boxes, scores, torch.zeros(1, 30, dtype=torch.long), 1, threshold).equal(expected)


def test_a_long_row_of_boxes_is_thinned_as_nms_thins_it():
    """Every box removes the next one, so that the last decision depends on the first."""
    left = 3.4 * torch.arange(300)
    boxes = torch.stack([left, torch.zeros(300), left + 10, torch.full((300,), 10.0)], dim=1)[None]
    scores = torch.linspace(1, 0.1, 300)[None]
    groups = torch.zeros(1, 300, dtype=torch.long)
    assert (suppress_by_operator(boxes, scores, groups, 1, 0.45) > 0).sum() == 150
    assert suppress_by_rounds(boxes, scores, groups, 1, 0.45).equal(suppress_by_operator(boxes, scores, groups, 1, 0.45))


@functools.cache
def detector(scope):
    torch.manual_seed(1)
    model = lively(onestage.create(NAMES[scope], num_classes=4, size=(96, 128) if scope == "level" else (128, 128)))
    assert model.config.postprocess.scope == scope
    return model


NAMES = {"class": "tinyssd", "level": "retinanet_r18_fpn", "image": "efficientdet_lite0"}


@pytest.mark.parametrize(
    ("scope", "suppress"), [*((scope, suppress_by_operator) for scope in NAMES), ("class", suppress_by_rounds)]
)
def test_a_graph_finds_what_predict_finds(scope, suppress):
    model = detector(scope)
    graph = Graph(model, "detections", suppress).eval()
    images = pictures(3, (90, 120))
    inputs, metas = model.config.preprocess.batch(images)
    with torch.inference_mode():
        boxes, scores, labels, num = graph(inputs, torch.stack([meta.frame for meta in metas]))
    total = Agreement()
    for row, expected in enumerate(model.predict(images)):
        count = int(num[row])
        raw = RawDetections(boxes[row, :count], scores[row, :count], labels[row, :count])
        total += compare(expected, model.decoder.name(raw, metas[row]), TOLERANCE, places=model.config.postprocess.detections)
        assert (labels[row, count:] == -1).all() and (scores[row, count:] == 0).all() and (boxes[row, count:] == 0).all()
    assert total.compared > 20 and total.paired == total.compared


def test_suppression_without_an_operator_stays_outside():
    config = onestage.recipe("tinyssd", ("a",))
    assert ending_of(config) == "detections"
    assert ending_of(config.replace({"postprocess.nms": SoftNMS()})) == "candidates"
