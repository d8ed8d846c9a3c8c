"""Weighted boxes fusion: what the paper says, step by step; and several looks and models as one."""

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import onestage
from drawn_rectangles import draw, seer
from onestage import boxes as box_ops
from onestage.errors import ConfigError
from onestage.model.output.scores import Scores
from onestage.predict.fusion import Fused, weighted_boxes
from onestage.predict.predictor import Predictor
from onestage.predict.views import Mirrored

Row = tuple[list[float], float, int]


def as_the_paper_says(models: Sequence[Sequence[Row]], weights: Sequence[float], match: float) -> list[Row]:
    """Section 3 of arXiv 1910.13302, steps 1 to 6, as slowly as it reads. A weight is so many models with the same boxes."""
    listed = [(weight, *row) for rows, weight in zip(models, weights, strict=True) for row in rows]
    listed.sort(key=lambda entry: -entry[2] * entry[0])  # step 1
    clusters: list[list[tuple[float, list[float], float, int]]] = []
    fused: list[list[float]] = []
    for entry in listed:  # step 3
        ious = [
            float(box_ops.iou(torch.tensor([box]).double(), torch.tensor([entry[1]]).double()))
            if cluster[0][3] == entry[3]
            else -1.0
            for box, cluster in zip(fused, clusters, strict=True)
        ]
        if not ious or max(ious) <= match:  # step 4
            clusters.append([entry])
            fused.append(entry[1])
            continue
        place = ious.index(max(ious))  # step 5
        clusters[place].append(entry)
        total = sum(w * c for w, _, c, _ in clusters[place])
        fused[place] = [sum(w * c * box[i] for w, box, c, _ in clusters[place]) / total for i in range(4)]
    found = []
    for box, cluster in zip(fused, clusters, strict=True):  # step 6
        count, everyone = sum(w for w, *_ in cluster), sum(weights)
        mean = sum(w * c for w, _, c, _ in cluster) / count
        found.append((box, mean * min(count, everyone) / everyone, cluster[0][3]))
    return sorted(found, key=lambda row: -row[1])


def columns(models: Sequence[Sequence[Row]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    boxes = [torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4) for rows in models]
    scores = [torch.tensor([row[1] for row in rows], dtype=torch.float32) for rows in models]
    return boxes, scores, [torch.tensor([row[2] for row in rows], dtype=torch.int64) for rows in models]


@st.composite
def looks(draw_: st.DrawFn) -> list[list[Row]]:
    """What 1 to 4 models find: boxes that scatter around three places, with scores that are all different."""
    scores = iter(draw_(st.permutations([(i + 1) / 64 for i in range(32)])))

    def row() -> Row:
        x, y = draw_(st.sampled_from([(0.0, 0.0), (40.0, 10.0), (44.0, 60.0)]))
        near = [draw_(st.integers(-6, 6)) for _ in range(4)]
        box = [x + near[0] + 10, y + near[1] + 10, x + near[2] + 40, y + near[3] + 50]
        return box, next(scores), draw_(st.integers(0, 1))

    return [[row() for _ in range(draw_(st.integers(0, 7)))] for _ in range(draw_(st.integers(1, 4)))]


@given(looks(), st.lists(st.sampled_from([1.0, 2.0, 0.5]), min_size=4, max_size=4), st.sampled_from([0.3, 0.55]))
@settings(max_examples=60)
def test_fusion_is_what_the_paper_says(models: list[list[Row]], weights: list[float], match: float) -> None:
    weights = weights[: len(models)]
    found = weighted_boxes(*columns(models), weights=weights, match=match)
    expected = as_the_paper_says(models, weights, match)
    assert len(found.scores) == len(expected)
    for box, score, label in expected:
        near = (found.boxes - torch.tensor(box)).abs().amax(dim=1) < 1e-3
        assert ((found.scores - score).abs()[near & (found.labels == label)] < 1e-5).any()
    assert bool((found.scores.diff() <= 0).all())


@given(looks())
@settings(max_examples=25)
def test_the_order_of_models_does_not_matter(models: list[list[Row]]) -> None:
    first = weighted_boxes(*columns(models), weights=[1.0] * len(models))
    for order in list(permutations(models))[1:4]:
        again = weighted_boxes(*columns(order), weights=[1.0] * len(models))
        torch.testing.assert_close(again.scores, first.scores)
        torch.testing.assert_close(again.boxes, first.boxes, atol=1e-4, rtol=0)


def test_one_model_stays_as_it_is_and_the_mean_box_is_between() -> None:
    one: list[Row] = [([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 70], 0.5, 0)]
    alone = weighted_boxes(*columns([one]), weights=[3.0])
    assert alone.boxes.tolist() == [row[0] for row in one] and alone.scores.tolist() == pytest.approx([0.9, 0.5])
    both = weighted_boxes(*columns([one, [([0, 0, 10, 14], 0.3, 0)]]), weights=[1.0, 1.0])
    assert both.boxes[0].tolist() == pytest.approx([0, 0, 10, (0.9 * 10 + 0.3 * 14) / 1.2])
    assert both.scores.tolist() == pytest.approx([0.6, 0.25])


def test_a_model_does_not_count_against_what_it_cannot_know() -> None:
    models: list[list[Row]] = [[([0, 0, 10, 10], 0.8, 0)], [([50, 50, 60, 60], 0.6, 1)]]
    found = weighted_boxes(*columns(models), weights=[1, 1], known=[(True, False), (True, True)])
    assert dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True)) == pytest.approx({0: 0.4, 1: 0.6})


