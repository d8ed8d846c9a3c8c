"""A rehearsal: the first steps of a training are timed and forgotten, to see how many steps fit into its minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from onestage.data.loader import TrainLoader
from onestage.errors import ConfigError, counted
from onestage.predict.measure import evaluate_dataset
from onestage.structures import Batch
from onestage.training import clock
from onestage.training.checks import Checks
from onestage.training.clock import Costs, length_for
from onestage.training.freezing import training_mode
from onestage.training.history import STEPS
from onestage.training.monitor import Monitor
from onestage.training.run import Run, restored
from onestage.training.signals import StopSignal
from onestage.training.state import RunState
from onestage.training.step import take_step

WARM_UP = 3
"""Steps before those that are timed: workers start, memory is taken."""
SHARE = 0.04
"""The part of the time that the timed steps take at most, the slowest one aside."""
STEADY = 0.05
"""The speed is steady if the two halves of the timed steps differ by at most this part."""
ALONE = 0.25
"""The first step is slow: workers start, a network is compiled. It tells the speed only if it takes this part of the time."""
LEAST, MOST = 8, 200
"""Steps that are timed, if there is time."""
FEW_STEPS = 100
"""Below so many steps a detector has hardly begun to learn, and the user is told."""
MEASURED = 2
"""Batches of validation pictures that are timed, at least."""


def rehearse(run: Run, state: RunState, monitor: Monitor, stop: StopSignal, *, began: float) -> tuple[Run, RunState] | None:
    """Time some steps, a measurement and a checkpoint. Put everything back, and write the length into the plan.

    Return the run with its length, and its state before these steps; None if it was asked to stop. began: when the work began,
    by ``clock.now()``. Raise ConfigError if no time is left.
    """
    minutes = run.config.minutes or 0.0
    budget = 60 * minutes
    monitor.say(f"the first steps are timed, to see how many fit into {minutes:g} min")
    saving = clock.now()
    state.seconds = saving - began
    if run.group.on_main(lambda: state.seconds >= budget):
        got = f"{state.seconds / 60:.3g} minutes of work until now"
        raise ConfigError("no time is left to train", where="minutes", got=got, fix="give more minutes=")
    run.save(state)
    save = clock.now() - saving
    step = _step_seconds(run, state, stop, budget)
    saved, _ = run.store.latest()
    assert saved is not None, "it was saved above"
    state = restored(run, saved)
    if step is None:
        return None
    costs = run.group.on_main(partial(Costs, step, _picture_seconds(run), save))
    left = budget - (clock.now() - began)
    monitor.timed(costs, left)
    given = run.config.evaluate_pictures is not None  # by the user, or by the search that this is a trial of
    fit = partial(length_for, left, costs, epoch=len(run.loader), pictures=len(run.val), fixed=given)
    length = run.group.on_main(fit)
    length = replace(length, steps=state.step + length.steps)
    state.overhead = length.evaluate_pictures * costs.picture + costs.save
    changes = [replace(c, after=length.steps) if c.what == STEPS and c.after is None else c for c in run.changes]
    run = replace(run, config=replace(run.config, **vars(length)), changes=tuple(changes))
    run.group.on_main(partial(run.plan.save, run.folder))
    monitor.say(
        f"{counted(length.steps, 'step')} ({counted(run.epochs, 'epoch')}) fit: a step takes {costs.step:.3g} s; every"
        f" {counted(length.evaluate_steps, 'step')} it is measured on {counted(length.evaluate_pictures, 'picture')}, which"
        f" takes {state.overhead:.2g} s"
        + (f". Fewer than {FEW_STEPS} steps teach next to nothing: give it more time" if length.steps < FEW_STEPS else "")
    )
    return run, state


def _step_seconds(run: Run, state: RunState, stop: StopSignal, budget: float) -> float | None:
    """Seconds for a step, with the wait for its pictures; None if the run was asked to stop."""
    training_mode(run.learner, run.config.freeze)
    trial, taken = replace(state, sums={}, history=[]), list[float]()
    doctor = run.data.train.doctor
    checks = Checks(trial, run.group, doctor=doctor, every=1)  # to wait for a GPU is right here: its time is what is measured
    at = clock.now()
    for batch in _endless(run.loader):
        with run.group.patience():
            take_step(run, trial, batch, stop, checks)
        if checks.asked:
            return None
        trial.advance()
        at, before = clock.now(), at
        taken.append(at - before)
        if run.group.on_main(partial(_is_steady, taken, budget)):
            break
    return run.group.on_main(lambda: _usual_seconds(taken))


def _usual_seconds(taken: list[float]) -> float:
    """Of a step, after some that warm up. The slowest one is left out where there are many: the program may have been stopped
    in it, or have waited for a disk.
    """
    timed = taken[min(WARM_UP, len(taken) - 1) :]
    timed = sorted(timed)[:-1] if len(timed) >= LEAST else timed
    return sum(timed) / len(timed)


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    """The batches of the first epochs."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _is_steady(taken: list[float], budget: float) -> bool:
    """Whether the steps so far tell the speed, or have taken as much time as they may, the slowest one aside."""
    timed = taken[WARM_UP:]
    if len(taken) == 1:
        return taken[0] > ALONE * budget
    if sum(taken) - max(taken) > SHARE * budget:
        return True
    half = len(timed) // 2
    first, second = sum(timed[:half]), sum(timed[half : 2 * half])
    return len(timed) >= MOST or (len(timed) >= LEAST and abs(first - second) <= STEADY * max(first, second))


def _picture_seconds(run: Run) -> float:
    """Seconds for the measurement of a validation picture."""
    run.group.share(run.result.buffers())
    val, batch_size = run.data.val, run.config.batch_size
    some = val.subset(range(min(len(val), max(MEASURED, run.group.world) * batch_size)))  # a batch for each process
    begun = clock.now()
    evaluate_dataset(
        run.result,
        some,
        batch_size=batch_size,
        workers=run.config.workers_of(run.group.world),
        on_bad=run.config.on_bad_picture,
        distributed=run.group,
    )
    return (clock.now() - begun) / len(some)
