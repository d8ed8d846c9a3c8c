"""Error types against the original program, tidecv, on all its reference cases, and as COCO averages."""

import math
from pathlib import Path
from typing import Any

import pytest

from analysis_cases import Case, file_case, made_case, reference
from metric_cases import found, known
from onestage.analysis.errors import Errors, errors_of
from onestage.analysis.kinds import Average, kinds_of
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate

EXACT, TIED = 1e-9, 0.005
SETS = {"fakebbox100": TIED, "harder100": TIED, "harder100_iou75": TIED, "coco_tiny_made": EXACT, "voc100": EXACT}
"""Each set, and how far its percentages may be off: with equal scores, the original program orders them in another way."""

NOTHING = "no_detections"  # the original raises ZeroDivisionError


def errors(case: Case, average: Average, iou: float = 0.5) -> Errors:
    matches = match(tabulate(case.detections, case.truths, case.classes))
    return errors_of(matches.table, kinds_of(matches, average=average, iou=iou))


def letters(case: Case, result: Errors) -> tuple[str, str]:
    """The letters in the order of the files."""
    pictures = {p.image_id: p for p in result.pictures}
    return (
        "".join(pictures[image].found[row] for image, row in case.found_at),
        "".join(pictures[image].true[row] for image, row in case.true_at),
    )


def gains(result: Errors) -> dict[str, float]:
    return {t.name: 100 * t.gain for t in result.types}


def check(case: Case, result: Errors, expected: dict[str, Any], tolerance: float) -> None:
    assert pytest.approx(expected["AP"], abs=tolerance) == 100 * result.AP
    assert letters(case, result) == (expected["detections"], expected["truth"])
    assert {t.name: t.count for t in result.types} == expected["counts"]
    assert gains(result) == pytest.approx(expected["dAP"], abs=tolerance)
    in_turn = {t.name: 100 * t.gain_in_turn for t in result.types}
    assert in_turn == pytest.approx(expected["progressive_dAP"], abs=5 * tolerance)
    special = {t.name: 100 * t.gain for t in (result.false_positives, result.false_negatives)}
    assert special == pytest.approx(expected["special"], abs=tolerance)
    assert result.hits == expected["true_positives"]
    assert result.ignored == expected["ignored_detections"]
    assert result.false_negatives.count == expected["false_negatives"]
    assert result.classes == expected["classes_averaged"]


@pytest.mark.parametrize("name", SETS)
def test_the_original_averages_are_those_of_tidecv(shared_data: Path, name: str) -> None:
    expected = reference(shared_data)["tide"][name]
    case = file_case(shared_data, expected["inputs"])
    result = errors(case, "original", expected["parameters"]["foreground_IoU"])
    check(case, result, expected, tolerance=SETS[name])
    if "AP_by_class" in expected:
        ours = {name: 100 * ap for name, ap in zip(case.classes, result.AP_by_class, strict=True) if not math.isnan(ap)}
        assert ours == pytest.approx(expected["AP_by_class"], abs=len(ours) * SETS[name])


def test_every_small_case_of_the_original_program_gives_its_figures(shared_data: Path) -> None:
    for name, row in reference(shared_data)["tide_micro_cases"]["cases"].items():
        known_here = [d for d in row["detections"] if d[0] in row["images"]]  # the original drops others in silence
        case = made_case(row["images"], {1: "a", 2: "b", 3: "c"}, truth=row["truth"], found=known_here)
        if len(known_here) < len(row["detections"]):
            row["expected"]["detections"] = row["expected"]["detections"].replace("-", "")
        if name != NOTHING:
            check(case, errors(case, "original"), row["expected"], tolerance=EXACT)
        if row["pycocotools_AP50_percent"] is not None:
            assert pytest.approx(row["pycocotools_AP50_percent"], abs=1e-12) == 100 * errors(case, "coco").AP


@pytest.mark.parametrize("name", ["fakebbox100", "harder100", "coco_tiny_made", "voc100"])
def test_averaged_as_coco_does_ap_is_cocos_and_gains_are_those_of_the_reference(shared_data: Path, name: str) -> None:
    figures = reference(shared_data)
    case = file_case(shared_data, figures["tide"][name]["inputs"])
    result, expected = errors(case, "coco"), figures["tide_as_COCO_would_average"]["figures"][name]
    assert pytest.approx(figures["tide"][name]["pycocotools_AP50_percent"], abs=1e-12) == 100 * result.AP
    assert pytest.approx(expected["AP50"], abs=1e-9) == 100 * result.AP
    assert gains(result) == pytest.approx(expected["dAP"], abs=1e-9)
    special = {t.name: 100 * t.gain for t in (result.false_positives, result.false_negatives)}
    assert special == pytest.approx(expected["special"], abs=1e-9)
    assert letters(case, result) == tuple(figures["tide"][name][key] for key in ("detections", "truth"))
    if name == "voc100":  # neither ignored detections nor emptied classes, so a second program agrees
        second = figures["tide_as_COCO_would_average"]["hotcoco_1_3_0"][name]
        ours = {**gains(result), "FP": special["FalsePos"], "FN": special["FalseNeg"]}
        assert ours == pytest.approx(second["delta_ap"], abs=1e-9)
        assert {t.name: t.count for t in result.types} == second["counts"]
        assert pytest.approx(second["AP50"], abs=1e-9) == 100 * result.AP


def test_what_finds_an_ignored_object_has_no_part_in_ap_but_for_the_original_rules() -> None:
    box, other = (10, 10, 60, 60), (100, 100, 160, 160)
    detections = [found(1, [(0, 0.9, *other), (0, 0.5, *box)])]
    matches = match(tabulate(detections, [known(1, [(0, *box), (0, *other)], ignore=[1])], ["cat"]))
    for average, ap, expected in (("coco", 1.0, ("bT", "ti")), ("original", 1.0, ("TT", "tt"))):
        result = errors_of(matches.table, kinds_of(matches, average=average))
        assert pytest.approx(ap) == result.AP
        assert (result.pictures[0].found, result.pictures[0].true) == expected
        assert (result.ignored, result.false_positives.count) == (int(average == "coco"), 0)


def test_with_nothing_to_find_there_is_no_ap_and_nothing_to_gain() -> None:
    result = errors_of((matches := match(tabulate([], [], ["cat"]))).table, kinds_of(matches))
    assert all(math.isnan(t.gain) and t.count == 0 for t in (*result.types, result.false_positives, result.false_negatives))
    assert math.isnan(result.AP) and result.pictures == ()
