"""Trainings of a number of steps, and the curve of the learning rate where that number was changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import ConfigError
from onestage.training.config import TrainConfig
from onestage.training.history import STEPS, Change, last_part, place_on_curve
from onestage.training.loop import resume
from small_runs import CONFIG, metrics, run, run_stopped, same_bits

pytestmark = pytest.mark.usefixtures("no_curves")

BY_STEPS = replace(CONFIG, epochs=100, steps=7)
"""Two epochs of three steps, and a step."""


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"evaluate_every": 2}, [(1, 3, False), (2, 6, True), (2.33, 7, True)]),
        ({"evaluate_steps": 5}, [(1.67, 5, True), (2.33, 7, True)]),
    ],
)
def test_the_last_epoch_may_be_a_part_of_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, int], rows: list[tuple[float, int, bool]]
) -> None:
    run(data, tmp_path, replace(BY_STEPS, **changes))  # type: ignore[arg-type]
    assert [(row["epoch"], row["step"], "val/loss" in row) for row in metrics(tmp_path)] == rows
    said = capsys.readouterr().out
    assert f"{rows[-1][1]} steps ({rows[-1][0]} epochs), 4 pictures each" in said and f"/{rows[-1][0]}  loss" in said
    resume(tmp_path)
    assert f"complete already, after {rows[-1][1]} steps" in capsys.readouterr().out


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is measured every two steps, and that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(data, out, replace(BY_STEPS, evaluate_steps=2))
    return out


@pytest.mark.parametrize("stopped_at", [3, 4])
def test_a_run_by_steps_goes_on_with_the_same_bits(data: Path, whole: Path, tmp_path: Path, stopped_at: int) -> None:
    """At the end of an epoch, and at a measurement."""
    run_stopped(data, tmp_path, replace(BY_STEPS, evaluate_steps=2), step=stopped_at)
    assert not resume(tmp_path).interrupted
    assert same_bits(whole, tmp_path)


def test_one_setting_says_how_long(data: Path) -> None:
    for length in ({"steps": 5}, {"minutes": 1.5}):
        with pytest.raises(ConfigError, match="two settings say how long to train"):
            TrainConfig(epochs=3, **length)  # type: ignore[arg-type]
    assert TrainConfig(minutes=5, steps=7, evaluate_steps=3).options == ["--minutes 5"]  # the others follow from it


def test_the_rest_of_the_curve_fits_the_steps_that_are_left() -> None:
    cut = [Change(40, STEPS, 100, 70)]
    assert [place_on_curve(step, 70, cut) for step in (0, 40, 55, 70)] == [(0, 100), (40, 100), (70, 100), (100, 100)]
    again = [*cut, Change(55, STEPS, 70, 60)]
    assert [place_on_curve(step, 60, again) for step in (40, 55, 60)] == [(40, 100), (70, 100), (100, 100)]
    assert place_on_curve(50, 100, [Change(10, "lr", 0.1, 0.2)]) == (50, 100)
    assert [last_part(0.4, 70, cut), last_part(0.7, 70, cut), last_part(0.0, 70, cut)] == [50, 30, 70]
    assert [last_part(0.4, 60, again), last_part(0.2, 60, again), last_part(0.0, 60, again)] == [50, 57, 60]


@pytest.mark.parametrize("changes", [[(43, 55, 44)], [(40, 55, 44), (43, 44, 44)], [(20, 55, 44), (42, 44, 43)]])
def test_no_change_jumps_over_the_last_part(changes: list[tuple[int, int, int]]) -> None:
    after, history = changes[-1][-1], [Change(at, STEPS, before, after) for at, before, after in changes]
    for share in (0.02, 0.1, 0.2, 0.5):
        assert 0 < after - last_part(share, after, history) <= round(share * 55) + 1
    assert last_part(0.0, after, history) == after


def test_a_complete_run_that_goes_on_gets_a_new_curve() -> None:
    longer = [Change(100, STEPS, 100, 150)]
    assert [place_on_curve(step, 150, longer) for step in (99, 100, 125)] == [(99, 100), (0, 50), (25, 50)]
    assert [last_part(0.1, 150, longer), last_part(0.1, 100)] == [145, 90]
