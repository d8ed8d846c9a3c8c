"""Label quality against cleanlab, and what the list of suspects says."""

import math
from pathlib import Path

import numpy as np
import pytest

from analysis_cases import file_case, reference
from metric_cases import found, known
from onestage.analysis.labels import find_suspects, label_scores, picture_quality
from onestage.metrics.tables import tabulate

CLASSES = ["cat", "dog"]


@pytest.mark.parametrize(("name", "sure"), [("as_shipped", 0.95), ("thresholds_half", 0.5)])
def test_the_three_scores_are_those_of_cleanlab(shared_data: Path, name: str, sure: float) -> None:
    figures = reference(shared_data)["label_quality_cleanlab"]
    case = file_case(shared_data, figures["inputs"])
    table = tabulate(case.detections, case.truths, case.classes)
    scores = label_scores(table, sure=sure)
    found_row = {(table.image_ids[p], r): i for i, (p, r) in enumerate(zip(table.found.picture, table.found.row, strict=True))}
    true_row = {(table.image_ids[p], r): i for i, (p, r) in enumerate(zip(table.true.picture, table.true.row, strict=True))}
    overlooked = scores.overlooked[[found_row[at] for at in case.found_at]]
    expected = [math.nan if v is None else v for v in figures[name]["overlooked_by_detection"]]
    assert overlooked == pytest.approx(expected, abs=1e-6, nan_ok=True)
    rows = [true_row[at] for at in case.true_at]
    assert scores.placed[rows] == pytest.approx(figures[name]["badloc_by_truth"], abs=1e-6)
    assert scores.swapped[rows] == pytest.approx(figures[name]["swap_by_truth"], abs=1e-6)
    if name == "as_shipped":
        assert picture_quality(table, scores) == pytest.approx(figures["label_quality_by_picture"], abs=1e-6)


def test_each_kind_of_wrong_label_is_listed_with_what_the_detection_says() -> None:
    cat, dog, mouse = (10, 10, 60, 60), (100, 100, 160, 160), (300, 300, 340, 340)
    detections = [found(1, [(0, 0.99, *cat), (0, 0.98, *dog), (1, 0.97, *mouse), (0, 0.9, 200, 20, 240, 60)])]
    truths = [known(1, [(0, *cat), (1, *dog), (0, 230, 20, 290, 80)])]
    result = find_suspects(tabulate(detections, truths, CLASSES))
    assert result.counts == {"overlooked": 1, "badly placed": 1, "swapped": 1}
    rows = {s.reason: (s.row, s.label, s.suggested_label, s.suggested_box) for s in result.suspects}
    assert rows == {
        "overlooked": (-1, 1, 1, mouse),
        "badly placed": (2, 0, 0, (200, 20, 240, 60)),
        "swapped": (1, 1, 0, dog),
    }
    assert [s.quality for s in result.suspects] == sorted(s.quality for s in result.suspects)
    assert 0 <= result.pictures[0].quality < 0.1


def test_an_object_that_was_labelled_twice_names_the_other_label() -> None:
    box = (10, 10, 60, 60)
    result = find_suspects(tabulate([found(1)], [known(1, [(0, *box), (1, *box)])], CLASSES))
    assert [(s.reason, s.row, s.suggested_label) for s in result.suspects] == [("swapped", 0, 1), ("swapped", 1, 0)]
    assert all(math.isnan(s.score) for s in result.suspects)


def test_what_lies_in_a_crowd_is_not_overlooked_and_a_crowd_is_not_rated() -> None:
    truths = [known(1, [(0, 0, 0, 100, 100), (0, 200, 200, 300, 300)], crowd=[0], ignore=[1])]
    detections = [found(1, [(0, 0.99, 10, 10, 30, 30), (1, 0.99, 210, 210, 290, 290)])]
    result = find_suspects(tabulate(detections, truths, CLASSES))
    assert result.suspects == ()
    assert result.pictures[0].quality == 1.0


def test_with_no_pictures_and_no_labels_nothing_is_wrong() -> None:
    assert find_suspects(tabulate([], [], CLASSES)).pictures == ()
    scores = label_scores(tabulate([found(1)], [known(1)], CLASSES))
    assert all(len(column) == 0 for column in scores)
    assert np.array_equal(picture_quality(tabulate([found(1)], [known(1)], CLASSES), scores), [1.0])
