"""Training, in one sitting: read the data, then for every batch match, run, weigh, step; measure and save after every epoch.

Shape letters: B images of a batch. A run goes on after any interruption with the very bits it would have had
(train/checkpoint.py).
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onestage.data import Dataset
from onestage.data.loader import Shard, TrainLoader, seed_of, usual_workers
from onestage.data.transforms import TrainTransform
from onestage.errors import ConfigError, OnestageError, counted, known_keywords
from onestage.metrics.report import Report
from onestage.model.anchors.max_iou import Assignment
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.processes import Distributed, init
from onestage.structures import Batch, HeadOutput
from onestage.training.checkpoint import CheckpointStore, TrainState
from onestage.training.config import TrainConfig
from onestage.training.inputs import adopt_classes, read_data
from onestage.training.monitor import Monitor
from onestage.training.optim import learning_rate, make_optimizer
from onestage.training.run import Plan, fingerprint, write_history
from onestage.training.signals import StopSignal
from onestage.weights.detector_file import BEST, LAST, metadata

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
        """The model of the best validation AP."""
        return self.folder / BEST

    @property
    def last(self) -> Path:
        return self.folder / LAST


@known_keywords
def train(
    model: Detector,
    data: str | Path | Dataset,
    *,
    out: str | Path = "runs/train",
    epochs: int | None = None,
    config: TrainConfig = DEFAULTS,
    format: str | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train the detector on a data set (a path, or a Dataset already read), in place; the run folder ``out`` keeps everything.

    The "val" split measures it after every epoch; without one a tenth of the training pictures is held out for that. A model
    made for a number of classes takes their names from the data. ``epochs`` replaces the config's. ``resume`` goes on with a
    run that was interrupted, to the same end as if it had not been. Ctrl-C saves and returns; a second one stops at once.

    Raises DataError for unusable data, ConfigError where model, data and config do not fit or ``out`` holds another run,
    DivergedError at a loss that is not a number.
    """
    if epochs is not None:
        config = replace(config, epochs=epochs)
    if not isinstance(data, Dataset) and Path(out).resolve() == Path(data).resolve():
        what = "the run would be written among the pictures"
        raise ConfigError(what, where=out, got="the data set's folder", fix="give the run another one: out=, or --out")
    with init(config.device) as group, _reproducible(group.device), StopSignal(told=group.is_main) as stop:
        train_set, val_set = read_data(model, data, config, format)
        adopt_classes(model, train_set)
        model.to(group.device)
        training = Training(model, train_set, val_set, config=config, folder=Path(out), group=group, stop=stop)
        path = None if isinstance(data, Dataset) else str(Path(data).resolve())
        training.prepare(Plan(model.config, config, path, format), resume=resume)
        return training.run()


@known_keywords
def resume(folder: str | Path) -> TrainResult:
    """Go on with an interrupted run from its folder alone."""
    plan = Plan.load(folder)
    if plan.data is None:
        raise ConfigError("this run's data was handed over in Python", where=folder, fix="train(model, data, resume=True)")
    return train(Detector(plan.model), plan.data, out=folder, config=plan.train, format=plan.format, resume=True)


