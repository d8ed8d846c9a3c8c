"""The whole analysis: its parts fit together, and it is plain data."""

import json

import numpy as np
import pytest

from metric_cases import found, known
from onestage.analysis import Analysis, AnalysisSettings, analyse
from onestage.analysis.reach import Overlaps
from onestage.errors import ConfigError, DataError

CAT, DOG = (10, 10, 60, 60), (100, 100, 160, 160)


def small() -> Analysis:
    detections = [found(7, [(0, 0.99, *CAT), (0, 0.98, *DOG)]), found("b", [(1, 0.2, *CAT)])]
    truths = [known(7, [(0, *CAT), (1, *DOG)]), known("b")]
    settings = AnalysisSettings(draws=20, calibrate="temperature")
    overlaps = {7: Overlaps(np.array([[0.2], [0.6]]), np.array([True, False]))}
    return analyse(detections, truths, ["cat", "dog"], settings=settings, brightness={7: (3.0, 4.0)}, overlaps=overlaps)


def test_every_part_is_there_and_json_gives_the_same_back() -> None:
    result = small()
    assert result.errors and [p.found for p in result.errors.pictures] == ["TC", "B"]
    assert None not in vars(result).values()
    assert result.slices and result.thresholds and result.slices.score == result.thresholds.overall.score.value
    text = result.to_json()
    assert Analysis.from_json(text).to_json() == text
    assert Analysis.from_json(text).errors == result.errors


def test_without_pictures_and_classes_it_is_empty() -> None:
    assert Analysis.from_json(analyse([], [], [], settings=AnalysisSettings(draws=2)).to_json()).losses == ()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["cat", 3]},
        {"errors": {"iou": 0.5}},
        {"confusion": {"classes": [], "score": "high", "iou": 0.5, "cells": []}},
        {"another": None},
        {"losses": {"a": 1}},
    ],
)
def test_other_content_is_refused_with_its_place(change: dict[str, object]) -> None:
    content = {**json.loads(small().to_json()), **change}
    with pytest.raises(DataError) as caught:
        Analysis.from_json(json.dumps(content))
    assert caught.value.where.startswith("Analysis")


@pytest.mark.parametrize("text", ["", "[1", "[]", "null", '{"errors": null}', "[" * 100_000])
def test_what_is_no_analysis_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="analysis"):
        Analysis.from_json(text)


def test_a_part_that_an_older_file_lacks_is_none() -> None:
    assert Analysis.from_json('{"classes": ["cat"]}') == Analysis(("cat",))


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"score": 2}, {"sure": -1}):
        with pytest.raises(ConfigError):
            AnalysisSettings(**settings)
