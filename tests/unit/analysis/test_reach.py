"""Which objects anchors reach, and whether the missed ones are among the others."""

import numpy as np
import pytest

from metric_cases import found, known
from onestage.analysis import AnalysisSettings, analyse
from onestage.analysis.reach import Overlaps, Reach, ReachedPart
from onestage.training.coverage import coverage_of, overlaps_of
from small_runs import detector, pictures

SMALL, LARGE = (10, 10, 20, 20), (100, 100, 260, 260)
QUICK = AnalysisSettings(draws=0)


def reach(overlaps: dict[int | str, Overlaps]) -> Reach:
    """Picture 1 has a small and a large cat, and the large one is found; picture 2 has an ignored dog and a small one."""
    truths = [known(1, [(0, *SMALL), (0, *LARGE)]), known(2, [(1, *LARGE), (1, *SMALL)], ignore=[0])]
    detections = [found(1, [(0, 0.9, *LARGE)]), found(2)]
    result = analyse(detections, truths, ["cat", "dog"], settings=QUICK, overlaps=overlaps).reach
    assert result is not None
    return result


def test_what_is_reached_and_what_is_missed() -> None:
    ours = {
        1: Overlaps(np.array([[0.2, 0.1], [0.3, 0.5]]), np.array([True, False])),
        2: Overlaps(np.array([[np.nan, np.nan], [0.6, 0.0]]), np.array([False, False])),
    }
    result = reach(ours)
    assert result.classes == (ReachedPart("cat", 2, 1, 1, 1, 1), ReachedPart("dog", 1, 1, 0, 1, 0))
    assert result.total == ReachedPart("all", 3, 2, 1, 2, 1) and result.total.unreached == 1
    assert [part.objects for part in result.sizes] == [2, 0, 0, 1]
    assert [part.reached for part in result.levels] == [1, 1]
    assert result.score == pytest.approx(0.9) and result.iou == 0.5


@pytest.mark.parametrize("rows", [1, 0])
def test_pictures_of_which_nothing_is_known_are_left_out(rows: int) -> None:
    assert reach({1: Overlaps(np.full((rows, 2), 0.9), np.zeros(rows, np.bool_))}).total.objects == 0
    assert reach({}).total.objects == 0


def test_it_agrees_with_the_coverage_that_training_tells() -> None:
    data, model = pictures(12), detector()
    iou, small = overlaps_of(model, data)
    parts = [slice(*data.offsets[i : i + 2].tolist()) for i in range(len(data))]
    ours = {data.image_ids[i]: Overlaps(iou[rows].numpy(), small[rows].numpy()) for i, rows in enumerate(parts)}
    truths = [data.truth(i) for i in range(len(data))]
    nothing = [found(image_id) for image_id in data.image_ids]
    result, expected = analyse(nothing, truths, data.classes, settings=QUICK, overlaps=ours).reach, coverage_of(model, data)
    assert result is not None
    pairs = [(result.total, expected.total), *zip(result.classes, expected.classes, strict=True)]
    pairs += zip(result.levels, expected.levels, strict=True)
    assert [(a.objects, a.reached) for a, _ in pairs] == [(b.objects, b.reached) for _, b in pairs]
    assert result.total.missed == result.total.objects and result.total.missed_unreached == result.total.unreached
