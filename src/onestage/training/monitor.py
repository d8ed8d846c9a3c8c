"""What a person sees of a training while it runs: a live line on a terminal, a line per epoch in a log file."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onestage.training.config import TrainConfig


class Monitor:
    """Shows loss parts, pictures per second, time left and the last AP; nothing in processes that are not ``shown``."""

    def __init__(self, config: TrainConfig, *, steps_per_epoch: int, done: int, shown: bool) -> None:
        """done: steps that an interrupted training had behind it."""
        self.console = Console(quiet=not shown)
        self.epochs = config.epochs
        self._ap = ""
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        live = shown and self.console.is_terminal
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not live, speed_estimate_period=120)
        total = config.epochs * steps_per_epoch
        self._all: TaskID = self._progress.add_task("train", total=total, completed=done, text="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays, and stays whole: commands are copied from it."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, epoch: int, losses: Mapping[str, float], rate: float) -> None:
        """After an optimiser step: ``step`` of the whole training, means of the losses in this epoch, pictures per second."""
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        text = f"loss {sum(losses.values()):.3f} ({parts})  {rate:.1f} img/s{self._ap}"
        self._progress.update(self._all, completed=step, description=f"epoch {epoch + 1}/{self.epochs}", text=text)

    def validating(self, done: int, total: int) -> None:
        self._progress.update(self._all, text=f"validating {done}/{total} pictures{self._ap}")

    def epoch(self, record: Mapping[str, float]) -> None:
        """After an epoch: a line with what it brought."""
        if "val/AP" in record:
            self._ap = f"  AP {record['val/AP']:.3f}"
        names = {
            "loss": "loss",
            "loss/cls": "cls",
            "loss/box": "box",
            "val/loss": "val loss",
            "val/AP": "AP",
            "val/AP50": "AP50",
        }
        shown = "  ".join(f"{label} {record[name]:.3f}" for name, label in names.items() if name in record)
        self.say(
            f"epoch {record['epoch']:>3}/{self.epochs}  {shown}  {record['images_per_s']:.1f} img/s  {record['seconds']:.0f} s"
        )
