"""Objects in zones: every object in the right ones, and never in two that only touch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onestage.errors import ConfigError
from onestage.predict.zones import WHOLE, Zone, count_in_zones, in_words, inside
from onestage.structures import Detections

CLASSES = ("cat", "dog")


def found(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (100, 200)) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, len(labels)),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=tuple(CLASSES[label] for label in labels),
        category_ids=tuple(labels),
        size=size,
    )


def test_the_point_that_counts_is_the_foot_or_the_centre() -> None:
    zone = Zone.read("floor=0,50,200,50,200,100,0,100")
    standing = found([[10, 10, 30, 60], [50, 10, 70, 40], [90, 40, 110, 80]], [0, 0, 1])
    assert zone.inside(standing).tolist() == [True, False, True]
    assert zone.inside(standing, "centre").tolist() == [False, False, True]
    assert count_in_zones(standing, [zone], CLASSES) == {WHOLE: [2, 1], "floor": [1, 1]}
    assert count_in_zones(standing, [zone], CLASSES, spot="centre") == {WHOLE: [2, 1], "floor": [0, 1]}


def test_parts_of_the_picture_follow_its_size() -> None:
    zone = Zone.read("right = .5,0 1,0 1,1 .5,1")
    assert zone.name == "right" and zone.relative
    for size in ((100, 200), (300, 200), (33, 1001)):
        height, width = size
        boxes = [[0.6 * width, 0, 0.8 * width, height / 2], [0, 0, 0.4 * width, height]]
        assert zone.inside(found(boxes, [0, 1], size)).tolist() == [True, False]


def test_a_box_that_ends_at_the_border_or_beyond_is_in_a_zone_that_reaches_the_border() -> None:
    whole = Zone.read("all=0,0,1,0,1,1,0,1")
    boxes = [[0, 0, 200, 100], [150, 50, 250, 140], [-40, 20, 10, 100], [0, 0, 0.5, 0.5], [199.8, 99.8, 200, 100]]
    assert whole.inside(found(boxes, [0] * 5)).all()
    assert whole.inside(found(boxes, [0] * 5), "centre").all()


def test_an_l_shaped_zone_leaves_its_notch_out() -> None:
    corner = Zone.read("L=0,0,100,0,100,50,50,50,50,100,0,100")
    points = torch.tensor([[25.0, 75.0], [75.0, 25.0], [75.0, 75.0], [49.9, 99.0], [50.1, 50.1]], dtype=torch.float64)
    assert inside(points, corner.polygon((100, 200))).tolist() == [True, True, False, True, False]


COORDINATES = st.integers(0, 40)


@given(
    st.lists(st.tuples(COORDINATES, COORDINATES), min_size=4, max_size=4, unique=True),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=30),
)
def test_what_a_cut_parts_is_in_exactly_one_part(corners: list[tuple[int, int]], points: list[tuple[int, int]]) -> None:
    """A polygon cut along a diagonal: each point of it, also one on the cut or on an edge, is in one of the two parts."""
    a, b, c, d = corners
    places = torch.tensor(points, dtype=torch.float64) / 2
    whole, one, two = (inside(places, torch.tensor(part, dtype=torch.float64)) for part in ([a, b, c, d], [a, b, c], [a, c, d]))
    assert torch.equal(whole, one ^ two)


@given(st.integers(0, 79), st.integers(0, 79), st.integers(1, 20), st.integers(1, 20))
def test_a_rectangle_is_what_comparing_coordinates_says(x: int, y: int, width: int, height: int) -> None:
    polygon = torch.tensor([[10, 10], [10 + width, 10], [10 + width, 10 + height], [10, 10 + height]], dtype=torch.float64)
    expected = 10 <= x / 2 < 10 + width and 10 <= y / 2 < 10 + height
    assert bool(inside(torch.tensor([[x / 2, y / 2]], dtype=torch.float64), polygon)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1,0,1,1", "name and corners"),
        ("=0,0,1,0,1,1", "name and corners"),
        ("whole picture=0,0,1,0,1,1", "all of the picture"),
        ("a=0,0,x,0,1,1", "numbers"),
        ("a=0,0,1,0,1", "three corners"),
        ("a=0,0,9,9", "three corners"),
        ("a=", "three corners"),
        ("a=-1,0,9,9,0,9", "below 0"),
        ("a=nan,0,9,9,0,9", "below 0"),
        ("a=0,0,inf,9,0,9", "below 0"),
        ("a=0.5,0,300,9,0,9", "not in both"),
        ("a=0,0,10,10,20,20", "on one line"),
        ("a=0,0,10,10,0,0", "on one line"),
    ],
)
def test_what_is_no_zone(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Zone.read(text)
    assert error.value.fix


def test_numbers_in_words() -> None:
    assert in_words([1, 2000], CLASSES) == "2,000 dog, 1 cat" and in_words([0, 0], CLASSES) == "nothing"
