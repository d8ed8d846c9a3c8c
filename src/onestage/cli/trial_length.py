"""How long the trials of a search are: the first steps are timed once, before the search begins."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from onestage.cli.output import tell
from onestage.cli.train import Prepared
from onestage.errors import ConfigError, counted
from onestage.training.clock import MEASURING, Costs, length_for
from onestage.training.loop import train
from onestage.training.monitor import Monitor
from onestage.training.rehearsal import FEW_STEPS
from onestage.tuning.study import TRIALS, Stopped

LEAST_PICTURES = 50
"""Validation pictures that measure every trial, if there are so many and though it takes more time than is usual."""
LEAST_TRIALS = 5
"""Fewer trials than these are hardly a search: the first has the default settings, and the next three are drawn at random."""
ROOM = 1.2
"""How much longer a trial is proposed to be than the steps need that it should have."""


class _TimedError(Exception):
    """The costs are known, which was all that was wanted of a training."""


class _Ear(Monitor):
    """Hears what the steps cost, and ends the training."""

    costs: Costs
    left: float

    def timed(self, costs: Costs, left: float) -> None:
        """Keep the costs and end."""
        self.costs, self.left = costs, left
        raise _TimedError


@dataclass(frozen=True)
class TrialLength:
    """What a trial of the default settings has: optimiser steps, and pictures that measure it."""

    steps: int
    pictures: int


def rehearsed(first: Prepared, out: Path, *, minutes: float, each: float, each_given: bool) -> TrialLength:
    """Time the first steps of a trial with the default settings, in the folder of the search, and forget them.

    minutes: of the search. each: of a trial. Raise ConfigError if a trial is too short to learn anything: it names options that
    help. Raise Stopped after a signal.
    """
    tell("the first steps of a trial are timed, to see how many fit into it")
    ear = _Ear()
    with _passing(out) as folder:
        try:
            train(first.model, first.pictures, out=folder, config=first.chosen, monitor=ear)
        except _TimedError:
            pass
        except ConfigError as error:
            if error.where == "minutes":
                error.where, error.fix = "--each", "a longer trial (--each), and more --minutes"
            raise
        else:
            raise Stopped
    length = length_of(ear.costs, ear.left, validation=len(first.pictures.val), epoch=_epoch(first))
    if length.steps < FEW_STEPS:
        raise _too_short(first, ear, length, minutes=minutes, each=each, each_given=each_given)
    _tell(first, ear.costs, length, minutes=minutes, each=each)
    return length


def length_of(costs: Costs, left: float, *, validation: int, epoch: int) -> TrialLength:
    """The length of a trial with ``left`` seconds. validation: pictures that there are. epoch: steps of one.

    As many pictures measure it as take a tenth of the time, but LEAST_PICTURES if there are so many.
    """
    fitting = int(MEASURING * left / costs.picture)
    pictures = max(1, min(validation, max(fitting, LEAST_PICTURES)))
    steps = length_for(left, costs, epoch=epoch, pictures=pictures, fixed=True).steps
    return TrialLength(steps, pictures)


def _epoch(first: Prepared) -> int:
    return max(1, len(first.pictures.train) // first.chosen.train.batch_size)


@contextmanager
def _passing(out: Path) -> Iterator[Path]:
    """A run folder that is removed in the end, and with it the folders that hold nothing else."""
    folder = out / TRIALS / f"rehearsal-{platform.node()}-{os.getpid()}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()
            out.rmdir()


def _too_short(
    first: Prepared, ear: _Ear, length: TrialLength, *, minutes: float, each: float, each_given: bool
) -> ConfigError:
    """The error for trials that are too short, with what helps."""
    costs, name = ear.costs, first.model.config.name
    other = 60 * each - ear.left  # until the first step of a trial
    measured = length.pictures * costs.picture + costs.save
    needed = _readable((other + ROOM * (FEW_STEPS * costs.step + 2 * measured)) / 60)
    if needed * LEAST_TRIALS <= minutes:
        longer = f"--each {needed:g}: {int(minutes / needed)} trials then fit into {minutes:g} min"
    else:
        longer = f"--minutes {_readable(10 * needed):g}" + (f" --each {needed:g}" if each_given else "")
    smaller = "" if name == "tinyssd" else "--model tinyssd, "
    return ConfigError(
        "a trial of this search is too short to learn anything, so its AP would say nothing",
        where="--each" if each_given else f"--minutes {minutes:g}",
        got=f"{counted(length.steps, 'step')} of {name} in {each:.3g} min: a step takes {costs.step:.2g} s",
        expected=f"at least {FEW_STEPS} steps",
        fix=f"{longer}; or a smaller model, input or batch: {smaller}--size, --batch-size",
    )


def _readable(minutes: float) -> float:
    """Minutes, rounded up to a number that people would type."""
    digits = 10 if minutes < 3 else 1
    return ceil(minutes * digits) / digits


def _tell(first: Prepared, costs: Costs, length: TrialLength, *, minutes: float, each: float) -> None:
    """Print what the budget allows."""
    fits, every = max(1, int(minutes / each)), len(first.pictures.val)
    tell(
        f"about {counted(fits, 'trial')} of {each:.3g} min fit into {minutes:g} min; one of the default settings has about"
        f" {length.steps:,} steps of {costs.step:.2g} s"
    )
    measured = f"all {every:,}" if length.pictures == every else f"{length.pictures:,} of {every:,}"
    tell(f"every trial is measured on the same validation pictures: {measured}")
    if length.pictures < LEAST_PICTURES:
        tell(f"  with fewer than {LEAST_PICTURES} of them, only large differences can be told from chance")
    if fits < LEAST_TRIALS:
        tell(f"  so few trials are hardly a search: give more --minutes, or a shorter --each (now {each:.3g})")
