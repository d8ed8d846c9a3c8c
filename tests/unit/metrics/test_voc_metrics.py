"""VOC AP on cases small enough to work out by hand."""

import math

import pytest

from metric_cases import found, known
from onestage.errors import ConfigError, DataError
from onestage.metrics import voc
from onestage.metrics.voc import voc_metrics

FAR = (300, 300, 340, 340)
LEFT, RIGHT = (0, 0, 40, 40), (100, 0, 140, 40)


def test_the_two_styles_by_hand() -> None:
    """Right, wrong, right of two objects: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    detections = [found(1, [(0, 0.9, *LEFT), (0, 0.8, *FAR), (0, 0.7, *RIGHT)])]
    truths = [known(1, [(0, *LEFT), (0, *RIGHT)])]
    area = voc_metrics(detections, truths, ["cat"], style="2010")
    points = voc_metrics(detections, truths, ["cat"], style="2007")
    assert area.mAP == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert points.mAP == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert area.per_class[0].precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert area.per_class[0].recall.tolist() == pytest.approx([1 / 2, 1 / 2, 1])


def test_a_second_detection_of_an_object_is_wrong() -> None:
    detections = [found(1, [(0, 0.9, *LEFT), (0, 0.8, *LEFT)])]
    assert voc_metrics(detections, [known(1, [(0, *LEFT)])], ["cat"]).per_class[0].precision.tolist() == [1.0, 0.5]


def test_a_detection_belongs_to_the_object_it_overlaps_most_even_when_that_is_taken() -> None:
    """Unlike COCO's rule: the second detection overlaps the free object enough, but the taken one more."""
    detections = [found(1, [(0, 0.9, 0, 0, 40, 40), (0, 0.8, 4, 0, 44, 40)])]
    truths = [known(1, [(0, 0, 0, 40, 40), (0, 12, 0, 52, 40)])]
    assert voc_metrics(detections, truths, ["cat"]).per_class[0].recall.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["ignore", "crowd"])
def test_a_detection_of_a_difficult_object_does_not_count(kind: str) -> None:
    detections = [found(1, [(0, 0.9, *LEFT), (0, 0.8, *LEFT), (0, 0.7, *RIGHT)])]
    truths = [known(1, [(0, *LEFT), (0, *RIGHT)], **{kind: [0]})]
    (cat,) = voc_metrics(detections, truths, ["cat"]).per_class
    assert (cat.objects, cat.precision.tolist(), cat.recall.tolist()) == (1, [1.0], [1.0])


def test_classes_do_not_meet_and_absent_ones_do_not_count() -> None:
    detections = [found(1, [(1, 0.9, *LEFT), (0, 0.8, *LEFT)]), found("b", [(2, 0.5, *LEFT)])]
    truths = [known(1, [(0, *LEFT), (1, *RIGHT)]), known("b")]
    metrics = voc_metrics(detections, truths, ["cat", "dog", "cow"])
    assert [row.AP for row in metrics.per_class[:2]] == [1.0, 0.0]
    assert math.isnan(metrics.per_class[2].AP)
    assert metrics.mAP == 0.5


def test_nothing_found_is_zero_and_nothing_to_find_is_nan() -> None:
    for style in ("2007", "2010"):
        assert voc_metrics([found(1)], [known(1, [(0, *LEFT)])], ["cat"], style=style).mAP == 0.0
        assert math.isnan(voc_metrics([], [], ["cat"], style=style).mAP)
        assert math.isnan(voc_metrics([], [], [], style=style).mAP)


def test_an_overlap_of_exactly_the_threshold_is_enough() -> None:
    truths = [known(1, [(0, 0, 0, 40, 40)])]
    assert voc_metrics([found(1, [(0, 0.9, 0, 0, 40, 20)])], truths, ["cat"]).mAP == 1.0
    assert voc_metrics([found(1, [(0, 0.9, 0, 0, 40, 19.99)])], truths, ["cat"]).mAP == 0.0


def test_whole_pixels_make_boxes_one_wider_and_higher() -> None:
    """4 x 9 of 9 x 9 pixels is IoU .44; counted with their last pixels 5 x 10 of 10 x 10, which is .50."""
    case = [found(1, [(0, 0.9, 0, 0, 4, 9)])], [known(1, [(0, 0, 0, 9, 9)])], ["cat"]
    assert voc_metrics(*case).mAP == 0.0
    assert voc_metrics(*case, inclusive=True).mAP == 1.0


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.5, math.nan])
def test_an_iou_that_decides_nothing_is_an_error(iou: float) -> None:
    with pytest.raises(ConfigError, match="IoU"):
        voc_metrics([], [], ["cat"], iou=iou)


def test_pairs_are_held_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    truths = [known(1, [(0, *LEFT), (1, *LEFT)])]
    case = [found(1, [(k, 0.9 - 0.1 * i, 0, 0, 40, 30 - i) for i, k in enumerate((0, 1, 0, 1))])], truths, ["cat", "dog"]
    whole = voc_metrics(*case)
    monkeypatch.setattr(voc, "CELLS", 1)
    assert [row.AP for row in voc_metrics(*case).per_class] == [row.AP for row in whole.per_class]


@pytest.mark.slow
def test_many_detections_in_one_picture_need_little_memory() -> None:
    """All pairs at once would need 160 MB, several times."""
    import tracemalloc

    rows = [(0, 0.5, x % 400, 0, x % 400 + 20, 40) for x in range(100_000)]
    case = [found(1, rows)], [known(1, [(0, 3 * i, 0, 3 * i + 20, 40) for i in range(200)])], ["cat"]
    tracemalloc.start()
    assert voc_metrics(*case).mAP > 0
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60e6


def test_other_pictures_are_an_error() -> None:
    with pytest.raises(DataError, match="only in the truths: 1"):
        voc_metrics([], [known(1)], ["cat"])
