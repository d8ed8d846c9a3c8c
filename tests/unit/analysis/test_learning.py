"""What twice as many pictures would bring, from three trainings: against power laws, and with detections made for it."""

import numpy as np
import pytest

from metric_cases import found, known
from onestage.analysis.learning import LearningCurve, gain_of_doubling, learning_curve
from onestage.analysis.plain import from_plain, to_plain
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate

BOX = (10, 10, 60, 60)


@pytest.mark.parametrize("power", [0.1, 0.5, 2.0])
def test_a_power_law_goes_on(power: float) -> None:
    ap = 0.7 - 0.9 * np.array([100.0, 200, 400, 800]) ** -power
    assert gain_of_doubling(ap[None, :3])[0] == pytest.approx(ap[3] - ap[2])


def test_what_follows_no_power_law() -> None:
    curves = np.array([[0.3, 0.4, 0.4], [0.3, 0.4, 0.3], [0.3, 0.4, 0.6], [0.4, 0.3, 0.35], [0.2, 0.2, 0.2]])
    assert gain_of_doubling(curves) == pytest.approx([0, 0, 0.2, 0.05, 0])


def curve(pictures: int, hits: tuple[int, int, int], draws: int = 100) -> LearningCurve:
    """Of so many pictures with an object each, the three trainings find the first so many."""
    truths = [known(i, [(0, *BOX)]) for i in range(pictures)]
    trained = []
    for n, count in zip((25, 50, 100), hits, strict=True):
        detections = [found(i, [(0, 0.9, *BOX)] if i < count else []) for i in range(pictures)]
        trained.append((n, match(tabulate(detections, truths, ["cat"]))))
    return learning_curve(trained, minutes=3, draws=draws)


def test_a_rise_that_goes_on() -> None:
    result = curve(60, (12, 30, 42))
    assert [point.pictures for point in result.points] == [25, 50, 100]
    assert [point.AP.value for point in result.points] == pytest.approx([0.2, 0.5, 0.7], abs=0.02)
    assert result.gain.value == pytest.approx(0.2 * 0.2 / 0.3, abs=0.02)
    assert result.doubled.value == pytest.approx(result.points[2].AP.value + result.gain.value)
    assert result.answer == "helps" and result.rise.low > 0 and result.steady > 0.7
    assert result.gain.low < result.gain.value < result.gain.high
    assert from_plain(LearningCurve, to_plain(result)) == result


def test_no_rise_and_too_few_pictures() -> None:
    assert curve(60, (12, 30, 30)).answer == "little"
    assert curve(4, (1, 2, 3)).answer == "unknown"
    assert curve(60, (12, 30, 42), draws=0).answer == "unknown"
