"""What a person sees of a training."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from onestage.training import monitor
from onestage.training.loop import resume, train
from onestage.training.monitor import Monitor, TerminalMonitor
from onestage.training.rules import Decision
from small_runs import CONFIG, detector, write_pictures

RECORD = {
    "epoch": 2,
    "step": 6,
    "loss": 1.5,
    "loss/cls": 1.0,
    "loss/box": 0.5,
    "images_per_s": 12.34,
    "seconds": 61.0,
    "lr": 0.1,
}


@contextmanager
def showing(seen: Monitor, *, done: int = 0) -> Iterator[Monitor]:
    """As the loop does it, for 3 epochs of 3 steps."""
    seen.start(epochs=3, steps=9, done=done)
    try:
        yield seen
    finally:
        seen.close()


def test_a_log_gets_a_line_per_epoch_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(TerminalMonitor()) as seen:
        seen.step(1, 0, {"cls": 1.0, "box": 0.5}, 10.0)
        seen.validating(1, 2)
        seen.epoch(RECORD)
        seen.epoch(RECORD | {"epoch": 3, "val/loss": 2.0, "val/AP": 0.25, "val/AP50": float("nan")})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch   2/3  loss 1.500  cls 1.000  box 0.500  12.3 img/s  61 s",
        "epoch   3/3  loss 1.500  cls 1.000  box 0.500  val loss 2.000  AP 0.250  AP50 nan  12.3 img/s  61 s",
    ]


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    time = 0.0
    monkeypatch.setattr(monitor.clock, "now", lambda: time)
    seen = TerminalMonitor()
    seen.start(epochs=2, steps=100, done=0)
    for step in range(1, 32):
        time += 2.0
        seen.step(step, 0, {"cls": 1.0, "box": 0.5}, 10.0)
    time += 31.0
    seen.validating(5, 9)
    assert capsys.readouterr().out.splitlines() == [
        "3 min for the 85 steps that are left, at the speed of the first ones",
        "step 30/100  epoch 1/2  loss 1.500 (cls 1.000 box 0.500)  10.0 img/s  2 min left",
        "step 31/100  validating 5/9 pictures  3 min left",
    ]


def test_the_last_step_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    time = 0.0
    monkeypatch.setattr(monitor.clock, "now", lambda: time)
    seen = TerminalMonitor()
    seen.start(epochs=1, steps=2, done=0)
    time += 90.0
    seen.step(1, 0, {"cls": 1.0}, 0.1)
    assert "90 s for the step that is left, at the speed of the first ones" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_decisions_are_options_as_they_are_typed(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    recipe = "--lr 0.001 --warmup 100 --ema 0.998 --fused --decoder fast --augment-with mosaic=0.5"
    start = Decision(
        "start", "fresh weights", "fresh weights; --weights auto fetches retinanet_resnet50_fpn_v2", "--weights none"
    )
    TerminalMonitor().decided([start, Decision("recipe", "", "suits the SSD family", recipe), Decision("x", "7", "so")])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[1:])) <= min(width, monitor.WIDTH) and "…" not in said and "x 7" in said
    for option in (f"--{part}" for part in recipe.removeprefix("--").split(" --")):
        assert any(f" {option} " in line for line in said.splitlines()), option


def test_a_plain_monitor_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(Monitor()) as seen:
        seen.step(1, 0, {"cls": 1.0}, 10.0)
        seen.validating(1, 2)
        seen.epoch(RECORD)
        seen.say("hello")
    assert capsys.readouterr() == ("", "")


def test_a_line_is_never_broken_nor_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "onestage train --resume '/data/[bold]my runs" + "/deeper" * 30 + "'"
    with showing(TerminalMonitor()) as seen:
        seen.say(text)
    assert capsys.readouterr().out == text + "\n"


def test_the_live_line_says_losses_speed_and_the_last_ap(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    make = lambda **options: Console(**options, file=screen, force_terminal=True, width=160, color_system=None)  # noqa: E731
    monkeypatch.setattr(monitor, "Terminal", make)
    with showing(TerminalMonitor(), done=2) as seen:
        assert seen._bar.tasks[0].completed == 2  # what an earlier process did is not this one's speed
        seen.epoch(RECORD | {"val/AP": 0.25})
        seen.step(5, 1, {"cls": 1.0, "box": 0.5}, 10.0)
        seen._bar.refresh()
        shown = screen.getvalue()
        seen.validating(3, 7)
        seen._bar.refresh()
    assert "epoch 2/3" in shown and "5/9" in shown and "loss 1.500 (cls 1.000 box 0.500)  10.0 img/s  AP 0.250" in shown
    assert "validating 3/7 pictures" in screen.getvalue()


@pytest.mark.parametrize("width", [80, 104, 105, 129, 130, 160])
def test_the_live_line_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps and the time that is left are never cut off."""
    screen = io.StringIO()
    make = lambda **options: Console(**options, file=screen, force_terminal=True, width=width, color_system=None)  # noqa: E731
    monkeypatch.setattr(monitor, "Terminal", make)
    seen = TerminalMonitor()
    seen.start(epochs=100, steps=71200, done=0)
    seen.epoch(RECORD | {"val/AP": 0.25})
    seen.step(10000, 11, {"cls": 11.0, "box": 10.5}, 106.0)
    seen._bar.refresh()
    seen.close()
    line = screen.getvalue().rpartition("epoch 12/100")[2]
    assert "10000/71200 loss 21.500" in line and "106.0 img/s  AP 0.250" in line and " left " in line and "…" not in line


class Notes(Monitor):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        self.seen.append(f"start {epochs} {steps} {done}")

    def say(self, text: str) -> None:
        self.seen.append(f"say {text.split()[0]}")

    def step(self, step: int, epoch: int, losses: Mapping[str, float], rate: float) -> None:
        assert losses.keys() == {"cls", "box"} and rate > 0
        self.seen.append(f"step {step} {epoch}")

    def validating(self, done: int, total: int) -> None:
        self.seen.append(f"validating {done} {total}")

    def epoch(self, record: Mapping[str, float]) -> None:
        self.seen.append(f"epoch {record['epoch']}")

    def close(self) -> None:
        self.seen.append("close")


def test_a_monitor_that_is_handed_in_gets_all_there_is_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "data")
    notes, config = Notes(), replace(CONFIG, epochs=1)
    train(detector(), data, out=tmp_path / "run", config=config, monitor=notes)
    steps = ["step 1 0", "step 2 0", "step 3 0"]
    assert notes.seen == [
        "say tinyssd",
        "say learning",
        "say anchors",
        "start 1 3 0",
        "say advice:",
        *steps,
        "validating 3 3",
        "epoch 1",
        "close",
    ]
    again = Notes()
    resume(tmp_path / "run", monitor=again)
    assert again.seen == ["say this", "start 1 3 3", "close"]
    assert capsys.readouterr() == ("", "")
