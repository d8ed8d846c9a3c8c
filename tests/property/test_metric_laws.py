"""Laws of average precision, and VOC's AP against a slow reference written from the development kit's description."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_cases import found, known
from onestage.metrics.coco import coco_metrics
from onestage.metrics.voc import voc_metrics
from onestage.structures import Detections, Truth

CLASSES = ["a", "b", "c"]
Case = tuple[list[Detections], list[Truth]]

boxes = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(4, 40), st.integers(4, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
objects = st.tuples(st.integers(0, 2), boxes).map(lambda row: (row[0], *row[1]))
guesses = st.tuples(st.integers(0, 2), st.integers(1, 9), boxes).map(lambda row: (row[0], row[1] / 10, *row[2]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A few small pictures full of overlaps, with difficult objects and equal scores."""
    detections, truths = [], []
    for image_id in range(draw(st.integers(1, 4))):
        rows = draw(st.lists(objects, max_size=5))
        ignore = [i for i in range(len(rows)) if draw(st.booleans()) and draw(st.booleans())]
        truths.append(known(image_id, rows, ignore=ignore))
        scores = draw(st.lists(st.integers(1, 9), max_size=5))
        near = [(k, score / 10, *b) for (k, *b), score in zip(rows, scores, strict=False)]
        detections.append(found(image_id, near + draw(st.lists(guesses, max_size=5))))
    return detections, truths


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def slow_voc_ap(detections: list[Detections], truths: list[Truth], label: int, style: str) -> float:
    """One detection after the other, as VOCevaldet.m goes: best object, difficult, taken."""
    objects = {
        t.image_id: [(b, bool(i)) for b, k, i in zip(t.boxes.tolist(), t.labels.tolist(), t.ignore, strict=True) if k == label]
        for t in truths
    }
    total = sum(not difficult for rows in objects.values() for _, difficult in rows)
    queue = [
        (score, d.image_id, box)
        for d in detections
        for box, score, k in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)
        if k == label
    ]
    right = wrong = 0
    taken, curve = set(), []
    for _, image_id, box in sorted(queue, key=lambda row: -row[0]):
        best, best_index = 0.0, -1
        for index, (other, _) in enumerate(objects[image_id]):
            if slow_iou(box, other) > best:
                best, best_index = slow_iou(box, other), index
        if best >= 0.5 and objects[image_id][best_index][1]:
            continue
        if best >= 0.5 and (image_id, best_index) not in taken:
            taken.add((image_id, best_index))
            right += 1
        else:
            wrong += 1
        curve.append((right / total if total else math.nan, right / (right + wrong)))
    if not total:
        return math.nan
    if style == "2007":
        return sum(max((p for r, p in curve if r >= k * 0.1), default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[index:])
        before = recall
    return area


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(["2007", "2010"]))
def test_voc_ap_equals_the_slow_reference(case: Case, style: Any) -> None:
    metrics = voc_metrics(*case, CLASSES, style=style)
    for label, row in enumerate(metrics.per_class):
        assert pytest.approx(slow_voc_ap(*case, label, style), abs=1e-12, nan_ok=True) == row.AP


def figures(case: Case) -> list[float]:
    """Every figure of the case, COCO's and both of VOC."""
    voc = [voc_metrics(*case, CLASSES, style=style).mAP for style in ("2007", "2010")]
    return [*coco_metrics(*case, CLASSES).figures.values(), *voc]


@settings(max_examples=25, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_matter(case: Case, shuffler: random.Random) -> None:
    detections, truths = list(case[0]), list(case[1])
    shuffler.shuffle(detections)
    shuffler.shuffle(truths)
    np.testing.assert_array_equal(figures((detections, truths)), figures(case))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(objects, max_size=5, unique_by=lambda row: row[:3]), min_size=1, max_size=4))
def test_perfect_detections_give_one_and_no_detections_zero(pictures: list[list[tuple[int, ...]]]) -> None:
    truths = [known(i, rows) for i, rows in enumerate(pictures)]
    perfect = [found(i, [(k, 0.9, *b) for k, *b in rows]) for i, rows in enumerate(pictures)]
    metrics = coco_metrics(perfect, truths, CLASSES)
    nothing = coco_metrics([found(t.image_id) for t in truths], truths, CLASSES)
    voc = [voc_metrics(perfect, truths, CLASSES, style=style).mAP for style in ("2007", "2010")]
    there = {k for rows in pictures for k, *_ in rows}
    by_class = [row.AP for row in metrics.per_class]
    assert by_class == pytest.approx([1 if k in there else math.nan for k in range(3)], nan_ok=True)
    assert [metrics.AP, metrics.AR100, *voc] == pytest.approx([1 if there else math.nan] * 4, nan_ok=True)
    assert pytest.approx([0 if there else math.nan], nan_ok=True) == [nothing.AP]


@settings(max_examples=25, deadline=None)
@given(cases(), st.integers(0, 2))
def test_one_more_false_detection_of_the_lowest_score_never_raises_a_figure(case: Case, label: int) -> None:
    detections, truths = case
    first = detections[0]
    rows = zip(first.labels.tolist(), first.scores.tolist(), first.boxes.tolist(), strict=True)
    more = found(0, [*((k, s, *b) for k, s, b in rows), (label, 0.05, 500, 400, 540, 440)])
    for before, after in zip(figures(case), figures(([more, *detections[1:]], truths)), strict=True):
        assert (math.isnan(before) and math.isnan(after)) or after <= before + 1e-12


@settings(max_examples=25, deadline=None)
@given(cases())
def test_figures_lie_in_0_to_1_and_only_the_order_of_the_scores_counts(case: Case) -> None:
    values = figures(case)
    assert all(math.isnan(v) or 0 <= v <= 1 + 1e-12 for v in values)
    metrics = coco_metrics(*case, CLASSES)
    if metrics.objects:
        assert metrics.AP <= metrics.AP50 + 1e-12 and metrics.AR1 <= metrics.AR10 <= metrics.AR100
    halved = [replace(d, scores=d.scores / 2) for d in case[0]]
    np.testing.assert_array_equal(figures((halved, case[1])), values)