RECTANGLES = [(20, 30, 90, 100), (200, 60, 280, 150), (400, 200, 520, 330)]
PICTURE = draw((400, 600), RECTANGLES)


def test_two_models_find_what_one_misses_and_classes_go_by_name() -> None:
    """Each knows a class that the other does not, and they list the common one at another place."""
    first = seer(3, classes=("cat", "dog"), label=lambda n: 0 if n == 0 else 1, sees=lambda box, width: box[0] < width / 2)
    second = seer(3, classes=("bird", "cat"), label=lambda n: 0 if n == 2 else 1, sees=lambda box, _: not 20 < box[0] < 60)
    fused = onestage.fuse([first, second], weights=[1, 3])
    assert fused.classes == ("cat", "dog", "bird") and fused.category_ids == (0, 1, 2) and fused.passes((400, 600)) == 2
    (found,) = fused.predict(PICTURE, score=0.1)
    assert set(first.predict(PICTURE)[0].class_names) == {"cat", "dog"}
    by_name = {one.name: one for one in found}
    assert set(by_name) == {"cat", "dog", "bird"} and len(found) == 3
    assert by_name["cat"].score == pytest.approx(0.9) and by_name["dog"].score == by_name["bird"].score == pytest.approx(0.9)
    for name, box in zip(("cat", "dog", "bird"), RECTANGLES, strict=True):
        assert by_name[name].box == pytest.approx(box, abs=7)


def test_weights_say_whom_to_believe() -> None:
    sure, unsure = seer(1, score=0.9), seer(1, score=0.3)
    scores = [
        float(onestage.fuse([sure, unsure], weights=weights).predict(PICTURE, score=0.1)[0].scores[0])
        for weights in ([1, 1], [3, 1], [1, 3])
    ]
    assert scores == pytest.approx([0.6, 0.75, 0.45])


