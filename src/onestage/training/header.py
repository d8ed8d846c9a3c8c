"""What a training says of itself before its first step."""

from __future__ import annotations

import gc
import math

from onestage.data.dataset import NOTHING_TO_MEASURE
from onestage.data.memory import return_freed_memory
from onestage.errors import counted
from onestage.training.config import LEARNING_RATES
from onestage.training.coverage import told
from onestage.training.folder import LEFT_OUT
from onestage.training.journal import Journal
from onestage.training.left_out import LeftOut
from onestage.training.run import Run
from onestage.training.state import RunState

MANY = 100_000
"""Pictures for whose tables the start takes so much memory that it gives back what is free again, before there are workers."""


def introduce(run: Run, state: RunState, journal: Journal) -> None:
    """Say what trains, on which pictures, for how long, what is left out, and how well the anchors fit.

    Of a run that is complete, say that.
    """
    monitor = journal.monitor
    config, train_set, val_set = run.config, run.data.train, run.val
    if not run.plan.is_unfitted and run.is_complete(state):
        done = counted(state.epoch, "epoch") if config.steps is None else counted(state.step, "step")
        monitor.say(f"this run was complete already, after {done}")
        return
    batch = min(config.batch_size, len(train_set))
    again = f", going on after step {state.step}" if state.step else ""
    if batch < config.batch_size:
        monitor.say(f"there are fewer pictures than a batch of {config.batch_size}: each step has all {batch}")
    monitor.say(
        f"{run.model.config.name} on {counted(len(train_set), 'picture')} of {train_set.root.name}, {len(val_set)}"
        f" ({val_set.split or 'the same'}) to measure it: {_length(run)}, {counted(batch, 'picture')} each,"
        f" on {run.group.world} x {run.group.device.type}{again}"
    )
    if run.decisions and not state.step:
        monitor.decided(run.decisions)
    if config.lr is None and not state.step:
        monitor.say(f"learning rate {config.peak_lr:.3g}: {config.lr_rule(LEARNING_RATES[config.optimizer])}")
    if val_set.is_empty:
        monitor.say(NOTHING_TO_MEASURE)
    left_out = LeftOut(run)
    if left_out.all:
        left_out.save()
        monitor.say(f"left out: {left_out}; listed in {run.folder / LEFT_OUT}")
        left_out.check()
    if run.group.is_main:  # the others say nothing
        monitor.say(told(journal.coverage, fitted=run.has_fitted_anchors))
    give_back(len(train_set))


def give_back(pictures: int) -> None:
    """Let the system have the memory that is free again, if the tables of so many pictures took much of it."""
    if pictures >= MANY:
        gc.collect()
        return_freed_memory(math.inf)


def _length(run: Run) -> str:
    """How long the training is, for people."""
    if run.plan.is_unfitted:
        return f"{run.config.minutes:g} min of steps"
    if run.config.steps is None:
        return f"{counted(run.config.epochs, 'epoch')} of {counted(len(run.loader), 'step')}"
    return f"{counted(run.steps, 'step')} ({counted(run.epochs, 'epoch')})"
