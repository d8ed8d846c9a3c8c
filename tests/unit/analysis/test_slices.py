"""Objects divided by their qualities, and how many of each part are found."""

import math

import pytest
import torch

from metric_cases import found, known
from onestage.analysis.kinds import kinds_of
from onestage.analysis.slices import Slice, Slices, brightness_of, slices_of, wilson
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate

BOXES = [(0, 0, 10, 10), (100, 100, 300, 150), (110, 100, 310, 150), (400, 200, 420, 300)]


def sliced(**options: object) -> Slices:
    detections = [found(1, [(0, 0.9, *BOXES[0]), (0, 0.4, *BOXES[1]), (1, 0.8, *BOXES[3])])]
    matches = match(tabulate(detections, [known(1, [(0, *box) for box in BOXES], ignore=[])], ["cat", "dog"]))
    return slices_of(matches.table, kinds_of(matches), **options)  # type: ignore[arg-type]


def counts(result: Slices, name: str) -> list[tuple[int, int, int]]:
    (quality,) = (q for q in result.qualities if q.name == name)
    return [(s.objects, s.found, s.mistaken) for s in quality.slices]


def test_every_object_is_in_one_part_of_each_quality() -> None:
    result = sliced()
    assert counts(result, "size") == [(1, 1, 0), (0, 0, 0), (1, 0, 1), (2, 1, 0)]
    assert counts(result, "shape") == [(1, 0, 1), (0, 0, 0), (1, 1, 0), (0, 0, 0), (2, 1, 0)]
    assert counts(result, "crowding") == [(2, 1, 1), (0, 0, 0), (0, 0, 0), (2, 1, 0)]
    assert counts(result, "border") == [(3, 1, 1), (1, 1, 0)]
    assert counts(result, "class") == [(4, 2, 1), (0, 0, 0)]
    assert [q.name for q in result.qualities] == ["class", "size", "shape", "crowding", "border"]


def test_detections_below_the_score_find_nothing() -> None:
    assert counts(sliced(score=0.5), "size") == [(1, 1, 0), (0, 0, 0), (1, 0, 1), (2, 0, 0)]


def test_brightness_is_used_where_it_is_known() -> None:
    assert counts(sliced(brightness={1: (10.0, 100.0, math.nan, 250.0)}), "brightness") == [
        (1, 1, 0),
        (1, 1, 0),
        (0, 0, 0),
        (1, 0, 1),
    ]
    assert sum(n for n, _, _ in counts(sliced(brightness={}), "brightness")) == 0


def test_the_brightness_of_a_box_is_the_mean_of_its_grey_pixels() -> None:
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[:, 1:3, 2:4] = 200
    image[0, 0, 0] = 255
    boxes = torch.tensor([[2.0, 1, 4, 3], [0, 0, 6, 4], [0, 0, 1, 1], [7, 7, 9, 9]])
    whole = (4 * 200 + 0.299 * 255) / 24
    assert brightness_of(image, boxes) == pytest.approx((200, whole, 0.299 * 255, math.nan), nan_ok=True)


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == 0.0 and wilson(5, 5)[1] == 1.0
    assert all(math.isnan(v) for v in wilson(0, 0))
    assert math.isnan(Slice("none", 0, 0, 0, math.nan, math.nan).share)
