"""What a run tells beside its monitor: advice, its page, and a logger.

Nothing here changes the training, and no fault here ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from onestage.data.tallies import objects_of, pictures_with
from onestage.structures import Detections
from onestage.training.advice import Advice, ClassCount, Facts, all_advice, new_advice
from onestage.training.coverage import Coverage, coverage_of
from onestage.training.examples import Examples
from onestage.training.folder import draw_history
from onestage.training.loggers import LOGGERS, Logger
from onestage.training.monitor import Monitor
from onestage.training.other_work import OtherWork
from onestage.training.page import save_page, settings_of
from onestage.training.run import Run
from onestage.training.state import RunState

SHARE = 0.05
"""The largest part of the time that drawing may take; then the page waits."""
COST = 0.3
"""Seconds that the first drawing takes, before it is known."""


class Journal:
    """The advice, the page and the logger of a run. Of several processes, only the first one has them."""

    facts: Facts
    examples: Examples

    def __init__(self, run: Run, state: RunState, monitor: Monitor) -> None:
        self.run, self.state, self.monitor = run, state, monitor
        self.given: list[Advice] = []
        self.found: Mapping[int | str, Detections] = {}
        make = LOGGERS.get(run.config.log or "none") if run.group.is_main else None
        self.logger: Logger | None = None
        self._asked = None if make is None else make(run.folder, state.step)
        self._others: OtherWork | None = None
        self._step = 0
        self._failed: set[str] = set()
        self._stale = False
        self._cost, self._drawn = COST, time.monotonic()

    @cached_property
    def coverage(self) -> Coverage:
        """The training objects that some anchor reaches."""
        return coverage_of(self.run.model, self.run.data.train)

    def start(self, run: Run, state: RunState) -> None:
        """Say what is known before the first step, and draw the page. A run that goes on has said it already. run: as it is
        now, since its number of steps may have been found after the journal was begun.
        """
        self.run, self.state = run, state
        self.examples = Examples(run.val, run.folder)
        if not run.group.is_main:
            return
        self.facts = facts_of(run, self.coverage)
        self.given = all_advice(state.history, self.facts)
        if state.step == 0:
            self._say(len(self.given))
        self.logger = self._asked
        self._log(lambda logger: logger.start(settings_of(run)))
        self._draw()
        self._others = OtherWork(os.getppid() if run.group.world > 1 else os.getpid())  # torchrun's other processes are ours

    def step(self) -> None:
        """Look at what else runs on this machine, once it has been watched for some seconds."""
        if self._others is None or (busy := self._others.share()) is None:
            return
        self._others, self.facts = None, replace(self.facts, busy=busy)
        self._advise()

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
        self._advise()
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

    def _advise(self) -> None:
        """Give the advice that is new."""
        new = new_advice(self.state.history, self.facts, self.given)
        self.given += new
        self._say(len(new))

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


def facts_of(run: Run, coverage: Coverage) -> Facts:
    """What advice depends on besides the history."""
    train, val = (objects_of(data) for data in (run.data.train, run.data.val))
    each = [objects / max(1, shown) for objects, shown in zip(train, pictures_with(run.data.train), strict=True)]
    steps = len(run.loader)
    return Facts(
        classes=tuple(map(ClassCount, run.data.train.classes, train, val, (max(1.0, share) for share in each))),
        epochs=run.steps / steps,
        warmup=min(run.config.warmup, run.steps // 10) / steps,
        lr=run.config.peak_lr,
        threads=torch.get_num_threads(),
        larger=coverage.larger,
        doctor=run.data.train.doctor,
    )