@dataclass
class Training:
    """One run. The second block of fields changes while it goes on, and all of that is in every checkpoint."""

    model: Detector
    train_set: Dataset
    val_set: Dataset
    config: TrainConfig
    folder: Path
    group: Distributed
    stop: StopSignal

    step: int = 0
    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_ap: float = -1.0
    spent: float = 0.0

    stopping: bool = False  # some process was asked to stop; all know it since the same step
    rate: float = 0.0  # pictures per second
    told: int = 0  # pictures that could not be read, as last told

    def prepare(self, plan: Plan, *, resume: bool) -> None:
        """Build what training needs; probe the folder, and either start it or take its newest whole checkpoint."""
        config, group, preprocess = self.config, self.group, self.model.config.preprocess
        self.loader = TrainLoader(
            self.train_set,
            TrainTransform(preprocess.place, config.augmentation, fill=preprocess.colour, antialias=preprocess.antialias),
            batch_size=config.batch_size,
            seed=config.seed,
            shard=Shard(group.rank, group.world),
            workers=usual_workers(group.world) if config.workers is None else config.workers,
            on_bad=config.on_bad,
            pin_memory=group.device.type == "cuda",
        )
        self.steps = config.epochs * len(self.loader)
        self.optimizer = make_optimizer(self.model, config)
        self.network = group.parallel(self.model, spare_parts=isinstance(self.model.config.backbone, TimmBackbone))
        self.autocast = _autocast(config.precision, group.device)
        self.store = CheckpointStore(self.folder)
        self.data = fingerprint(self.train_set)
        state, damaged = self.store.latest()
        if resume:
            Plan.load(self.folder).check_same(plan, self.folder)
            self._restore(state, damaged)
        elif state is not None or damaged:
            raise ConfigError(
                "this folder already holds a run",
                where=self.folder,
                fix=f"go on with it ({self._go_on}), or choose another folder",
            )
        group.barrier()
        if group.is_main:
            self.store.probe()
            plan.save(self.folder)
            if self.history:  # the last run may have ended between its checkpoint and these files
                write_history(self.folder, self.history)

    def run(self) -> TrainResult:
        """Train to the last epoch, or until a signal."""
        self.started = self.saved = time.monotonic()
        report = None
        with Monitor(self.config, steps_per_epoch=len(self.loader), done=self.step, shown=self.group.is_main) as self.monitor:
            if self.epoch == self.config.epochs:
                self.monitor.say(f"this run was complete already, after {counted(self.epoch, 'epoch')}")
            else:
                self._introduce()
            while self.epoch < self.config.epochs and not self.stopping:
                self._train_epoch()
                if not self.stopping:
                    report = self._finish_epoch() or report
            if self.stopping:
                self._save()
                self.monitor.say(f"stopped in epoch {self.epoch + 1}; all is saved. Go on with: {self._go_on}")
        return TrainResult(self.folder, self.best_ap, report, self.stopping, self._seconds())

    def _train_epoch(self) -> None:
        """Train on what is left of the epoch, or until a signal."""
        self.model.train()
        seen, begun = 0, time.monotonic()
        for batch in self.loader.epoch(self.epoch, start=self.batch):
            losses = self._step(batch)
            self.step += 1
            self.batch += 1
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            seen += len(batch.metas) * self.group.world
            self.rate = seen / (time.monotonic() - begun)
            means = {name: total / self.batch for name, total in self.sums.items()}
            self.monitor.step(self.step, self.epoch, means, self.rate)
            if self.stopping:
                return
            if time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes:
                self._save()

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on B images of this process; the losses, over all processes, as plain numbers.

        All losses are divided by the positives of the whole step, whoever holds them: one process with 8 pictures, two with 4
        and two accumulated parts of 4 take the same step, but for batch norm, which averages over what it sees at once, and for
        what drop_path leaves out.
        """
        torch.manual_seed(seed_of(self.config.seed, self.step, self.group.rank))  # dropout too is the same after a resume
        lr = learning_rate(self.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = batch.to(self.group.device)
        parts = _cut(batch, self.config.accumulate)

        self.optimizer.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            with self._synchronised(last=i == len(parts) - 1):
                output = self._forward(part)
                if i == 0:  # the sizes of the maps, and with them the anchors of all parts, are known from here on
                    assignments, divisor = self._assign(parts, output)
                losses = self.model.loss(output, assignments[i], normalizer=divisor)
                total_loss = torch.stack([*losses.values()]).sum()
                (total_loss * self.group.world).backward()  # DDP takes the mean over the processes
            total = {name: value.detach() + total.get(name, 0.0) for name, value in losses.items()}
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        asked = norm.new_tensor(float(self.stop.asked))
        values = self.group.all_reduce_sum(torch.stack([*total.values(), norm / self.group.world, asked])).tolist()
        if not all(math.isfinite(v) for v in values):
            raise self._diverged(batch, dict(zip((*total, "gradient norm"), values, strict=False)), lr)
        self.optimizer.step()
        self.stopping = values[-1] > 0
        return dict(zip(total, values, strict=False))

    def _assign(self, parts: Sequence[Batch], output: HeadOutput) -> tuple[list[Assignment], Tensor]:
        """Which anchor learns which object in each part, and the divisor () of the whole step, over all processes.

        output: of one of the parts; all have images of one size.
        """
        criterion, device = self.model.criterion, self.group.device
        sizes, input_size = output.level_sizes, output.input_size
        assignments = [criterion.assign(part.targets, sizes, input_size, device=device) for part in parts]
        positives = torch.stack([self.model.config.loss.normalizer(a.matches) for a in assignments]).sum()
        return assignments, self.group.all_reduce_sum(positives).clamp(min=1.0)

    def _forward(self, part: Batch) -> HeadOutput:
        try:
            with self.autocast:
                output: HeadOutput = self.network(self.model.config.preprocess.normalize(part.images))
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):
                raise
            what = "batch norm has no average over one picture alone, where a map has shrunk to one cell"
            fix = "raise --batch-size, lower --accumulate, or train on more pictures"
            raise ConfigError(what, where=self.model.config.name, fix=fix) from e
        return output

    def _synchronised(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients travel between the processes once per step, with its last part."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            return self.network.no_sync()
        return contextlib.nullcontext()

    def _diverged(self, batch: Batch, values: dict[str, float], lr: float) -> DivergedError:
        own = [meta.path or str(meta.image_id) for meta in batch.metas]
        paths = ", ".join(path for part in self.group.gather_objects(own) for path in part)
        return DivergedError(
            "the loss is not a number any more; the checkpoints before this step are sound",
            where=f"step {self.step + 1}, epoch {self.epoch + 1}, pictures {paths}",
            got=", ".join(f"{name} {value:g}" for name, value in values.items()) + f" at learning rate {lr:g}",
            fix="lower --lr, or raise --warmup; and look at these pictures: onestage data check",
        )

    def _finish_epoch(self) -> Report | None:
        """Measure if it is time, write the history, save. The epoch counts as done from here on."""
        record: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step}
        means = {name: total / len(self.loader) for name, total in self.sums.items()}
        record |= {"loss": sum(means.values()), **{f"loss/{name}": value for name, value in means.items()}}
        record |= {"lr": self.optimizer.param_groups[0]["lr"], "images_per_s": self.rate}
        report = self._validate() if self._is_time_to_validate() else None
        if report is not None:
            names = {"total": "val/loss"}
            record |= {"val/AP": report.coco.AP, "val/AP50": report.coco.AP50}
            record |= {names.get(name, f"val/loss/{name}"): value for name, value in (report.losses or {}).items()}
        record["seconds"] = self._seconds()
        self.history.append(record)
        ap = -1.0 if report is None else max(0.0, report.coco.AP)  # 0 where it is NaN: the first model measured is the best
        best = ap > self.best_ap
        self.best_ap = max(ap, self.best_ap)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        self.monitor.epoch(record)
        self._tell_skipped()
        self._save(best=best)
        if self.group.is_main:
            write_history(self.folder, self.history)
        return report

    def _tell_skipped(self) -> None:
        """How many pictures could not be read so far, by any process."""
        if self.config.on_bad == "skip":
            skipped = {path for part in self.group.gather_objects(list(self.loader.skipped)) for path in part}
            if len(skipped) > self.told:
                self.monitor.say(f"{len(skipped)} pictures could not be read, such as {min(skipped)}; others stood in for them")
            self.told = len(skipped)

    def _is_time_to_validate(self) -> bool:
        every, done = self.config.evaluate_every, self.epoch + 1
        return done == self.config.epochs or (every > 0 and done % every == 0)

    def _validate(self) -> Report:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count * self.group.world
            self.monitor.validating(min(done, len(self.val_set)), len(self.val_set))

        self.group.share(self.model.buffers())  # batch norm's averages: each process has gathered its own
        return evaluate_dataset(
            self.model,
            self.val_set,
            batch_size=max(1, self.config.batch_size // self.group.world),
            workers=self.config.workers,
            on_bad=self.config.on_bad,
            advance=advance,
            distributed=self.group,
        )[0]

    def _save(self, *, best: bool = False) -> None:
        self.saved = time.monotonic()
        if not self.group.is_main:
            return
        extra = {
            "batch": self.batch,
            "sums": self.sums,
            "history": self.history,
            "best_ap": self.best_ap,
            "seconds": self._seconds(),
            "data": self.data,
        }
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        self.store.save(TrainState(self.step, self.epoch, model, metadata(self.model), optimizer, extra), best=best)

    def _restore(self, state: TrainState | None, damaged: Sequence[str]) -> None:
        if self.group.is_main:
            for line in damaged:
                print(f"skipped a damaged checkpoint: {line}")
        if state is None:
            raise ConfigError("there is no checkpoint to go on from", where=self.folder, fix="start without resume")
        if "data" not in state.extra:
            what = "the checkpoints of this run do not say which pictures it saw: an earlier version of onestage wrote them"
            fix = f"train into another folder, from this model: {self.folder / LAST}"
            raise ConfigError(what, where=self.folder, fix=fix)
        if state.extra["data"] != self.data:
            what = "the training pictures or their labels have changed since this run began"
            fix = f"put them back, or train into another folder, from this model: {self.folder / LAST}"
            raise ConfigError(what, where=self.train_set.root, got=f"{len(self.train_set)} pictures", fix=fix)
        self.model.load_state_dict(dict(state.model))
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.step, self.epoch = state.step, state.epoch
        self.batch, self.sums, self.history = state.extra["batch"], state.extra["sums"], state.extra["history"]
        self.best_ap, self.spent = state.extra["best_ap"], state.extra["seconds"]

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    @property
    def _go_on(self) -> str:
        return f"onestage train --resume {shlex.quote(str(self.folder))}"

    def _introduce(self) -> None:
        config, val_set, steps = self.config, self.val_set, len(self.loader)
        again = f", going on after step {self.step}" if self.step else ""
        pictures = counted(len(self.train_set), "picture")
        self.monitor.say(
            f"{self.model.config.name} on {pictures} of {self.train_set.root.name}, {len(val_set)}"
            f" ({val_set.split or 'the same'}) to measure it: {counted(config.epochs, 'epoch')} of {counted(steps, 'step')},"
            f" {counted(config.batch_size, 'picture')} each, on {self.group.world} x {self.group.device.type}{again}"
        )
        problems = {*self.train_set.problems, *val_set.problems}  # parts of one data set share them
        if problems:
            self.monitor.say(f"left out: {len(problems)} bad annotations or pictures; see them: onestage data check")


@contextlib.contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Torch's global random numbers as they were, afterwards; on a GPU, only cuDNN's deterministic kernels."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and on_gpu))


def _cut(batch: Batch, parts: int) -> list[Batch]:
    """The batch in ``parts`` of nearly equal size, fewer where it has fewer pictures."""
    count = len(batch.metas)
    cuts = [slice(a, b) for a, b in pairwise(i * count // parts for i in range(parts + 1)) if a < b]
    return [Batch(batch.images[c], batch.targets[c], batch.metas[c]) for c in cuts]
