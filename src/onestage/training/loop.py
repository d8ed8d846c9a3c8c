"""The training loop: it takes a step with every batch. After every epoch it measures and saves.

Shape letters: B images of a batch; H, W the input. A run that was interrupted goes on with the same bits as one that was not
(training/checkpoint.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onestage.data import Dataset
from onestage.errors import ConfigError, DataError, OnestageError, WriteError, counted, known_keywords
from onestage.files import BEST, LAST, given_path
from onestage.metrics.report import Report
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.processes import Distributed, init
from onestage.structures import Batch
from onestage.training import clock
from onestage.training.agreement import check_alike, of_command, of_data, of_decisions, of_start
from onestage.training.checks import Checks
from onestage.training.checks import DivergedError as DivergedError
from onestage.training.clock import Pace
from onestage.training.config import Setting, TrainConfig
from onestage.training.folder import Plan, write_history
from onestage.training.freezing import frozen, training_mode
from onestage.training.going_on import NOTHING_NEW, NewSettings, settings_of
from onestage.training.header import introduce
from onestage.training.history import with_steps
from onestage.training.inputs import TrainData, adopt_classes, named_classes, read_data
from onestage.training.job import is_again
from onestage.training.journal import Journal
from onestage.training.left_out import LeftOut
from onestage.training.lock import FolderLock
from onestage.training.loggers import check_installed
from onestage.training.machine import Machine, measure_together
from onestage.training.monitor import Monitor, TerminalMonitor
from onestage.training.network import reproducible
from onestage.training.pictures import forget
from onestage.training.rehearsal import rehearse
from onestage.training.rules import Chosen, Facts, before_data, decide
from onestage.training.run import Beginning, Run, open_again, round_epochs, start
from onestage.training.signals import StopSignal
from onestage.training.state import RISE, Record, RunState, figures_of
from onestage.training.step import take_step

CHECKS = 200
"""How often a training looks at the clock, if it has a number of minutes."""


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
    config: TrainConfig | Chosen | Mapping[str, Setting] | None = None,
    format: str | None = None,
    resume: bool = False,
    monitor: Monitor | None = None,
) -> TrainResult:
    """Train the detector in place on a data set. The run folder ``out`` keeps everything. In the end the detector holds what
    ``last.safetensors`` holds: with ``ema`` the averages.

    data: a path, a Dataset that is already read, or what ``read_data`` returns. The "val" split measures the model after every
    epoch. Without such a split, a tenth of the training pictures is held out for that. A model that was made for a number of
    classes takes their names from the data. config: a TrainConfig is taken as it is. Of some of its fields, such as
    ``{"minutes": 10}``, and without one, rules decide the others from the model, the data and the machine, and say so
    (docs/training.md). epochs: replaces its length. resume: goes on with an interrupted run, to the same bits as without the
    interruption; what the config leaves out is as in that run. monitor: shows the progress; by default on the terminal. Ctrl-C
    saves and returns; a second one stops at once.

    Raise DataError for unusable data, ConfigError if model, data and config do not fit or ``out`` holds another run,
    DivergedError at a loss that is not a number.
    """
    if not isinstance(model, Detector):
        raise ConfigError("train takes a detector", got=type(model).__name__, fix="model = onestage.create(NAME, ...)")
    if format is not None and not isinstance(data, str | Path):
        what, fix = "a format is for a path; these pictures are read already", "leave it out"
        raise ConfigError(what, where="format", got=format, fix=fix)
    if not isinstance(config, TrainConfig | Chosen | Mapping | None):
        fix = 'config=onestage.TrainConfig(epochs=10), or config={"minutes": 10}'
        raise ConfigError("config is a TrainConfig, or a dict of some of its fields", got=repr(config), fix=fix)
    if not isinstance(monitor, Monitor | None):
        raise ConfigError("monitor is a Monitor", got=repr(monitor), fix="subclass onestage.training.monitor.Monitor")
    data = data if isinstance(data, Dataset | TrainData) else given_path(data, "data")
    folder = given_path(out, "out")
    planned = Plan.load(folder) if resume else None
    settings = settings_of(config, epochs, planned)
    begin = Beginning(planned)
    return _train(model, data, folder=folder, settings=settings, format=format, monitor=monitor, begin=begin)


def _decided(model: Detector, data: TrainData, given: Mapping[str, Setting], machine: Machine) -> Chosen:
    """The settings that are given, and those that rules decide."""
    return decide(model, Facts.of(data.train, data.val, machine=machine), given=given)


def _train(
    model: Detector,
    data: str | Path | Dataset | TrainData,
    *,
    folder: Path,
    settings: Chosen | Mapping[str, Setting],
    format: str | None,
    monitor: Monitor | None,
    begin: Beginning,
) -> TrainResult:
    """Train a run from its ``begin``. settings: all of them, or some, and the rules decide the others."""
    began = clock.now() - (data.seconds if isinstance(data, TrainData) else 0.0)
    config = settings.train if isinstance(settings, Chosen) else before_data(settings)
    with (
        init(config.device, timeout=1.1 * config.worker_timeout) as group,
        reproducible(group.device),
        StopSignal(told=group.is_main, insists=group.world > 1) as stop,
        frozen(model, config.freeze),
    ):
        group.on_main(partial(check_installed, config.log, run=None if begin.planned is None else folder))
        if not isinstance(data, TrainData):
            data = read_data(data, config, format=format, classes=named_classes(model), begun=begin.pictures_in(folder))
        check_alike(group, partial(of_data, data, {} if isinstance(settings, Chosen) else settings, folder))
        adopt_classes(model, data.train)
        if not isinstance(settings, Chosen):
            settings = group.on_main(partial(_decided, model, data, settings, measure_together(group)))
        check_alike(group, partial(of_decisions, model.config, settings.train, begin))
        run = Run.of(model.to(group.device), data, settings, folder, group)
        if not run.store.checkpoints.exists():  # a new run
            data.train.check_apart(folder)
            data.val.check_apart(folder)
        lock = FolderLock(run.store.checkpoints)
        with contextlib.closing((monitor or TerminalMonitor()) if group.is_main else Monitor()) as shown, lock.taken_by(group):
            run, state = start(run, shown, lock, begin)
            check_alike(group, partial(of_start, run, state))
            began -= state.seconds if state.step else 0.0
            with contextlib.closing(Journal(run, state, shown)) as journal, run.says_how_to_go_on():
                introduce(run, state, journal)
                if run.plan.is_unfitted:
                    fitted = rehearse(run, state, shown, stop, began=began)
                    if fitted is None:
                        shown.say(f"stopped before the number of steps was known; it is looked for again with: {run.go_on}")
                        return TrainResult(folder, state.best_ap, None, True, clock.now() - began)
                    run, state = fitted
                return Training(run, state, journal, stop, lock=lock, began=began).finish()


@known_keywords
def resume(
    folder: str | Path,
    *,
    monitor: Monitor | None = None,
    accept_changes: bool = False,
    settings: NewSettings = NOTHING_NEW,
) -> TrainResult:
    """Go on with an interrupted run. Its folder alone is enough: it names the data and the settings.

    accept_changes: go on though pictures have changed since the run began; by default that is a ConfigError. settings: that get
    another value from here on, or the place to which the data has moved. The plan keeps the old and the new values. If torchrun
    calls this again after a crash, it goes on by that plan.
    """
    folder = given_path(folder, "folder")
    plan = Plan.load(folder)
    with init(plan.train.device, timeout=1.1 * plan.train.worker_timeout) as group:
        return _resumed(folder, group, monitor, settings, accept_changes=accept_changes)


def _resumed(
    folder: Path, group: Distributed, monitor: Monitor | None, settings: NewSettings, *, accept_changes: bool
) -> TrainResult:
    """As ``resume``. The first process reads the plan: on a shared folder others may see an older one."""
    check_alike(group, partial(of_command, folder, goes_on=True))
    plan = group.on_main(partial(Plan.load, folder))
    if is_again(group, folder):
        settings = settings.left(plan.history)
    data = settings.data or plan.data
    if data is None:
        raise ConfigError("this run's data was handed over in Python", where=folder, fix="train(model, data, resume=True)")
    model = Detector(plan.model)
    chosen = replace(plan.chosen, train=settings.of(plan.train))
    begin = Beginning(plan, settings, accept_changes)
    return _train(model, data, folder=folder, settings=chosen, format=plan.format, monitor=monitor, begin=begin)


class Training:
    """The loop: it takes a run from its state to the last step, or to a signal. A lap is the part between two records: an
    epoch, or the steps between two measurements (``evaluate_steps``).

    Nothing here but ``state`` outlives the process. stopping: some process was asked to stop; all know it since the same step.
    rate: pictures per second, NaN before the first step.
    left_out: bad pictures and annotations.
    """

    def __init__(
        self, run: Run, state: RunState, journal: Journal, stop: StopSignal, *, lock: FolderLock, began: float
    ) -> None:
        self.run, self.state, self.journal, self.stop, self.lock = run, state, journal, stop, lock
        self.monitor = journal.monitor
        self.checks = Checks(state, run.group, doctor=run.data.train.doctor)
        self.stopping = False
        self.rate = self.waiting = math.nan
        self.left_out = LeftOut(run)
        self.saved = clock.now()
        self._began = began
        self._pace = Pace(60 * (run.config.minutes or 0.0))
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
        self.journal.start(run, state)
        while not self._is_complete and not self.stopping:
            self._train_lap()
            if not self.stopping:
                report = self._finish_lap() or report
        if self.stopping:
            self._save()
            self.monitor.say(f"stopped in epoch {state.epoch + 1}; all is saved. Go on with: {run.go_on}")
        if self.run.is_early(state):
            rise = f"the validation AP has not risen by more than {RISE} in {counted(state.stale, 'measurement')}"
            self.monitor.say(f"stopped early, after {counted(state.step, 'step')} of {run.steps}: {rise}")
        if run.result is not self.model:
            self.model.load_state_dict(run.result.state_dict())
        return TrainResult(run.folder, state.best_ap, report, self.stopping, self._seconds(), self.run.is_early(state))

    @property
    def _is_complete(self) -> bool:
        return self.run.is_complete(self.state)

    @property
    def _end_of_lap(self) -> int:
        """The step after which the next record comes."""
        run, state = self.run, self.state
        every = run.config.evaluate_steps
        end = state.step + len(run.loader) - state.batch if every is None else ((state.step - state.taken) // every + 1) * every
        return min(end, run.steps)

    def _train_lap(self) -> None:
        """Train on the rest of the lap, or until a signal."""
        state, seen, waited = self.state, 0, 0.0
        at = begun = clock.now()
        training_mode(self.run.learner, self.run.config.freeze)
        while state.step < self._end_of_lap:
            asked = clock.now()
            batch = next(self._batches)
            waited += clock.now() - asked
            with self.run.group.patience():
                self._step(batch)
            seen += len(batch.metas) * self.run.group.world
            at, before = clock.now(), at
            self.rate, self.waiting = (part / (at - begun) for part in (seen, waited))
            self.monitor.step(state.step, state.epoch, self.checks.means, self.rate)
            self.journal.step()
            if self.stopping:
                return
            if self.run.agreed(at - self.saved > 60 * self.run.config.checkpoint_minutes):
                self._save()
            if self.run.config.minutes is not None:
                self._keep_to_time(at - before)

    def _keep_to_time(self, seconds: float) -> None:
        """Change the length of the rest if it would end too late for its minutes, or much too early. The plan says so before
        the next step.

        seconds: that the last step took.
        """
        run, state = self.run, self.state
        self._pace.add(seconds)
        if state.step % max(1, run.steps // CHECKS) or state.step >= run.steps:
            return
        lap, elapsed = run.config.evaluate_steps or len(run.loader), self._seconds()
        fit = partial(self._pace.fitting, state.step, run.steps, elapsed=elapsed, lap=lap, overhead=state.overhead)
        steps = run.group.on_main(fit)
        if steps != run.steps:
            why = "the time nears its end, and the machine became slower" if steps < run.steps else "the machine became faster"
            changes = with_steps(run.changes, state.step, run.steps, steps, why=why)
            self.run = run = replace(run, config=replace(run.config, steps=steps), changes=changes)
            run.group.on_main(partial(run.plan.save, run.folder))
            self.monitor.say(str(changes[-1]))
            self.monitor.start(epochs=run.epochs, steps=run.steps, done=state.step)
            self._batches = self._rest()

    def _rest(self) -> Iterator[Batch]:
        """The batches from here on, epoch after epoch. If no more pictures come, or a bad one, all is saved: between two steps
        the state is whole.
        """
        state, loader = self.state, self.run.loader
        with self._saved():
            while True:
                state.turn(len(loader))
                clean_from = max(self.run.clean_step - (state.step - state.batch), 0)
                yield from loader.epoch(state.epoch, start=state.batch, clean_from=clean_from)

    @contextlib.contextmanager
    def _saved(self) -> Iterator[None]:
        """Save the training until now if what is done inside fails: between two steps it is whole."""
        try:
            yield
        except Exception as error:
            if self.run.is_divided:  # each process has a part, and the others do not save
                raise
            self._save()
            if isinstance(error, DataError) and not isinstance(error, WriteError):
                self._forget(error)
            else:
                self.monitor.say(f"all until step {self.step} is saved. Go on with: {self.run.go_on}")
            raise

    def _forget(self, error: DataError) -> None:
        """A picture that cannot be read has taught nothing yet, so to mend it is no change."""
        run = self.run
        self.monitor.say(
            f"all until step {self.step} is saved. Go on once the pictures are mended: {run.go_on};"
            f" or as they are: {run.go_on} --on-bad {'limit' if run.config.on_bad == 'stop' else 'skip'}"
        )
        if run.group.is_main:  # it has the lock of the folder
            with contextlib.suppress(OnestageError):  # a damaged list, a full disk: the picture is what must be told
                unread = {str(error.where), *run.loader.skipped, *self.left_out.unreadable}
                forget(run.folder, unread, run.data.train, run.data.val)

    def _step(self, batch: Batch) -> None:
        """One optimiser step on B images of this process."""
        take_step(self.run, self.state, batch, self.stop, self.checks)
        self.state.advance()
        with self._saved():
            self.left_out.look(self.checks.lost)
        self.stopping = self.checks.asked or (self.run.group.world == 1 and self.stop.asked)

    def _finish_lap(self) -> Report | None:
        """Measure if it is time, write the history, save. The lap counts as done from here on."""
        run, state, begun = self.run, self.state, clock.now()
        self.checks.settle()
        lr = run.optimizer.param_groups[0]["lr"]
        record: Record = {"epoch": self._epochs, "step": state.step, "loss": sum(state.means.values())}
        record |= {f"loss/{name}": value for name, value in state.means.items()} | {"lr": lr}
        record |= {"images_per_s": self.rate, "waiting": self.waiting}
        with self._saved():
            report = self._validate() if self._is_time_to_validate() else None
        best = False
        if report is not None:
            record |= figures_of(report)
            ap = max(0.0, report.coco.AP)  # 0 where it is NaN
            unmeasured = math.isnan(report.coco.AP) and state.best_ap <= 0  # then the best model is the last one
            best = ap > state.best_ap or unmeasured
            state.best_ap = max(ap, state.best_ap)
        record["seconds"] = self._seconds()
        state.record(record, batches=len(run.loader))
        self.monitor.epoch(record)
        self._save(best=best)
        if run.group.is_main:
            write_history(run.folder, state.history)
        with self._saved():
            self.left_out.tell(self.monitor)
        self.journal.epoch(run)
        state.overhead = max(clock.now() - begun, state.overhead if report is None else 0.0)
        return report

    def _is_time_to_validate(self) -> bool:
        config = self.run.config
        if config.evaluate_steps is not None or self.step >= self.run.steps:
            return True
        return config.evaluate_every > 0 and self._epochs % config.evaluate_every == 0

    @property
    def _epochs(self) -> float:
        """Epochs done."""
        return round_epochs(self.state.epoch + self.state.batch / len(self.run.loader))

    def _validate(self) -> Report:
        run, done, total = self.run, 0, len(self.run.val)
        skipped: dict[str, OnestageError] = {}

        def advance(count: int) -> None:
            nonlocal done
            done += count * run.group.world
            self.monitor.validating(min(done, total), total)

        run.agree()
        report, found = evaluate_dataset(
            run.result,
            run.val,
            batch_size=run.config.batch_size,
            workers=run.config.workers_of(run.group.world),
            on_bad=run.config.on_bad_picture,
            advance=advance,
            distributed=run.group,
            skipped=skipped,
        )
        self.left_out.add(skipped)
        self.journal.measured(found)
        self.monitor.measured(found)
        return report

    def _save(self, *, best: bool = False) -> None:
        self.checks.settle(together=False)  # processes may save at different steps
        self.saved = clock.now()
        self.state.seconds = self._seconds()
        if self.run.group.is_main:
            open_again(self.run, self.monitor, self.lock)
        self.run.save(self.state, best=best)

    def _seconds(self) -> float:
        return clock.now() - self._began
