"""What a run tells beside its monitor: advice, its page, and a logger.

Nothing here changes the training, and no fault here ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from onestage.data import Dataset
from onestage.structures import Detections
from onestage.training.advice import ClassCount, Facts, all_advice, new_advice
from onestage.training.coverage import Coverage, coverage_of
from onestage.training.examples import Examples
from onestage.training.folder import draw_history
from onestage.training.loggers import LOGGERS, Logger
from onestage.training.monitor import Monitor
from onestage.training.page import save_page, settings_of
from onestage.training.run import Run
from onestage.training.state import RunState

SHARE = 0.05
"""The largest part of the time that drawing may take; then the page waits."""
COST = 0.3
"""Seconds that the first drawing takes, before it is known."""


class Journal:
    """The advice, the page and the logger of a run. Of several processes, only the first one has them."""

    def __init__(self, run: Run, state: RunState, monitor: Monitor) -> None:
        self.run, self.state, self.monitor = run, state, monitor
        self.facts = facts_of(run)
        self.given = all_advice(state.history, self.facts)
        self.examples = Examples(run.val, run.folder)
        self.found: Mapping[int | str, Detections] = {}
        make = LOGGERS.get(run.config.log or "none") if run.group.is_main else None
        self.logger = None if make is None else make(run.folder, state.step)
        self._step = 0
        self._failed: set[str] = set()
        self._stale = False
        self._cost, self._drawn = COST, time.monotonic()

    @cached_property
    def coverage(self) -> Coverage:
        """The training objects that some anchor reaches."""
        return coverage_of(self.run.model, self.run.data.train)

    def start(self) -> None:
        """Say what is known before the first step, and draw the page. A run that goes on has said it already."""
        if self.run.group.is_main:
            if self.state.step == 0:
                self._say(len(self.given))
            self._log(lambda logger: logger.start(settings_of(self.run)))
            self._draw()

    def measured(self, found: Sequence[Detections]) -> None:
        """Keep what was found in the few pictures that are shown."""
        self.found, self._step = self.examples.few(found), self.state.step

    def epoch(self, run: Run) -> None:
        """Give new advice on the history, and draw the page if that takes a small part of the time. run: as it is now, since
        its number of steps may have been changed.
        """
        self.run = run
        if not self.run.group.is_main:
            return
        new = new_advice(self.state.history, self.facts, self.given)
        self.given += new
        self._say(len(new))
        row = self.state.history[-1]
        shown = self.found if row["step"] == self._step else {}  # those of an earlier measurement are logged already
        self._log(lambda logger: logger.record(row, self.examples.drawn(shown)))
        self._stale = True
        if time.monotonic() - self._drawn >= self._cost / SHARE:
            self._draw()

    def close(self) -> None:
        """Bring the page up to date, and end the logger run."""
        if self._stale:
            self._draw()
        if self.run.group.is_main:
            self._log(lambda logger: logger.close())

    def _log(self, action: Callable[[Logger], None]) -> None:
        """Tell the logger, if there is one. After a fault there is none any more."""
        logger = self.logger
        if logger is not None and not self._try(f"the log to {self.run.config.log}", lambda: action(logger)):
            self.logger = None

    def _say(self, count: int) -> None:
        for advice in self.given[len(self.given) - count :]:
            self.monitor.say(f"advice: {advice.text}")

    def _draw(self) -> None:
        begun = time.monotonic()
        self._try("the page of the run", self._draw_all)
        self._drawn = time.monotonic()
        self._cost, self._stale = self._drawn - begun, False

    def _draw_all(self) -> None:
        run, history = self.run, self.state.history
        if history:
            draw_history(run.folder, history)
        if self.found:
            epochs = {int(row["step"]): row["epoch"] for row in history}
            self.examples.save(self._step, self.examples.drawn(self.found), epochs=epochs)
            self.found = {}
        save_page(run, self.state, advice=self.given, facts=self.facts, examples=self.examples, coverage=self.coverage)

    def _try(self, what: str, action: Callable[[], None]) -> bool:
        """Do it. If it fails, say so, once. Return whether it was done."""
        try:
            action()
            return True
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                reason = str(error).partition("\n")[0] or type(error).__name__
                self.monitor.say(f"{what} cannot be written: {reason}; the training goes on")
            return False


def facts_of(run: Run) -> Facts:
    """What advice depends on besides the history."""
    train, val = (objects_of(data) for data in (run.data.train, run.data.val))
    steps = len(run.loader)
    return Facts(
        classes=tuple(map(ClassCount, run.data.train.classes, train, val)),
        epochs=run.steps / steps,
        warmup=min(run.config.warmup, run.steps // 10) / steps,
        lr=run.config.peak_lr,
        threads=torch.get_num_threads(),
        busy=busy_processors(),
    )


def objects_of(data: Dataset) -> list[int]:
    """The number of objects of each class, without crowds and ignored objects."""
    counted = ~(data.ignore | data.crowd)
    return torch.bincount(data.labels[counted], minlength=len(data.classes)).tolist()


def busy_processors(readings: int = 3) -> float:
    """The share of this machine's processors that other programs use, 0..1; NaN if the system does not say.

    It counts the threads that can run right now: what has ended does not count, as it does in the load average.
    """
    running = []
    try:
        for _ in range(readings):
            running.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
            time.sleep(0.005)
    except (OSError, ValueError, IndexError):
        return float("nan")
    return min(1.0, max(0, min(running)) / (os.cpu_count() or 1))
