"""Data that hardly are any: an analysis, its advice, its views and its JSON come out whole, without a warning."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from metric_cases import found, known
from onestage.analysis import Analysis, AnalysisSettings, analyse
from onestage.analysis.advice import Facts, advise
from onestage.analysis.page import sections
from onestage.analysis.reach import Overlaps
from onestage.analysis.terminal import analysis_table
from onestage.analysis.thresholds import Want
from onestage.errors import DataError
from onestage.structures import Detections, Truth

BOX, POINT = (10, 10, 60, 60), (20, 20, 20, 20)
ROWS = [(1, 1.0, *BOX), (0, 0.9, *BOX), (1, 0.5, *BOX), (0, 0.0, *POINT)]
CASES: dict[str, tuple[list[Detections], list[Truth], list[str]]] = {
    "no pictures": ([], [], ["a"]),
    "no classes": ([], [], []),
    "pictures without classes": ([found(1)], [known(1)], []),
    "no objects": ([found(1, ROWS)], [known(1)], ["a", "b"]),
    "no detections": ([found(1)], [known(1, [(0, *BOX)])], ["a", "b"]),
    "neither": ([found(1)], [known(1)], ["a", "b"]),
    "a crowd": ([found(1, ROWS)], [known(1, [(0, *BOX)], crowd=[0])], ["a", "b"]),
    "an ignored object": ([found(1, ROWS)], [known(1, [(0, *BOX)], ignore=[0])], ["a", "b"]),
    "objects of no size": ([found(1, ROWS)], [known(1, [(0, *POINT), (1, *POINT)])], ["a", "b"]),
    "a class without anything": ([found(1, ROWS)], [known(1, [(0, *BOX)])], ["a", "b", "c"]),
    "one picture": ([found("x", ROWS)], [known("x", [(0, *BOX), (1, *BOX)])], ["a", "b"]),
    "ids that look alike": ([found(i, ROWS) for i in (1, "1")], [known(i, [(0, *BOX)]) for i in (1, "1")], ["a", "b"]),
    "equal scores": ([found(i, [(0, 0.5, *BOX)]) for i in range(90)], [known(i, [(0, *BOX)]) for i in range(90)], ["a"]),
    "scores of 0 and 1": ([found(i, [(0, i % 2, *BOX)]) for i in range(90)], [known(i, [(0, *BOX)]) for i in range(90)], ["a"]),
    "all of a wrong class": (
        [found(i, [(1, 0.9, *BOX)]) for i in range(9)],
        [known(i, [(0, *BOX)]) for i in range(9)],
        ["a", "b"],
    ),
}
SETTINGS = (
    AnalysisSettings(draws=3, calibrate="best"),
    AnalysisSettings(want=Want("precision", 1.0), draws=0, calibrate="lines"),
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CASES)
def test_an_analysis_of_next_to_nothing(name: str) -> None:
    detections, truths, classes = CASES[name]
    overlaps = {one.image_id: Overlaps(np.full((len(one.labels), 2), 0.6), np.zeros(len(one.labels), bool)) for one in truths}
    brightness = {one.image_id: [float("nan")] * len(one.labels) for one in truths}
    for settings in SETTINGS:
        with np.errstate(all="raise", under="ignore"):
            analysis = analyse(detections, truths, classes, settings=settings, brightness=brightness, overlaps=overlaps)
        assert Analysis.from_json(analysis.to_json()).to_json() == analysis.to_json()
        advice = advise(analysis, Facts(keeps=True))
        console = Console(file=io.StringIO(), record=True)
        console.print(analysis_table(analysis))
        text = " ".join([console.export_text(), *advice, *(str(part.body) for part in sections(analysis, advice=advice))])
        assert not re.search(r"\b(nan|inf)\b", text)


def test_a_picture_that_is_there_twice_is_refused() -> None:
    for detections, truths in (([found(1)] * 2, [known(1)]), ([found(1)], [known(1)] * 2)):
        with pytest.raises(DataError, match="twice"):
            analyse(detections, truths, ["a"])


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400, "NaN", "true"])
def test_a_number_that_no_float_holds_is_no_analysis(number: str) -> None:
    plain = json.loads(analyse(*CASES["one picture"], settings=AnalysisSettings(draws=0)).to_json())
    plain["olrp"]["iou"] = "HERE"
    with pytest.raises(DataError, match="no analysis"):
        Analysis.from_json(json.dumps(plain).replace('"HERE"', number))
