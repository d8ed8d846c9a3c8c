"""COCO metrics at the edges: nothing to find, nothing found, crowds, ignored objects, pictures that do not match."""

import math

import numpy as np
import pytest

from metric_cases import found, known
from onestage.errors import DataError
from onestage.metrics.coco import FIGURES, IOUS, RECALLS, CocoClass, coco_metrics

BOX = (10, 10, 50, 60)
CAT = (0, *BOX)


def test_a_perfect_detection_gives_one_and_absent_sizes_are_nan() -> None:
    metrics = coco_metrics([found(1, [(0, 0.9, *BOX)])], [known(1, [CAT])], ["cat", "dog"])
    medium = {"AP", "AP50", "AP75", "APm", "AR1", "AR10", "AR100", "ARm"}
    there = {name: value for name, value in metrics.figures.items() if not math.isnan(value)}
    assert there == pytest.approx(dict.fromkeys(medium, 1.0), abs=1e-15)  # pycocotools divides by a little more than there is
    assert list(metrics.figures) == list(FIGURES)
    cat, dog = metrics.per_class
    assert cat == CocoClass("cat", objects=1, found=1, AP=metrics.AP, AP50=metrics.AP50, AR=1.0)
    assert (dog.name, dog.objects, dog.found) == ("dog", 0, 0) and all(math.isnan(v) for v in (dog.AP, dog.AP50, dog.AR))
    assert (metrics.pictures, metrics.objects) == (1, 1)


def test_nothing_found_is_zero_and_nothing_to_find_is_nan() -> None:
    assert coco_metrics([found(1)], [known(1, [CAT])], ["cat"]).AP == 0.0
    for detections, truths, classes in (
        ([], [], ["cat"]),
        ([], [], []),
        ([found(1)], [known(1)], ["cat"]),
        ([found(1, [(0, 0.9, *BOX)])], [known(1)], ["cat"]),
    ):
        metrics = coco_metrics(detections, truths, classes)
        assert all(math.isnan(v) for v in metrics.figures.values())
        assert np.isnan(metrics.curve()).all() and len(metrics.curve(0.5)) == 101


def test_a_false_detection_halves_the_precision_only_when_it_comes_first() -> None:
    truth = [known(1, [CAT])]
    first = coco_metrics([found(1, [(0, 0.9, 200, 200, 260, 260), (0, 0.8, *BOX)])], truth, ["cat"])
    last = coco_metrics([found(1, [(0, 0.7, 200, 200, 260, 260), (0, 0.8, *BOX)])], truth, ["cat"])
    assert pytest.approx((0.5, 1.0)) == (first.AP50, last.AP50)
    assert (first.AR1, first.AR10) == (0.0, 1.0)
    assert first.curve(0.5) == pytest.approx(0.5)


def test_ap_counts_the_thresholds_that_the_overlap_reaches() -> None:
    # 40 x 50 pixels against 40 x 36 of them: IoU .72, so that .50, .55, .60, .65 and .70 are reached.
    metrics = coco_metrics([found(1, [(0, 0.9, 10, 10, 50, 46)])], [known(1, [CAT])], ["cat"])
    assert pytest.approx(0.5) == metrics.AP
    assert [float(metrics.curve(iou)[0]) for iou in IOUS] == pytest.approx([1.0] * 5 + [0.0] * 5)
    assert RECALLS[0] == 0 and RECALLS[-1] == 1


def test_a_crowd_takes_any_number_of_detections_and_none_counts() -> None:
    inside = [(0, 0.9 - 0.1 * i, 200 + 20 * i, 200, 215 + 20 * i, 230) for i in range(3)]
    detections = [found(1, [*inside, (0, 0.3, *BOX)])]
    rows = [CAT, (0, 190, 190, 300, 300)]
    assert pytest.approx(1) == coco_metrics(detections, [known(1, rows, crowd=[1])], ["cat"]).AP
    without = coco_metrics(detections, [known(1, [CAT])], ["cat"])
    assert pytest.approx(0.25) == without.AP50
    assert coco_metrics(detections, [known(1, rows, crowd=[1])], ["cat"]).objects == 1


def test_an_ignored_object_takes_one_detection_which_does_not_count() -> None:
    other = (0, 200, 200, 260, 260)
    hits = [(0, 0.9, *other[1:]), (0, 0.5, *BOX)]
    ignored = [known(1, [CAT, other], ignore=[1])]
    assert pytest.approx(1) == coco_metrics([found(1, hits)], ignored, ["cat"]).AP
    twice = coco_metrics([found(1, [(0, 0.8, *other[1:]), *hits])], ignored, ["cat"])  # the second of them is a false one
    assert pytest.approx(0.5) == twice.AP50
    assert coco_metrics([found(1, hits)], ignored, ["cat"]).objects == 1
    everything = coco_metrics([found(1, hits[:1])], [known(1, [other], ignore=[0])], ["cat"])
    assert math.isnan(everything.AP)


def test_the_given_area_decides_the_size_not_the_box() -> None:
    metrics = coco_metrics([found(1, [(0, 0.9, *BOX)])], [known(1, [CAT], area=[900.0])], ["cat"])
    assert pytest.approx(1) == metrics.APs and math.isnan(metrics.APm)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco_metrics([found(1, [(0, 0.9, *BOX)])], [known(1, [CAT])], ["cat"])
    assert capsys.readouterr() == ("", "")


def test_other_pictures_are_an_error_that_names_them() -> None:
    with pytest.raises(DataError, match=r"only in the detections: 'b', 3; only in the truths: 2") as error:
        coco_metrics([found(i) for i in (1, 3, "b")], [known(i) for i in (1, 2)], ["cat"])
    assert "a picture without detections has an empty entry" in str(error.value)
    with pytest.raises(DataError, match="and 5 more"):
        coco_metrics([], [known(i) for i in range(15)], ["cat"])
    with pytest.raises(DataError, match=r"truths twice\n.*got: +7"):
        coco_metrics([found(7)], [known(7), known(7)], ["cat"])


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    with pytest.raises(DataError, match=r"detections of picture 'a' carry a label"):
        coco_metrics([found("a", [(label, 0.9, *BOX)])], [known("a")], ["cat", "dog"])
    with pytest.raises(DataError, match=r"truth of picture 'a' carry a label"):
        coco_metrics([found("a")], [known("a", [(label, *BOX)])], ["cat", "dog"])
