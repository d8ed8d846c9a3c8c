"""What is done to scores: they become believable, stay in order, and are cut at the threshold of their class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onestage.analysis.calibration import Lines, Temperature
from onestage.errors import ConfigError
from onestage.model.output.scores import Scores
from onestage.structures import Detections

CLASSES = 3
HEAT = (0.05, 1.0, 3.0)
LINES = (((0.2, 0.5), (0.5, 0.75)), ((0.125, 0.0625),), ())
"""The first class has both: a temperature, and then lines."""


def detections(scores, labels):
    """Detections with these scores, best first, each at another place."""
    order = np.argsort(-np.float32(scores), kind="stable")
    count, label = len(order), torch.tensor(labels, dtype=torch.int64)[order]
    corner = torch.arange(count, dtype=torch.float32)[:, None].expand(-1, 2)
    names = tuple("abc"[k] for k in label.tolist())
    score = torch.tensor(scores, dtype=torch.float32)[order]
    return Detections(torch.cat([corner, corner + 1], 1), score, label, names, tuple(label.tolist()), (99, 99))


some = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, CLASSES - 1)), max_size=30)


@settings(max_examples=25)
@given(some)
def test_calibrated_scores_rise_in_each_class_and_come_best_first(rows):
    found = detections([score for score, _ in rows], [label for _, label in rows])
    changed = Scores((), HEAT, LINES).calibrated(found)
    assert len(changed) == len(found) and not bool((changed.scores.diff() > 0).any())
    assert changed.scores.dtype == torch.float32 and bool(changed.scores.isfinite().all())
    for label, heat in enumerate(HEAT):
        before, after = (one.select(one.labels == label) for one in (found, changed))
        assert before.boxes.equal(after.boxes) and before.class_names == after.class_names
        expected = Lines(LINES[label])(Temperature(heat)(before.scores.double().numpy()))
        assert np.allclose(after.scores.numpy(), expected, atol=1e-7)
    same = Scores(temperatures=(1.0,) * CLASSES).calibrated(found)
    assert same.scores.equal(found.scores)


@settings(max_examples=25)
@given(some, st.floats(0, 1))
def test_what_lies_below_the_score_before_calibration_does_not_reach_it(rows, score):
    scores = Scores((), HEAT, LINES)
    found = detections([score for score, _ in rows], [label for _, label in rows])
    cut = found.select(found.scores > scores.before(score))
    assert scores.reported(found, score).boxes.equal(scores.reported(cut, score).boxes)


def test_thresholds_keep_what_reaches_them_and_a_number_replaces_them():
    found = detections([0.9, 0.5, 0.4, 0.3], [0, 1, 1, 2])
    scores = Scores(thresholds=(0.95, 0.5, 0.0))
    assert scores.reported(found, None).labels.tolist() == [1, 2]
    assert scores.reported(found, 0.4).scores.tolist() == pytest.approx([0.9, 0.5])
    assert scores.calibrated(found) is found and scores.before(0.4) == 0.4
    assert Scores().reported(found, None) is found


def test_a_threshold_is_about_calibrated_scores():
    found = detections([0.7, 0.6], [0, 0])
    scores = Scores(temperatures=(0.5, 1, 1))
    after = scores.calibrated(found).scores
    assert after.tolist() == pytest.approx([0.8448, 0.6923], abs=1e-4)
    kept = Scores((float(after[1]), 1, 1), scores.temperatures).reported(found, None)
    assert kept.scores.equal(after)


def test_the_steepest_temperatures_give_numbers():
    found = detections([1.0, 1 - 1e-7, 0.5, 1e-30, 0.0], [0] * 5)
    for heat in (0.01, 100):
        changed = Scores(temperatures=(heat, 1, 1)).calibrated(found)
        assert bool(changed.scores.isfinite().all()) and changed.scores[[0, -1]].tolist() == [1, 0]


@pytest.mark.parametrize(
    "numbers",
    [{"thresholds": (0.5,)}, {"temperatures": (1.0, 1.0, 1.0, 1.0)}, {"thresholds": (0.5, 0.5, 0.5, 0.5)}, {"lines": ((), ())}],
)
def test_there_is_a_number_for_each_class(numbers):
    Scores((0.5,) * CLASSES, HEAT, LINES).check(CLASSES)
    Scores().check(CLASSES)
    with pytest.raises(ConfigError, match=r"one for each of the 3 classes"):
        Scores(**numbers).check(CLASSES)


@pytest.mark.parametrize("knots", [((0.5, 0.5), (0.5, 0.6)), ((0.2, 0.5), (0.3, 0.4))])
def test_lines_that_do_not_rise_are_refused(knots):
    with pytest.raises(ConfigError, match="rise"):
        Scores(lines=(knots, (), ())).check(CLASSES)


@pytest.mark.parametrize(
    "numbers", [{"thresholds": (1.5,)}, {"thresholds": (float("nan"),)}, {"temperatures": (0,)}, {"lines": (((0, 0.5),),)}]
)
def test_numbers_out_of_their_range_are_refused(numbers):
    with pytest.raises(ConfigError):
        Scores(**numbers)
