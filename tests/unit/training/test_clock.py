"""A training of a number of minutes keeps to them, whatever the machine does, and its plan says how. The clock is not real."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clocked import Machine, undisturbed
from onestage.errors import ConfigError, DataError
from onestage.training import rehearsal
from onestage.training.clock import Costs, Length, Pace, length_for
from onestage.training.folder import Plan
from onestage.training.history import Change, place_on_curve, with_steps
from onestage.training.loop import TrainResult, train
from small_runs import CONFIG, detector, metrics, pictures, same_bits, together, write_pictures


def went(out: Path, minutes: float, count: int = 12) -> TrainResult:
    config = replace(CONFIG, epochs=100, minutes=minutes, augment="none")
    return train(detector(), pictures(count), out=out, config=config)


@pytest.mark.parametrize(
    ("step", "minutes", "count", "epochs", "measured"),
    [(0.5, 1, 12, 55, 20), (20.0, 3, 100, 0.3, 8)],  # many epochs; less than one
)
def test_it_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float, minutes: float, count: int, epochs: float, measured: int
) -> None:
    machine = Machine(monkeypatch, step=step)
    went(tmp_path, minutes, count)
    assert 0.9 * 60 * minutes <= machine.time <= 60 * minutes
    plan, rows = Plan.load(tmp_path), metrics(tmp_path)
    assert plan.history == () and plan.train.minutes == minutes and plan.train.steps == rows[-1]["step"]
    assert rows[-1]["epoch"] == pytest.approx(epochs, rel=0.5) and 1 <= len(rows) <= measured and "val/AP" in rows[-1]


@pytest.mark.parametrize("slower_at", [10.0, 52.0])
def test_a_machine_that_becomes_slower_cuts_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower_at: float) -> None:
    machine = Machine(monkeypatch, step=0.5, slower_at=slower_at)
    went(tmp_path, 1)
    assert 54 <= machine.time <= 66
    plan = Plan.load(tmp_path)
    assert [change.what for change in plan.history] == ["steps"] and plan.history[0].after == plan.train.steps
    assert plan.history[0].before > plan.history[0].after > plan.history[0].step  # type: ignore[operator]
    last = metrics(tmp_path)[-1]
    assert last["step"] == plan.train.steps and "val/AP" in last


def test_the_rehearsal_leaves_no_trace_and_a_cut_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pictures(tmp_path / "data")
    Machine(monkeypatch, step=0.5, slower_at=5.0, real=True)
    config = replace(CONFIG, epochs=100, minutes=0.25, clean=0.3, augment_with=("mosaic=0.5",))
    train(detector(), data, out=tmp_path / "run", config=config)
    assert len(Plan.load(tmp_path / "run").history) == 1
    Machine(monkeypatch, step=0.01, real=True)
    assert same_bits(tmp_path / "run", undisturbed(tmp_path / "run", detector(), data, out=tmp_path / "again"))


def went_in_two(data: Path, out: Path) -> None:
    """To the second process, everything takes twice as long."""
    with pytest.MonkeyPatch.context() as patch:
        Machine(patch, step=0.5 * (1 + int(os.environ["RANK"])), slower_at=5.0, real=True)
        train(detector(), data, out=out, config=replace(CONFIG, epochs=100, minutes=0.25, augment="none"))


@pytest.mark.slow
def test_several_processes_keep_to_the_clock_of_the_first(tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "data"), tmp_path / "run"
    with together(went_in_two, data, out, log=tmp_path / "log"):
        pass
    plan, last = Plan.load(out), metrics(out)[-1]
    assert [change.what for change in plan.history] == ["steps"] and last["step"] == plan.train.steps
    assert "val/AP" in last and (tmp_path / "log").read_text().count("fit: a step takes 0.5 s") == 1


def test_a_run_that_ends_before_its_length_is_known_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, step=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(rehearsal, "take_step", lambda *given: setattr(given[-1], "asked", True))
        assert went(tmp_path, 0.5).interrupted
    assert "stopped before the number of steps was known" in capsys.readouterr().out
    assert Plan.load(tmp_path).is_unfitted
    assert not went(tmp_path, 0.5).interrupted and "it begins again" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="already holds a run"):
        went(tmp_path, 0.5)


def test_a_picture_that_breaks_while_the_first_steps_are_timed_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, step=1.0)

    def broken(*given: Any) -> None:
        raise DataError("the picture is cut off", where="a.jpg", fix="mend it")

    with monkeypatch.context() as patch:
        patch.setattr(rehearsal, "take_step", broken)
        with pytest.raises(DataError, match="cut off"):
            went(tmp_path, 0.5)
    assert not went(tmp_path, 0.5).interrupted and "it begins again" in capsys.readouterr().out


def kept_to_time(steps: int, seconds: float, speed: Callable[[float], float], *, lap: int) -> tuple[int, int, float]:
    """Plan ``steps`` for 300 s. A step takes ``seconds`` times speed(time); a measurement after every ``lap`` steps takes 3 s.

    Return the steps that were taken, how often their number was changed, and when it all ended.
    """
    pace, elapsed, step, changes = Pace(300.0), 0.0, 0, 0
    while step < steps:
        step, taken = step + 1, seconds * speed(elapsed)
        elapsed += taken + (3.0 if step % lap == 0 else 0.0)
        pace.add(taken)
        fitting = pace.fitting(step, steps, elapsed=elapsed, lap=lap, overhead=3.0)
        steps, changes = fitting, changes + (fitting != steps)
    return steps, changes, elapsed + 3


@pytest.mark.parametrize("slower", [lambda time: 1 + max(0.0, time - 100) / 300, lambda time: 1.0 if time < 160 else 1.45])
def test_one_cut_is_enough_for_a_machine_that_goes_on_becoming_slower(slower: Callable[[float], float]) -> None:
    steps, changes, end = kept_to_time(55, 4.5, slower, lap=6)
    assert steps < 55 and changes == 1 and 280 < end < 312


@pytest.mark.parametrize(
    "faster", [lambda time: 0.6, lambda time: 1.0 if time < 120 else 0.7, lambda time: 1.0 - time / 1000, lambda time: 0.2]
)
def test_a_machine_that_becomes_faster_trains_longer(faster: Callable[[float], float]) -> None:
    """One change is enough: it ends neither late nor more than a tenth too early."""
    steps, changes, end = kept_to_time(550, 0.5, faster, lap=60)
    assert steps > 550 and changes == 1 and 270 < end < 312


def test_a_cut_before_an_earlier_one_takes_its_place() -> None:
    """The run went on from a checkpoint before the first cut."""
    changes = with_steps(with_steps((), 80, 200, 150), 60, 150, 120)
    assert changes == (Change(60, "steps", 200, 120),)
    assert place_on_curve(60, 120, changes) == (60, 200) and place_on_curve(120, 120, changes) == pytest.approx((200, 200))
    assert with_steps((Change(9, "steps", 9, None),), 9, 300, 15) == (Change(9, "steps", 9, 15),)  # it had found no length


def test_a_slow_first_step_does_not_tell_the_speed() -> None:
    assert not rehearsal._is_steady([60.0], budget=600)  # as with compile=
    assert rehearsal._is_steady([60.0, 25.0], budget=600) and rehearsal._is_steady([200.0], budget=600)


def test_a_step_in_which_the_program_was_stopped_does_not_tell_the_speed() -> None:
    taken = [2.0, 1.0, 1.0, 1.0]
    assert not rehearsal._is_steady([*taken, 60.0], 600)
    taken = [*taken, 60.0, *[1.0] * 8]
    assert rehearsal._is_steady([*taken, *[1.0] * 14], 600) and rehearsal._usual_seconds(taken) == 1


def test_measurements_take_a_tenth_of_the_time() -> None:
    costs = Costs(step=1.0, picture=0.1, save=1.0)
    assert length_for(600, costs, epoch=10, pictures=10) == Length(543, 20, 10)  # 27 of them, 2 s each
    assert length_for(600, costs, epoch=1000, pictures=10) == Length(578, 60, 10)  # ten in less than an epoch
    assert length_for(600, costs, epoch=10, pictures=100_000).evaluate_pictures == 600  # more would take longer
    assert length_for(1, costs, epoch=10, pictures=10) == Length(1, 1, 1)
    assert length_for(60, costs, epoch=10, pictures=500, fixed=True).evaluate_pictures == 500  # of a search: the same for all
