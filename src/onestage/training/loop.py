"""The training loop: for every batch it matches, runs the network, computes the losses and takes a step. After every epoch it
measures and saves.

Shape letters: B images of a batch; H, W the input. A run that was interrupted goes on with the same bits as one that was not
(training/checkpoint.py).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from onestage.data import Dataset
from onestage.data.dataset import NOTHING_TO_MEASURE
from onestage.data.loader import seed_of
from onestage.errors import ConfigError, DataError, LostError, OnestageError, counted, known_keywords
from onestage.files import BEST, LAST, given_path
from onestage.metrics.report import Report
from onestage.model.anchors.max_iou import Assignment
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.processes import init
from onestage.structures import Batch, HeadOutput
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan, write_history
from onestage.training.inputs import TrainData, adopt_classes, named_classes, read_data
from onestage.training.lock import FolderLock
from onestage.training.monitor import Monitor, TerminalMonitor
from onestage.training.optim import learning_rate
from onestage.training.pictures import forget
from onestage.training.run import Run, start
from onestage.training.signals import StopSignal
from onestage.training.state import Record, RunState

DEFAULTS = TrainConfig()


class DivergedError(OnestageError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class TrainResult:
    """What came out of a training. report: the last measurement, if any. interrupted: stopped early, to be resumed."""

    folder: Path
    best_ap: float
    report: Report | None
    interrupted: bool
    seconds: float

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
    config: TrainConfig = DEFAULTS,
    format: str | None = None,
    resume: bool = False,
    monitor: Monitor | None = None,
) -> TrainResult:
    """Train the detector in place on a data set. The run folder ``out`` keeps everything.

    data: a path, a Dataset that is already read, or what ``read_data`` returns. The "val" split measures the model after every
    epoch. Without such a split, a tenth of the training pictures is held out for that. A model that was made for a number of
    classes takes their names from the data. epochs: replaces the config's. resume: goes on with an interrupted run, to the
    same bits as without the interruption. monitor: shows the progress; by default on the terminal. Ctrl-C saves and returns;
    a second one stops at once.

    Raise DataError for unusable data, ConfigError if model, data and config do not fit or ``out`` holds another run,
    DivergedError at a loss that is not a number.
    """
    if epochs is not None and isinstance(config, TrainConfig):
        config = replace(config, epochs=epochs)
    if not isinstance(model, Detector):
        raise ConfigError("train takes a detector", got=type(model).__name__, fix="model = onestage.create(NAME, ...)")
    if format is not None and not isinstance(data, str | Path):
        what, fix = "a format is for a path; these pictures are read already", "leave it out"
        raise ConfigError(what, where="format", got=format, fix=fix)
    if not isinstance(config, TrainConfig):
        raise ConfigError("config is a TrainConfig", got=repr(config), fix="config=onestage.TrainConfig(epochs=10)")
    if not isinstance(monitor, Monitor | None):
        raise ConfigError("monitor is a Monitor", got=repr(monitor), fix="subclass onestage.training.monitor.Monitor")
    data = data if isinstance(data, Dataset | TrainData) else given_path(data, "data")
    begin = partial(start, resume=resume)
    return _train(model, data, folder=given_path(out, "out"), config=config, format=format, monitor=monitor, begin=begin)


def _train(
    model: Detector,
    data: str | Path | Dataset | TrainData,
    *,
    folder: Path,
    config: TrainConfig,
    format: str | None,
    monitor: Monitor | None,
    begin: Callable[[Run, Monitor, FolderLock], RunState],
) -> TrainResult:
    """Train from the state that ``begin`` gives."""
    _check_place(folder, data)
    with (
        init(config.device, timeout=1.1 * config.worker_timeout) as group,
        _reproducible(group.device),
        StopSignal(told=group.is_main, insists=group.world > 1) as stop,
    ):
        if not isinstance(data, TrainData):
            data = read_data(data, config, format=format, classes=named_classes(model))
        adopt_classes(model, data.train)
        run = Run.of(model.to(group.device), data, config, folder, group)
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
    return _train(model, plan.data, folder=Path(folder), config=plan.train, format=plan.format, monitor=monitor, begin=begin)


def _check_place(folder: Path, data: str | Path | Dataset | TrainData) -> None:
    path = data.path if isinstance(data, TrainData) else None if isinstance(data, Dataset) else data
    if path is not None and folder.resolve() == Path(path).resolve():
        what = "the run would be written among the pictures"
        raise ConfigError(what, where=folder, got="the data set's folder", fix="give the run another one: out=, or --out")


class Training:
    """The loop: it takes a run from its state to the last epoch, or to a signal.

    Nothing here but ``state`` outlives the process. stopping: some process was asked to stop; all know it since the same step.
    rate: pictures per second, NaN before the first step. skipped: pictures that could not be read, as last said.
    """

    def __init__(self, run: Run, state: RunState, monitor: Monitor, stop: StopSignal) -> None:
        self.run, self.state, self.monitor, self.stop = run, state, monitor, stop
        self.stopping = False
        self.rate = math.nan
        self.skipped = 0
        self.saved = time.monotonic()
        self._began = time.monotonic() - state.seconds

    @property
    def model(self) -> Detector:
        """The detector that learns."""
        return self.run.model

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.state.step

    def finish(self) -> TrainResult:
        """Train to the last epoch, or until a signal."""
        run, state = self.run, self.state
        report: Report | None = None
        self.monitor.start(epochs=run.config.epochs, steps=run.steps, done=state.step)
        if state.epoch == run.config.epochs:
            self.monitor.say(f"this run was complete already, after {counted(state.epoch, 'epoch')}")
        else:
            self._introduce()
        while state.epoch < run.config.epochs and not self.stopping:
            self._train_epoch()
            if not self.stopping:
                report = self._finish_epoch() or report
        if self.stopping:
            self._save()
            self.monitor.say(f"stopped in epoch {state.epoch + 1}; all is saved. Go on with: {run.go_on}")
        return TrainResult(run.folder, state.best_ap, report, self.stopping, self._seconds())

    def _train_epoch(self) -> None:
        """Train on the rest of the epoch, or until a signal."""
        run, state, seen, begun = self.run, self.state, 0, time.monotonic()
        self.model.train()
        for batch in self._batches():
            with run.group.patience():
                state.add(self._step(batch))
            seen += len(batch.metas) * run.group.world
            self.rate = seen / (time.monotonic() - begun)
            self.monitor.step(state.step, state.epoch, state.means, self.rate)
            if self.stopping:
                return
            if time.monotonic() - self.saved > 60 * run.config.checkpoint_minutes:
                self._save()

    def _batches(self) -> Iterator[Batch]:
        """The rest of the epoch. If no more pictures come, all is saved: between two steps the state is whole."""
        try:
            yield from self.run.loader.epoch(self.state.epoch, start=self.state.batch)
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
        """One optimiser step on B images of this process. Return the losses over all processes as plain numbers.

        All losses are divided by the positives of the whole step, over all processes. So one process with 8 pictures,
        two with 4 and two accumulated parts of 4 take the same step. Two things differ: batch norm averages over what it sees
        at once, and drop_path leaves out other pictures.
        """
        run, config, group = self.run, self.run.config, self.run.group
        torch.manual_seed(seed_of(config.seed, self.step, group.rank))  # dropout too is the same after a resume
        lr = learning_rate(self.step, run.steps, config)
        for parameters in run.optimizer.param_groups:
            parameters["lr"] = lr
        batch = batch.to(group.device)
        parts = _cut(batch, config.accumulate)

        run.optimizer.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            with self._synchronised(last=i == len(parts) - 1):
                output = self._forward(part)
                if i == 0:  # the sizes of the maps, and with them the anchors of all parts, are known from here on
                    assignments, divisor = self._assign(parts, output)
                losses = self.model.loss(output, assignments[i], normalizer=divisor)
                total_loss = torch.stack([*losses.values()]).sum()
                (total_loss * group.world).backward()  # DDP takes the mean over the processes
            total = {name: value.detach() + total.get(name, 0.0) for name, value in losses.items()}
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        asked = norm.new_tensor(float(self.stop.asked))
        values = group.all_reduce_sum(torch.stack([*total.values(), norm / group.world, asked])).tolist()
        if not all(math.isfinite(v) for v in values):
            raise self._diverged(batch, dict(zip((*total, "gradient norm"), values, strict=False)), lr)
        run.optimizer.step()
        self.stopping = values[-1] > 0
        return dict(zip(total, values, strict=False))

    def _forward(self, part: Batch) -> HeadOutput:
        run = self.run
        images = self.model.config.preprocess.normalize(part.images)
        try:
            with run.autocast:
                output: HeadOutput = run.network(images)
        except ValueError as e:
            if not _starves_batch_norm(self.model, images):
                raise
            what = "batch norm has no average over one picture alone, where a map has shrunk to one cell"
            fix = "raise --batch-size, lower --accumulate, or train on more pictures"
            raise ConfigError(what, where=self.model.config.name, fix=fix) from e
        return output

    def _assign(self, parts: Sequence[Batch], output: HeadOutput) -> tuple[list[Assignment], Tensor]:
        """Which anchor learns which object in each part, and the divisor () of the whole step, over all processes.

        output: of one of the parts. All parts have images of one size.
        """
        model, group = self.model, self.run.group
        sizes, input_size = output.level_sizes, output.input_size
        assignments = [model.criterion.assign(part.targets, sizes, input_size, device=group.device) for part in parts]
        positives = torch.stack([model.config.loss.normalizer(a.matches) for a in assignments]).sum()
        return assignments, group.all_reduce_sum(positives).clamp(min=1.0)

    def _synchronised(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients travel between the processes once per step, with its last part."""
        if isinstance(self.run.network, DistributedDataParallel) and not last:
            return self.run.network.no_sync()
        return contextlib.nullcontext()

    def _diverged(self, batch: Batch, values: dict[str, float], lr: float) -> DivergedError:
        ours = [meta.path or str(meta.image_id) for meta in batch.metas]
        paths = ", ".join(path for part in self.run.group.gather_objects(ours) for path in part)
        return DivergedError(
            "the loss is not a number any more; the checkpoints before this step are sound",
            where=f"step {self.step + 1}, epoch {self.state.epoch + 1}, pictures {paths}",
            got=", ".join(f"{name} {value:g}" for name, value in values.items()) + f" at learning rate {lr:g}",
            fix="lower --lr, or raise --warmup; and look at these pictures: onestage data check",
        )

    def _finish_epoch(self) -> Report | None:
        """Measure if it is time, write the history, save. The epoch counts as done from here on."""
        run, state = self.run, self.state
        lr = run.optimizer.param_groups[0]["lr"]
        record: Record = {"epoch": state.epoch + 1, "step": state.step, "loss": sum(state.means.values())}
        record |= {f"loss/{name}": value for name, value in state.means.items()} | {"lr": lr, "images_per_s": self.rate}
        report = self._measured() if self._is_time_to_validate() else None
        best = False
        if report is not None:
            record |= _figures(report)
            ap = max(0.0, report.coco.AP)  # 0 where it is NaN
            unmeasured = math.isnan(report.coco.AP) and state.best_ap <= 0  # then the best model is the last one
            best = ap > state.best_ap or unmeasured
            state.best_ap = max(ap, state.best_ap)
        record["seconds"] = self._seconds()
        state.end_epoch(record)
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
        every, done = self.run.config.evaluate_every, self.state.epoch + 1
        return done == self.run.config.epochs or (every > 0 and done % every == 0)

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

        run.group.share(self.model.buffers())  # batch norm's averages: each process has gathered different ones
        return evaluate_dataset(
            self.model,
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
            self.run.store.save(self.state.checkpoint(self.model, self.run.optimizer), best=best)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _introduce(self) -> None:
        run, (train_set, val_set) = self.run, (self.run.data.train, self.run.data.val)
        config, device = run.config, f"{run.group.world} x {run.group.device.type}"
        batch = min(config.batch_size, len(train_set))
        again = f", going on after step {self.step}" if self.step else ""
        if batch < config.batch_size:
            self.monitor.say(f"there are fewer pictures than a batch of {config.batch_size}: each step has all {batch}")
        self.monitor.say(
            f"{self.model.config.name} on {counted(len(train_set), 'picture')} of {train_set.root.name}, {len(val_set)}"
            f" ({val_set.split or 'the same'}) to measure it: {counted(config.epochs, 'epoch')}"
            f" of {counted(len(run.loader), 'step')}, {counted(batch, 'picture')} each, on {device}{again}"
        )
        if val_set.is_empty:
            self.monitor.say(NOTHING_TO_MEASURE)
        problems = {*train_set.problems, *val_set.problems}  # parts of one data set share them
        if problems:
            self.monitor.say(f"left out: {len(problems)} bad annotations or pictures; see them: onestage data check")


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


def _cut(batch: Batch, parts: int) -> list[Batch]:
    """The batch in ``parts`` of nearly equal size, fewer if it has fewer pictures."""
    count = len(batch.metas)
    cuts = [slice(a, b) for a, b in pairwise(i * count // parts for i in range(parts + 1)) if a < b]
    return [Batch(batch.images[c], batch.targets[c], batch.metas[c]) for c in cuts]


def _starves_batch_norm(model: nn.Module, images: Tensor) -> bool:
    """Whether a batch norm in training gets one value per channel, which has no variance. images: (B, 3, H, W), normalised.

    The network runs once more, up to that layer. Call this only after the network has failed.
    """
    starved: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        starved.append(layer.training and inputs[0].numel() == inputs[0].shape[1])

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad(), contextlib.suppress(ValueError):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return any(starved)
