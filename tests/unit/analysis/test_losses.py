"""What each picture costs."""

import pytest

from metric_cases import found, known
from onestage.analysis.losses import losses_by_picture
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate

BOX, FAR = (10, 10, 60, 60), (200, 200, 260, 260)


def test_false_alarms_and_missed_objects_share_what_is_missing_to_an_ap_of_1() -> None:
    detections = [found(1, [(0, 0.9, *FAR), (0, 0.8, *BOX)]), found(2, [(0, 0.7, *FAR), (0, 0.6, *BOX)]), found(3), found(4)]
    truths = [known(1, [(0, *BOX)]), known(2, [(0, *BOX)]), known(3, [(0, *BOX)]), known(4)]
    rows = losses_by_picture(match(tabulate(detections, truths, ["cat", "dog"])))
    precisions = [1 / 2, 2 / 4, 0]  # at the hits of 1 and 2, and for the object of 3
    assert sum(row.lost for row in rows) == pytest.approx(1 - sum(precisions) / 3)
    assert [row.image_id for row in rows] == [3, 1, 2, 4]
    worst, first, second, empty = rows
    assert (worst.missed, worst.false_alarms) == pytest.approx((1 / 3, 0))
    assert first.false_alarms == pytest.approx((1 / 2 + 1 / 4) / 3) and second.false_alarms == pytest.approx(1 / 4 / 3)
    assert (first.objects, first.found, first.detections) == (1, 1, 2)
    assert empty.lost == 0


def test_with_nothing_to_find_no_picture_costs_anything() -> None:
    assert losses_by_picture(match(tabulate([], [], ["cat"]))) == ()
    (row,) = losses_by_picture(match(tabulate([found(1, [(0, 0.9, *BOX)])], [known(1)], ["cat"])))
    assert (row.lost, row.objects, row.detections) == (0, 0, 1)
