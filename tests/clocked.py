"""Trainings of some minutes: by a clock that is not real but moves with the work alone, and by the plan that one has found."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from onestage.model.detector import Detector
from onestage.training import clock, loop, rehearsal
from onestage.training import folder as run_folder
from onestage.training.checkpoint import CheckpointStore
from onestage.training.config import FITTED
from onestage.training.folder import CONFIG, Plan
from onestage.training.loop import Training, resume, train
from small_runs import finished

SLOW = 3.0
"""How much slower the machine becomes in some tests."""


class Machine:
    """A machine on a clock that only moves with its work: a step takes ``step`` seconds, a validation picture 0.1, a save 0.2.

    slower_at: the time from which on everything takes ``slow`` times as long. real: steps train and
    measurements measure, and do not only take time.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, step: float, slower_at: float = 1e9, slow: float = SLOW, real: bool = False
    ) -> None:
        self.time, self.slower_at, self.slow = 0.0, slower_at, slow
        self.reports: list[Any] = []
        inner, save, measure = loop.take_step, CheckpointStore.save, loop.evaluate_dataset

        def take_step(*arguments: Any) -> None:
            self.work(step)
            if real:
                inner(*arguments)
            else:
                arguments[-1].state.add({"cls": 1.0, "box": 1.0})  # of the checks

        def saved(*arguments: Any, **options: Any) -> Path:
            self.work(0.2)
            return save(*arguments, **options)

        def measured(model: Any, data: Any, **options: Any) -> Any:
            self.work(0.1 * len(data))
            if real:
                return measure(model, data, **options)
            self.reports = self.reports or [measure(model, data.subset(range(1)), **options)]
            return self.reports[0]

        monkeypatch.setattr(clock, "now", lambda: self.time)
        monkeypatch.setattr(CheckpointStore, "save", saved)
        for module in (loop, rehearsal):
            monkeypatch.setattr(module, "take_step", take_step)
            monkeypatch.setattr(module, "evaluate_dataset", measured)
        monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)

    def work(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds * (self.slow if self.time >= self.slower_at else 1)


def undisturbed(run: Path, model: Detector, data: Path, *, out: Path) -> Path:
    """The plan of the run of some minutes in a folder, trained from the beginning to the end, however long it takes. model: as
    that run began.
    """
    config = replace(Plan.load(run).train, **dict.fromkeys(FITTED))
    with patch.object(rehearsal, "take_step", lambda *given: setattr(given[-1], "asked", True)):
        assert train(model, data, out=out, config=config).interrupted  # before it has found a length
    shutil.copy(run / CONFIG, out)
    with patch.object(Training, "_keep_to_time", lambda *_: None), patch.object(run_folder, "plot_training_curves"):
        return finished(resume(out))