def test_a_mirror_image_shows_what_the_plain_call_misses() -> None:
    """The model is blind on the right half of its input."""
    model = seer(3, sees=lambda box, width: box[0] < width / 2)
    assert len(model.predict(PICTURE)[0]) == 2
    (found,) = onestage.look(model, flip=True).predict(PICTURE, score=0.2)
    assert len(found) == 3
    overlap = box_ops.iou(torch.tensor(RECTANGLES, dtype=torch.float32), found.boxes)
    assert overlap.amax(dim=1).min() > 0.7, "boxes are where the objects are, not their mirror images"


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shortest_edge"])
@pytest.mark.parametrize(("scales", "side", "sees"), [((1, 1.5), 30, 99), ((0.5, 1), 300, 40)])
def test_scales_show_what_the_plain_call_misses(mode: str, scales: tuple[float, ...], side: int, sees: int) -> None:
    """The object is too small for the model, or too large."""
    model = seer(1, mode=mode, sees=lambda box, _: box[2] - box[0] < sees)
    box = (250, 60, 250 + side, 60 + side)
    picture = draw((400, 600), [box])
    assert len(model.predict(picture)[0]) == 0
    (found,) = onestage.look(model, scales=scales).predict(picture, score=0.2)
    assert len(found) == 1
    assert float(box_ops.iou(found.boxes, torch.tensor([box]).float())) > 0.45


def test_nothing_is_found_in_the_empty_part_of_a_smaller_view() -> None:
    model = seer(0)
    seen: list[tuple[int, int]] = []
    look = onestage.look(model, scales=(0.5,))
    assert len(repr(onestage.fuse([look, onestage.look(model, flip=True)]))) < 200, "a person reads it"
    inner = model.engine._seen  # type: ignore[attr-defined]

    def everywhere(image: Tensor) -> object:
        seen.append((image.shape[1], image.shape[2]))
        raw = inner(image)
        return raw._replace(
            boxes=torch.tensor([[50.0, 40, 90, 60], [2.0, 2, 90, 60]]), scores=torch.ones(2), labels=torch.zeros(2).long()
        )

    model.engine._seen = everywhere  # type: ignore[attr-defined]
    (found,) = look.predict(PICTURE)
    assert seen == [(64, 96)] and len(found) == 1, "the box in the empty corner is nothing, the other is cut to the picture"
    assert found.boxes[0].tolist() == pytest.approx([2 / 48 * 600, 2 / 32 * 400, 600, 400])


def test_calibration_comes_before_fusion_and_thresholds_are_left_out() -> None:
    plain = seer(1, score=0.6)
    kept = Predictor(plain.engine, plain.decoder, Scores(thresholds=(0.95,), temperatures=(0.5,)))
    (found,) = onestage.fuse([kept, seer(1, score=0.2)]).predict(PICTURE)
    warm = 0.6**2 / (0.6**2 + 0.4**2)
    assert float(found.scores[0]) == pytest.approx((warm + 0.2) / 2) and onestage.fuse([kept]).scores is None


@pytest.mark.parametrize(
    "weights", [[1], [1, 1, 1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1, "1"], [1, True], 2]
)
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError) as caught:
        onestage.fuse([seer(1), seer(1)], weights=weights)
    assert "such as weights=(" in str(caught.value)


@pytest.mark.parametrize("models", [None, "runs/first", seer(1), [seer(1), None]])
def test_models_that_are_none_are_refused(models: list[Predictor]) -> None:
    with pytest.raises(ConfigError):
        onestage.fuse(models)


def test_an_id_that_another_class_has_is_not_given_twice() -> None:
    one, other = seer(1, classes=("a",)), seer(1, classes=("b", "c"))
    assert onestage.fuse([one, other]).category_ids == (0, 1, 2)
    with pytest.raises(ConfigError, match="do not suit"):
        onestage.fuse([])


def test_which_class_is_which_is_found_once() -> None:
    asked: list[str] = []

    class Asked(Mirrored):
        @property
        def classes(self) -> tuple[str, ...]:
            asked.append("again")
            return self.looker.classes

    fused = Fused((Asked(seer(2)), Asked(seer(2))))
    before = len(asked)
    assert len(fused.predict([PICTURE] * 3)) == 3 and len(asked) == before
