"""Laws of the error types: mending everything gives an AP of 1, and the order of the pictures does not matter."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_cases import found, known
from onestage.analysis import AnalysisSettings, analyse
from onestage.analysis.errors import Errors, errors_of
from onestage.analysis.kinds import Average, kinds_of
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate
from onestage.structures import Detections, Truth

CLASSES = ["cat", "dog", "mouse"]
boxes = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 5), st.integers(1, 5)).map(
    lambda b: (10 * b[0], 10 * b[1], 10 * (b[0] + b[2]), 10 * (b[1] + b[3]))
)
objects = st.tuples(st.integers(0, 2), boxes).map(lambda o: (o[0], *o[1]))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[Detections], list[Truth]]:
    """Up to 4 pictures with crowds and ignored objects; no two detections have the same score."""
    detections, truths = [], []
    scores = iter(random.Random(draw(st.integers(0, 99))).sample(range(1, 1000), 60))
    for image in range(draw(st.integers(1, 4))):
        true = draw(st.lists(objects, max_size=5))
        flags = [draw(st.sampled_from(["", "", "", "ignore", "crowd"])) for _ in true]
        chosen = {flag: [i for i, f in enumerate(flags) if f == flag] for flag in ("ignore", "crowd")}
        rows = draw(st.lists(st.one_of(objects, *map(st.just, true)), max_size=8))
        truths.append(known(image, true, **chosen))
        detections.append(found(image, [(label, next(scores) / 1024, *box) for label, *box in rows]))
    return detections, truths


def errors(detections: list[Detections], truths: list[Truth], average: Average) -> Errors:
    matches = match(tabulate(detections, truths, CLASSES))
    return errors_of(matches.table, kinds_of(matches, average=average))


@settings(max_examples=20, deadline=None)
@given(pictures(), st.sampled_from(["coco", "original"]))
def test_mending_everything_gives_an_ap_of_1(case: tuple[list[Detections], list[Truth]], average: Average) -> None:
    result = errors(*case, average)
    if result.hits or any(t.count for t in result.types[:2]):
        assert result.AP_mended == pytest.approx(1.0, abs=1e-12)
    assert sum(t.count for t in result.types[:5]) + result.hits == sum(len(d) for d in case[0])
    assert len("".join(p.true for p in result.pictures)) == sum(len(t.labels) for t in case[1])


@settings(max_examples=5, deadline=None)
@given(pictures(), st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_matter(case: tuple[list[Detections], list[Truth]], rng: random.Random) -> None:
    detections, truths = list(case[0]), list(case[1])
    rng.shuffle(detections)
    rng.shuffle(truths)
    settings = AnalysisSettings(draws=3)
    again = analyse(detections, truths, CLASSES, settings=settings)
    assert again.to_json() == analyse(*case, CLASSES, settings=settings).to_json()
