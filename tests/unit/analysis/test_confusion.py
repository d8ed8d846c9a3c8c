"""The confusion matrix against supervision's, and what counts."""

from pathlib import Path

import numpy as np
import pytest

from analysis_cases import file_case, reference
from metric_cases import found, known
from onestage.analysis.confusion import Cell, confusion
from onestage.metrics.tables import tabulate

CLASSES = ["cat", "dog"]
CAT, DOG = (10, 10, 60, 60), (100, 100, 160, 160)


@pytest.mark.parametrize(("name", "score"), [(n, s) for n in ("fakebbox100", "voc100") for s in (0.3, 0.001)])
def test_the_matrix_is_that_of_supervision(shared_data: Path, name: str, score: float) -> None:
    figures = reference(shared_data)["thresholds_and_confusion"][name]
    case = file_case(shared_data, figures["inputs"])
    table = tabulate(case.detections, case.truths, case.classes)
    result = confusion(table, score=score)
    theirs, expected = figures[f"supervision_confusion_conf_{score}_iou_0.5"], np.zeros_like(result.matrix)
    for true, predicted, count in theirs["nonzero"]:
        expected[true, predicted] = count
    assert np.array_equal(result.matrix, expected)
    missed, alarms, hits = result.matrix[:-1, -1].sum(), result.matrix[-1].sum(), np.trace(result.matrix)
    assert [hits, alarms, missed] == [theirs[key] for key in ("diagonal", "predicted_on_background", "missed")]


def test_a_pair_of_one_class_goes_before_a_pair_of_a_higher_overlap() -> None:
    detections = [found(1, [(1, 0.9, *CAT), (0, 0.5, 10, 10, 60, 54), (0, 0.2, *DOG)])]
    result = confusion(tabulate(detections, [known(1, [(0, *CAT), (1, *DOG)])], CLASSES))
    assert set(result.cells) == {Cell(0, 0, 1), Cell(1, 2, 1), Cell(2, 1, 1)}
    assert result.mistaken == ()


def test_mistaken_classes_are_named_by_how_often() -> None:
    detections = [found(i, [(1, 0.9, *CAT), (0, 0.9, *DOG)]) for i in (1, 2)]
    truths = [known(1, [(0, *CAT), (1, *DOG)]), known(2, [(0, *CAT)])]
    assert confusion(tabulate(detections, truths, CLASSES)).mistaken == (Cell(0, 1, 2), Cell(1, 0, 1))


def test_what_lies_in_a_crowd_or_on_an_ignored_object_is_no_false_alarm() -> None:
    truths = [known(1, [(0, 0, 0, 100, 100), (1, 200, 200, 300, 300)], crowd=[0], ignore=[1])]
    detections = [found(1, [(1, 0.9, 10, 10, 30, 30), (1, 0.9, 200, 200, 300, 290)])]
    assert confusion(tabulate(detections, truths, CLASSES)).cells == ()
