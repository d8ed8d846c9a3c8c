"""Matches and AP are those of pycocotools to the last digit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coco_cases import FILES, Inputs, random_case, read_coco, run_pycocotools
from metric_cases import found, known
from onestage.errors import DataError
from onestage.metrics import matches as matches_module
from onestage.metrics.ap import average_precision
from onestage.metrics.coco import coco_metrics
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate


def check_against_pycocotools(case: Inputs) -> None:
    ours = coco_metrics(*case)
    stats, theirs = run_pycocotools(*case)
    np.testing.assert_array_equal(list(ours.figures.values()), np.where(stats < 0, np.nan, stats))
    np.testing.assert_array_equal(ours.precision, np.where(theirs < 0, np.nan, theirs))


SLOW = ("fakebbox100", "coco_tiny_made", "sampled")  # pycocotools needs more than a second for each


@pytest.mark.parametrize("kind", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=["64", "32"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FILES])
def test_files_give_the_figures_of_pycocotools(shared_data: Path, name: str, kind: torch.dtype) -> None:
    check_against_pycocotools(read_coco(*(shared_data / file for file in FILES[name]), kind=kind))


@pytest.mark.parametrize(("seed", "block"), [(0, matches_module.BLOCK), (1, matches_module.BLOCK), (1, 1)])
def test_random_pictures_give_the_figures_of_pycocotools(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches_module, "BLOCK", block)
    check_against_pycocotools(random_case(seed))


def test_an_ignored_object_is_matched_once_and_does_not_count() -> None:
    """pycocotools forgets the flag. The second detection overlaps the ignored object alone, which is taken."""
    box = (10.0, 10.0, 50.0, 50.0)
    truths = [known(1, [(0, *box), (0, 100, 100, 200, 200)], ignore=[0])]
    detections = [found(1, [(0, 0.9, *box), (0, 0.8, 10, 10, 50, 51), (0, 0.7, 100, 100, 200, 190)])]
    table = tabulate(detections, truths, ["a"])
    matches = match(table)
    assert matches.truth[0].tolist() == [0, -1, 1] and matches.truths.tolist() == [1]
    assert (matches.hit[0].tolist(), matches.ignored[0].tolist()) == ([False, False, True], [True, False, False])
    np.testing.assert_allclose(matches.overlap(0.5), [1, 0, 0.9])
    assert average_precision(matches).mean == pytest.approx(0.5 * 9 / 10)  # the third comes after a false one; its IoU is .9


def test_rows_are_in_the_order_of_coco() -> None:
    first, second = (0, 0.5, 0, 0, 9, 9), (1, 0.7, 0, 0, 9, 9)
    detections = [found(2, [first, first]), found(1, [second, first]), found("x")]
    table = tabulate(detections, [known("x"), known(1), known(2)], ["a", "b"], limit=1)
    assert (table.image_ids, table.found.label.tolist()) == ((1, 2, "x"), [0, 0, 1])
    assert (table.found.picture.tolist(), table.found.row.tolist()) == ([0, 1, 0], [1, 0, 0])
    matches = match(table)
    assert matches.of(0) == slice(0, 2) and matches.of(1) == slice(2, 3) and matches.starts.tolist() == [0, 2, 3]


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5])
def test_a_score_that_is_none_is_refused(score: float) -> None:
    with pytest.raises(DataError, match="score") as caught:
        tabulate([found("x", [(0, 0.5, 0, 0, 9, 9), (0, score, 0, 0, 9, 9)])], [known("x")], ["a"])
    assert caught.value.where == "picture 'x'"


@pytest.mark.parametrize("box", [(5, 0, 4, 9), (0, 0, float("nan"), 9), (0, 0, 9, float("inf"))])
def test_a_box_that_is_none_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="box"):
        tabulate([found(1, [(0, 0.5, *box)])], [known(1)], ["a"])


@pytest.mark.parametrize("pictures", [0, 2])
def test_nothing_is_nothing(pictures: int) -> None:
    ids = range(pictures)
    matches = match(tabulate([found(i) for i in ids], [known(i) for i in ids], ["a"]))
    assert matches.hit.shape == (10, 0) and np.isnan(average_precision(matches).mean)
    with pytest.raises(DataError, match="not of the same pictures"):
        tabulate([found(9)], [known(i) for i in ids], ["a"])
