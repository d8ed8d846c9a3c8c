"""The training loop: it takes a step with every batch. After every epoch it measures and saves.

Shape letters: B images of a batch; H, W the input. A run that was interrupted goes on with the same bits as one that was not
(training/checkpoint.py).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from onestage.data import Dataset
from onestage.data.dataset import NOTHING_TO_MEASURE
from onestage.errors import ConfigError, DataError, LostError, OnestageError, counted, known_keywords
from onestage.files import BEST, LAST, given_path
from onestage.metrics.report import Report
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.processes import init
from onestage.structures import Batch
from onestage.training.config import Setting, TrainConfig, make_config
from onestage.training.coverage import coverage_of, told
from onestage.training.folder import Plan, write_history
from onestage.training.freezing import frozen, training_mode
from onestage.training.inputs import TrainData, adopt_classes, named_classes, read_data
from onestage.training.lock import FolderLock
from onestage.training.monitor import Monitor, TerminalMonitor
from onestage.training.pictures import forget
from onestage.training.rules import Chosen, decide
from onestage.training.run import Run, round_epochs, start
from onestage.training.signals import StopSignal
from onestage.training.state import RISE, Record, RunState
from onestage.training.step import DivergedError as DivergedError
from onestage.training.step import take_step


@dataclass(frozen=True)
class TrainResult:
    """What came out of a training. report: the last measurement, if any. interrupted: stopped by a signal, to be resumed.
    stopped_early: complete before its last step, because AP rose no more (``patience``).
    """

    folder: Path
    best_ap: float
    report: Report | None
    interrupted: bool
    seconds: float
    stopped_early: bool = False

    @property
    def best(self) -> Path:
        """The model of the best validation AP; of the last measured epoch if AP cannot be measured."""
        return self.folder / BEST

    @property
    def last(self) -> Path:
        """The model of the last checkpoint."""
        return self.folder / LAST


@known_keywords
def train(
    model: Detector,
    data: str | Path | Dataset | TrainData,
    *,
    out: str | Path = "runs/train",
    epochs: int | None = None,
    config: TrainConfig | Chosen | None = None,
    format: str | None = None,
    resume: bool = False,
    monitor: Monitor | None = None,
) -> TrainResult:
    """Train the detector in place on a data set. The run folder ``out`` keeps everything. In the end the detector holds what
    ``last.safetensors`` holds: with ``ema`` the averages.

    data: a path, a Dataset that is already read, or what ``read_data`` returns. The "val" split measures the model after every
    epoch. Without such a split, a tenth of the training pictures is held out for that. A model that was made for a number of
    classes takes their names from the data. config: is taken as it is; without one, rules decide from the model, the data and
    the machine, and say so (docs/training.md). epochs: replaces the config's. resume: goes on with an interrupted run, to the
    same bits as without the interruption; without a config, by the settings of that run. monitor: shows the progress; by
    default on the terminal. Ctrl-C saves and returns; a second one stops at once.

    Raise DataError for unusable data, ConfigError if model, data and config do not fit or ``out`` holds another run,
    DivergedError at a loss that is not a number.
    """
    if not isinstance(model, Detector):
        raise ConfigError("train takes a detector", got=type(model).__name__, fix="model = onestage.create(NAME, ...)")
    if format is not None and not isinstance(data, str | Path):
        what, fix = "a format is for a path; these pictures are read already", "leave it out"
        raise ConfigError(what, where="format", got=format, fix=fix)
    if not isinstance(config, TrainConfig | Chosen | None):
        raise ConfigError("config is a TrainConfig", got=repr(config), fix="config=onestage.TrainConfig(epochs=10)")
    if not isinstance(monitor, Monitor | None):
        raise ConfigError("monitor is a Monitor", got=repr(monitor), fix="subclass onestage.training.monitor.Monitor")
    data = data if isinstance(data, Dataset | TrainData) else given_path(data, "data")
    folder = given_path(out, "out")
    settings = _settings(Plan.load(folder).chosen if config is None and resume else config, epochs)
    begin = partial(start, resume=resume)
    return _train(model, data, folder=folder, settings=settings, format=format, monitor=monitor, begin=begin)


def _settings(config: TrainConfig | Chosen | None, epochs: int | None) -> Chosen | Mapping[str, Setting]:
    """All settings, with that number of epochs; without a config the few that are given, and rules decide the others."""
    if config is None:
        return {} if epochs is None else {"epochs": epochs}
    chosen = config if isinstance(config, Chosen) else Chosen(config)
    return chosen if epochs is None else replace(chosen, train=replace(chosen.train, epochs=epochs))


def _train(
    model: Detector,
    data: str | Path | Dataset | TrainData,
    *,
    folder: Path,
    settings: Chosen | Mapping[str, Setting],
    format: str | None,
    monitor: Monitor | None,
    begin: Callable[[Run, Monitor, FolderLock], RunState],
) -> TrainResult:
    """Train from the state that ``begin`` gives. settings: all of them, or some, and the rules decide the others."""
    config = settings.train if isinstance(settings, Chosen) else make_config(settings)
    with (
        init(config.device, timeout=1.1 * config.worker_timeout) as group,
        _reproducible(group.device),
        StopSignal(told=group.is_main, insists=group.world > 1) as stop,
        frozen(model, config.freeze),
    ):
        if not isinstance(data, TrainData):
            data = read_data(data, config, format=format, classes=named_classes(model))
        adopt_classes(model, data.train)
        if not isinstance(settings, Chosen):
            settings = group.on_main(partial(decide, model.config, data.train, measured=data.val, given=settings))
        run = Run.of(model.to(group.device), data, settings, folder, group)
        if not run.store.checkpoints.exists():  # a new run
            data.train.check_apart(folder)
            data.val.check_apart(folder)
        lock = FolderLock(run.store.checkpoints)
        with contextlib.closing((monitor or TerminalMonitor()) if group.is_main else Monitor()) as shown, lock.taken_by(group):
            return Training(run, begin(run, shown, lock), shown, stop).finish()


@known_keywords
def resume(folder: str | Path, *, monitor: Monitor | None = None, accept_changes: bool = False) -> TrainResult:
    """Go on with an interrupted run. Its folder alone is enough: it names the data and the settings.

    accept_changes: go on though pictures have changed since the run began; by default that is a ConfigError.
    """
    plan = Plan.load(given_path(folder, "folder"))
    if plan.data is None:
        raise ConfigError("this run's data was handed over in Python", where=folder, fix="train(model, data, resume=True)")
    model = Detector(plan.model)
    begin = partial(start, resume=True, accept_changes=accept_changes)
    return _train(model, plan.data, folder=Path(folder), settings=plan.chosen, format=plan.format, monitor=monitor, begin=begin)


class Training:
    """The loop: it takes a run from its state to the last step, or to a signal. A lap is the part between two records: an
    epoch, or the steps between two measurements (``evaluate_steps``).

    Nothing here but ``state`` outlives the process. stopping: some process was asked to stop; all know it since the same step.
    rate: pictures per second, NaN before the first step. skipped: pictures that could not be read, as last said.
    """

    def __init__(self, run: Run, state: RunState, monitor: Monitor, stop: StopSignal) -> None:
        self.run, self.state, self.monitor, self.stop = run, state, monitor, stop
        self.stopping = False
        self.rate = self.waiting = math.nan
        self.skipped = 0
        self.saved = time.monotonic()
        self._began = time.monotonic() - state.seconds
        self._batches = self._rest()

    @property
    def model(self) -> Detector:
        """The detector that learns."""
        return self.run.model

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.state.step

    def finish(self) -> TrainResult:
        """Train to the last step, or until a signal."""
        run, state = self.run, self.state
        report: Report | None = None
        self.monitor.start(epochs=run.epochs, steps=run.steps, done=state.step)
        if self._is_complete:
            done = counted(state.epoch, "epoch") if run.config.steps is None else counted(state.step, "step")
            self.monitor.say(f"this run was complete already, after {done}")
        else:
            self._introduce()
        while not self._is_complete and not self.stopping:
            self._train_lap()
            if not self.stopping:
                report = self._finish_lap() or report
        if self.stopping:
            self._save()
            self.monitor.say(f"stopped in epoch {state.epoch + 1}; all is saved. Go on with: {run.go_on}")
        if self._is_early:
            rise = f"the validation AP has not risen by more than {RISE} in {counted(state.stale, 'measurement')}"
            self.monitor.say(f"stopped early, after {counted(state.step, 'step')} of {run.steps}: {rise}")
        if run.result is not self.model:
            self.model.load_state_dict(run.result.state_dict())
        return TrainResult(run.folder, state.best_ap, report, self.stopping, self._seconds(), self._is_early)

    @property
    def _is_complete(self) -> bool:
        return (self.state.step >= self.run.steps and not self.state.taken) or self._is_early

    @property
    def _is_early(self) -> bool:
        """Whether the training is over before its last step: the AP rises no more."""
        return 0 < self.run.config.patience <= self.state.stale and self.step < self.run.steps

    @property
    def _end_of_lap(self) -> int:
        """The step after which the next record comes."""
        run, state = self.run, self.state
        every = run.config.evaluate_steps
        end = state.step + len(run.loader) - state.batch if every is None else ((state.step - state.taken) // every + 1) * every
        return min(end, run.steps)

    def _train_lap(self) -> None:
        """Train on the rest of the lap, or until a signal."""
        run, state, seen, begun, waited = self.run, self.state, 0, time.monotonic(), 0.0
        training_mode(self.model, run.config.freeze)
        while state.step < self._end_of_lap:
            asked = time.monotonic()
            batch = next(self._batches)
            waited += time.monotonic() - asked
            with run.group.patience():
                state.add(self._step(batch))
            seen += len(batch.metas) * run.group.world
            self.rate, self.waiting = (part / (time.monotonic() - begun) for part in (seen, waited))
            self.monitor.step(state.step, state.epoch, state.means, self.rate)
            if self.stopping:
                return
            if time.monotonic() - self.saved > 60 * run.config.checkpoint_minutes:
                self._save()

    def _rest(self) -> Iterator[Batch]:
        """The batches from here on, epoch after epoch. If no more pictures come, all is saved: between two steps the state is
        whole.
        """
        state, loader = self.state, self.run.loader
        try:
            while True:
                state.turn(len(loader))
                clean_from = max(self.run.clean_step - (state.step - state.batch), 0)
                yield from loader.epoch(state.epoch, start=state.batch, clean_from=clean_from)
        except LostError:
            self._save()
            raise
        except DataError as error:
            self._forget(error)
            raise

    def _forget(self, error: DataError) -> None:
        """A picture that cannot be read has taught nothing yet, so to mend it is no change."""
        run = self.run
        if run.group.is_main:  # it has the lock of the folder
            with contextlib.suppress(OnestageError):  # a damaged list, a full disk: the picture is what must be told
                forget(run.folder, {str(error.where), *run.loader.skipped}, run.data.train, run.data.val)

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on B images of this process. Return the losses over all processes as plain numbers."""
        losses, self.stopping = take_step(self.run, self.state, batch, self.stop)
        return losses

    def _finish_lap(self) -> Report | None:
        """Measure if it is time, write the history, save. The lap counts as done from here on."""
        run, state = self.run, self.state
        lr = run.optimizer.param_groups[0]["lr"]
        record: Record = {"epoch": self._epochs, "step": state.step, "loss": sum(state.means.values())}
        record |= {f"loss/{name}": value for name, value in state.means.items()} | {"lr": lr}
        record |= {"images_per_s": self.rate, "waiting": self.waiting}
        report = self._measured() if self._is_time_to_validate() else None
        best = False
        if report is not None:
            record |= _figures(report)
            ap = max(0.0, report.coco.AP)  # 0 where it is NaN
            unmeasured = math.isnan(report.coco.AP) and state.best_ap <= 0  # then the best model is the last one
            best = ap > state.best_ap or unmeasured
            state.best_ap = max(ap, state.best_ap)
        record["seconds"] = self._seconds()
        state.record(record, batches=len(run.loader))
        self.monitor.epoch(record)
        self._say_skipped()
        self._save(best=best)
        if run.group.is_main:
            write_history(run.folder, state.history)
        return report

    def _say_skipped(self) -> None:
        """Say how many pictures could not be read so far, by any process."""
        if self.run.config.on_bad == "skip":
            parts = self.run.group.gather_objects([*self.run.loader.skipped])
            skipped = {path for part in parts for path in part}
            if len(skipped) > self.skipped:
                text = f"{len(skipped)} pictures could not be read, such as {min(skipped)}; others stood in for them"
                self.monitor.say(text)
            self.skipped = len(skipped)

    def _is_time_to_validate(self) -> bool:
        config = self.run.config
        if config.evaluate_steps is not None or self.step >= self.run.steps:
            return True
        return config.evaluate_every > 0 and self._epochs % config.evaluate_every == 0

    @property
    def _epochs(self) -> float:
        """Epochs done."""
        return round_epochs(self.state.epoch + self.state.batch / len(self.run.loader))

    def _measured(self) -> Report:
        """The measurement of the model. Whatever ends it early, the training until now is saved: it is whole by then."""
        try:
            return self._validate()
        except Exception as error:
            self._save()
            if isinstance(error, DataError):
                self._forget(error)
            raise

    def _validate(self) -> Report:
        run, done, total = self.run, 0, len(self.run.data.val)

        def advance(count: int) -> None:
            nonlocal done
            done += count * run.group.world
            self.monitor.validating(min(done, total), total)

        run.group.share(run.result.buffers())  # batch norm's averages: each process has gathered different ones
        return evaluate_dataset(
            run.result,
            run.data.val,
            batch_size=max(1, run.config.batch_size // run.group.world),
            workers=run.config.workers_of(run.group.world),
            on_bad=run.config.on_bad,
            advance=advance,
            distributed=run.group,
        )[0]

    def _save(self, *, best: bool = False) -> None:
        self.saved = time.monotonic()
        self.state.seconds = self._seconds()
        if self.run.group.is_main:
            self.run.store.save(self.state.checkpoint(self.run.result, self.model, self.run.optimizer), best=best)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def _length(self) -> str:
        """How long the training is, for people."""
        run = self.run
        if run.config.steps is None:
            return f"{counted(run.config.epochs, 'epoch')} of {counted(len(run.loader), 'step')}"
        return f"{counted(run.steps, 'step')} ({run.epochs:g} epochs)"

    def _introduce(self) -> None:
        run, (train_set, val_set) = self.run, (self.run.data.train, self.run.data.val)
        config, device = run.config, f"{run.group.world} x {run.group.device.type}"
        batch = min(config.batch_size, len(train_set))
        again = f", going on after step {self.step}" if self.step else ""
        if batch < config.batch_size:
            self.monitor.say(f"there are fewer pictures than a batch of {config.batch_size}: each step has all {batch}")
        self.monitor.say(
            f"{self.model.config.name} on {counted(len(train_set), 'picture')} of {train_set.root.name}, {len(val_set)}"
            f" ({val_set.split or 'the same'}) to measure it: {self._length}, {counted(batch, 'picture')} each,"
            f" on {device}{again}"
        )
        if run.decisions and not self.step:
            self.monitor.decided(run.decisions)
        if val_set.is_empty:
            self.monitor.say(NOTHING_TO_MEASURE)
        problems = {*train_set.problems, *val_set.problems}  # parts of one data set share them
        if problems:
            self.monitor.say(f"left out: {len(problems)} bad annotations or pictures; see them: onestage data check")
        if run.group.is_main:  # the others say nothing
            self.monitor.say(told(coverage_of(self.model, train_set)))


def _figures(report: Report) -> Record:
    """The figures of a measurement for the record of an epoch."""
    parts = report.losses or {}
    losses = {"val/loss" if name == "total" else f"val/loss/{name}": value for name, value in parts.items()}
    return {"val/AP": report.coco.AP, "val/AP50": report.coco.AP50, **losses}


@contextlib.contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Leave torch's global random numbers as they were. On a GPU, cuDNN uses only its deterministic kernels."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
