"""The progress of a training for a person: a live line on a terminal, a line per epoch in a log file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from onestage.console import Terminal, words
from onestage.structures import Detections
from onestage.training import clock
from onestage.training.clock import Costs
from onestage.training.rules import Decision

WIDTH = 100
"""Characters per line of the table of decisions, at most."""
OPTIONS = 38
"""Characters per line of its options, unless one alone is longer."""

WAITING = 0.05
"""The share of the time spent waiting for pictures from which it is said."""


class Monitor:
    """The receiver of the training loop's reports. This class shows nothing: override the methods that you need.

    Of several processes, only the first one reports to the monitor that ``train`` was given.
    """

    def start(self, *, epochs: float, steps: int, done: int) -> None:
        """The training begins: of so many epochs and steps in all; the last epoch may be a part of one. done: steps that an
        earlier process has taken.
        """

    def say(self, text: str) -> None:
        """A line for people, such as a summary of the training, or the command that resumes it. It may come before
        ``start``.
        """

    def decided(self, decisions: Sequence[Decision]) -> None:
        """What the rules decided for a new run, and why."""

    def timed(self, costs: Costs, left: float) -> None:
        """What steps, measured pictures and checkpoints cost, in a training of a number of minutes. left: seconds for them."""

    def measured(self, found: Sequence[Detections]) -> None:
        """What was found in the validation pictures, in their order. The figures come with ``epoch``."""

    def step(self, step: int, epoch: int, losses: Mapping[str, float], rate: float) -> None:
        """An optimiser step is done. step: counts from 1 over the whole training. epoch: counts from 0. losses: their means in
        this epoch. rate: pictures per second.
        """

    def validating(self, done: int, total: int) -> None:
        """``done`` of ``total`` validation pictures are measured."""

    def epoch(self, record: Mapping[str, float]) -> None:
        """An epoch is done. record: its row of metrics.jsonl, and class/NAME: the AP of each class."""

    def close(self) -> None:
        """The training has ended, or an error has stopped it."""


EVERY = 30.0
"""Seconds between two lines of a log, at most, unless one step takes longer."""
KNOWN = (20, 30.0)
"""Steps, or seconds, after which it is said how long the rest will take."""
WORTH = 60.0
"""Seconds of a rest that is worth a line."""
ROOMY, WIDE = 105, 130
"""Characters per line. With fewer than the first the bar is short, and the time that has passed is left out; with fewer than
the second only the sum of the losses is shown.
"""


class TerminalMonitor(Monitor):
    """Show losses, pictures per second, time left and the last AP: as a bar on a terminal, as a line now and then in a log."""

    def __init__(self) -> None:
        self.console = Terminal()
        roomy = self.console.width >= ROOMY
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24 if roomy else 6), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"), *([TimeElapsedColumn()] if roomy else []), TextColumn("left"),
            TimeRemainingColumn(),
        )  # fmt: skip
        live = self.console.is_terminal
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not live, speed_estimate_period=120)
        self._task = self._bar.add_task("train", total=None, text="")
        self._epochs = 0.0
        self._ap = ""
        self._steps, self._first, self._done = 0, 0, 0
        self._begun = self._said = clock.now()
        self._told = False

    def start(self, *, epochs: float, steps: int, done: int) -> None:
        """Show the bar on a terminal."""
        self._epochs, self._steps, self._first, self._done = epochs, steps, done, done
        self._begun = clock.now()
        self._bar.update(self._task, total=steps)
        self._bar.reset(self._task, completed=done)
        self._bar.start()

    def say(self, text: str) -> None:
        """Print a line that stays and is never broken: people copy commands from it."""
        self.console.print(words(text, lines=True), soft_wrap=True)
        self._said = clock.now()

    def _now_and_then(self, text: str) -> None:
        """Print a line of a log if the last one is some time ago, with the time that is left."""
        if not self.console.is_terminal and clock.now() - self._said >= EVERY:
            self.say(f"step {self._done}/{self._steps}  {text}  {_time(self._left)} left")

    @property
    def _left(self) -> float:
        """Seconds until the end, by the speed since the start, measurements included."""
        done = self._done - self._first
        return math.nan if done < 1 else (clock.now() - self._begun) / done * (self._steps - self._done)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Print a row for each setting: the option as it would be typed, and the reason."""
        self.say("decided by rules; to change any of it, type the option with another value:")
        table = Table.grid("", Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
        for one in decisions:
            option = _packed(one.option) or f"{one.setting} {one.value}"
            table.add_row("", words((option, "cyan"), lines=True), words(one.reason))
        self.console.print(table, width=min(self.console.width, WIDTH))

    def step(self, step: int, epoch: int, losses: Mapping[str, float], rate: float) -> None:
        """Move the bar."""
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        each = f" ({parts})" if self.console.width >= WIDE or not self.console.is_terminal else ""
        text = f"loss {sum(losses.values()):.3f}{each}  {rate:.1f} img/s{self._ap}"
        self._bar.update(self._task, completed=step, description=f"epoch {epoch + 1}/{self._epochs}", text=text)
        self._done = step
        known = step - self._first >= KNOWN[0] or clock.now() - self._begun >= KNOWN[1]
        if known and not self._told and self._left >= WORTH:
            self._told = True
            rest = self._steps - step
            what = "step that is" if rest == 1 else f"{rest:,} steps that are"
            self.say(f"{_time(self._left)} for the {what} left, at the speed of the first ones")
        self._now_and_then(f"epoch {epoch + 1}/{self._epochs}  {text}")

    def validating(self, done: int, total: int) -> None:
        """Show the progress of the measurement beside the bar."""
        self._bar.update(self._task, text=f"validating {done}/{total} pictures{self._ap}")
        self._now_and_then(f"validating {done}/{total} pictures{self._ap}")

    def epoch(self, record: Mapping[str, float]) -> None:
        """Print a line with the results of the epoch."""
        if "val/AP" in record:
            self._ap = f"  AP {record['val/AP']:.3f}"
        labels = {
            "loss": "loss",
            "loss/cls": "cls",
            "loss/box": "box",
            "val/loss": "val loss",
            "val/AP": "AP",
            "val/AP50": "AP50",
        }
        shown = "  ".join(f"{label} {record[name]:.3f}" for name, label in labels.items() if name in record)
        rate, waiting = record["images_per_s"], record.get("waiting", 0.0)
        speed = "" if math.isnan(rate) else f"  {rate:.1f} img/s"  # a resumed run may have had no step left in the epoch
        if waiting > WAITING:
            speed += f"  {waiting:.0%} of the time waiting for pictures"
        self.say(f"epoch {record['epoch']:>3}/{self._epochs}  {shown}{speed}  {record['seconds']:.0f} s")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def _packed(options: str) -> str:
    """Options in lines of at most OPTIONS characters, each beside its value."""
    lines = [""]
    for option in options.split(" --"):
        text = option if option.startswith("--") or not option else f"--{option}"
        if lines[-1] and len(lines[-1]) + 1 + len(text) > OPTIONS:
            lines.append(text)
        else:
            lines[-1] = f"{lines[-1]} {text}".strip()
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if math.isnan(seconds):
        return "an unknown time"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
