"""The parts of a run and its folder: a run is started, or resumed from its newest checkpoint."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from onestage.data import Dataset
from onestage.data.loader import Feed, Shard, TrainLoader
from onestage.data.transforms import TrainTransform
from onestage.errors import ConfigError, OnestageError, WeightsError, WriteError, command, counted, first_ten
from onestage.files import BEST, LAST
from onestage.model.detector import Detector
from onestage.processes import Distributed
from onestage.training.checkpoint import STATE, Checkpoint, CheckpointStore
from onestage.training.config import TrainConfig
from onestage.training.folder import CONFIG, HISTORY, Plan, fingerprint, from_model, write_history
from onestage.training.going_on import NOTHING_NEW, NewSettings, told, went_on
from onestage.training.history import Change, last_part, with_left_out
from onestage.training.inputs import TrainData
from onestage.training.inventory import Inventory
from onestage.training.job import is_again, sign
from onestage.training.lock import FolderLock
from onestage.training.machine import Machine
from onestage.training.monitor import Monitor
from onestage.training.network import make_network, memory_order
from onestage.training.optim import load_optimizer, make_optimizer
from onestage.training.pictures import Stamps, come_and_gone, is_listed, stamping
from onestage.training.pictures import check as check_pictures
from onestage.training.pictures import save as save_stamps
from onestage.training.rules import ANCHORS, Chosen, Decision
from onestage.training.shards import divided, gather, spread, whole
from onestage.training.state import LEARNING, RunState
from onestage.weights.detector_file import load_detector


@dataclass(frozen=True, eq=False)
class Run:
    """The parts of a run. They stay the same to its end; what changes is in ``RunState``, in the weights and the momenta.

    network: the model, or the same compiled or under DistributedDataParallel. learner: the module with the weights that learn:
    the model, or with ``shard`` a copy that is divided among the processes, from which ``gather`` fills the model. loader:
    gives this process its share of every batch. changes: of the plan since the run began. decisions: how the settings that the
    user left open were decided, and the machine by which.

    averages: of the model's weights, and of its batch norm's, which are a part of what the averaged weights compute; None
    without ``ema``. Their decay at step t is at most 1 - t ** (-2/3), so that a short training forgets how it began.
    """

    model: Detector
    data: TrainData
    config: TrainConfig
    folder: Path
    group: Distributed
    loader: TrainLoader
    optimizer: torch.optim.Optimizer
    network: nn.Module
    learner: nn.Module
    autocast: torch.autocast
    store: CheckpointStore
    changes: tuple[Change, ...] = ()
    averages: ModelEmaV3 | None = None
    decisions: tuple[Decision, ...] = ()
    machine: Machine | None = None

    @staticmethod
    def of(model: Detector, data: TrainData, chosen: Chosen, folder: Path, group: Distributed) -> Run:
        """Build the parts for a model that is on its device. Raise ConfigError or DataError for an impossible batch size."""
        model.scores = None  # they were measured for the weights before this training
        preprocess, config = model.config.preprocess, chosen.train
        loader = TrainLoader(
            data.train,
            TrainTransform(preprocess.place, config.augmentation, fill=preprocess.colour, antialias=preprocess.antialias),
            batch_size=config.batch_size,
            seed=config.seed,
            shard=Shard(group.rank, group.world),
            workers=config.workers_of(group.world),
            on_bad=config.on_bad_picture,
            feed=Feed(config.balance, config.decoder, config.cache / group.world, pin_memory=group.device.type == "cuda"),
        )
        if config.shard:  # fresh weights may differ; without ``shard``, torch lets all begin with the same
            group.share(model.state_dict().values())
        model.to(memory_format=memory_order(config))
        learner = divided(model, group) if config.shard and group.world > 1 else model
        return Run(
            model=model,
            learner=learner,
            data=data,
            config=config,
            folder=folder,
            group=group,
            loader=loader,
            optimizer=make_optimizer(model, config, learner=learner),
            network=make_network(model, config, group) if learner is model else learner,
            autocast=_autocast(config.precision, group.device),
            store=CheckpointStore(folder),
            averages=ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None,
            decisions=chosen.decisions,
            machine=chosen.machine,
        )

    @property
    def is_divided(self) -> bool:
        """Whether each process has a part of the weights that learn."""
        return self.learner is not self.model

    def gather(self) -> None:
        """Let the model have the weights that learn, if they are divided. All processes have to call this."""
        if self.is_divided:
            gather(self.learner, self.model)

    def agree(self) -> None:
        """Let the model that is measured be the same in all processes: batch norm has gathered different averages in each."""
        self.gather()
        self.group.share(self.result.buffers())

    def agreed(self, wanted: bool) -> bool:
        """Whether this process is to save. If the weights are divided, all do what the first one wants."""
        if not self.is_divided:
            return wanted
        return bool(self.group.all_reduce_sum(torch.tensor(float(wanted and self.group.is_main))))

    def save(self, state: RunState, *, best: bool = False) -> None:
        """Write a checkpoint; the first process does. If the weights are divided, all processes have to call this."""
        if not (self.group.is_main or self.is_divided):
            return
        self.gather()
        momenta = self.optimizer.state_dict()
        checkpoint = state.checkpoint(self.result, self.model, whole(momenta) if self.is_divided else momenta)
        if self.group.is_main:
            self.store.save(checkpoint, best=best)

    @property
    def result(self) -> Detector:
        """The detector that is measured and saved: the averages, or without them the model that learns."""
        if self.averages is None:
            return self.model
        averaged: Detector = self.averages.module
        return averaged

    @property
    def plan(self) -> Plan:
        """The plan of the run: model, training and data."""
        return Plan(
            self.model.config,
            self.config,
            self.data.path,
            self.data.format,
            history=self.changes,
            decisions=self.decisions,
            machine=self.machine,
        )

    @property
    def steps(self) -> int:
        """Optimiser steps from the beginning to the end."""
        return self.config.steps or self.config.epochs * len(self.loader)

    @property
    def epochs(self) -> float:
        """Epochs from the beginning to the end; a whole number, or one with two digits after the point."""
        return self.config.epochs if self.config.steps is None else round_epochs(self.config.steps / len(self.loader))

    @property
    def has_fitted_anchors(self) -> bool:
        """Whether the anchors were fitted to the objects when the run began."""
        return any(decision.setting == ANCHORS for decision in self.decisions)

    def is_complete(self, state: RunState) -> bool:
        """Whether a state is the end of the run."""
        return (state.step >= self.steps and not state.taken) or self.is_early(state)

    def is_early(self, state: RunState) -> bool:
        """Whether the run is over before its last step: the AP rises no more."""
        return 0 < self.config.patience <= state.stale and state.step < self.steps

    @cached_property
    def val(self) -> Dataset:
        """The pictures that measure the model."""
        return spread_evenly(self.data.val, self.config.evaluate_pictures)

    @property
    def clean_step(self) -> int:
        """The step from which on mosaic and scale jitter are off. It follows from ``steps`` and their changes."""
        return last_part(self.config.clean, self.steps, self.changes)

    @property
    def go_on(self) -> str:
        """The command that resumes this run."""
        return f"onestage train --resume {shlex.quote(str(self.folder))}"

    @contextlib.contextmanager
    def says_how_to_go_on(self) -> Iterator[None]:
        """Inside, the error of a file that cannot be written, as on a full disk, says how the run goes on afterwards."""
        try:
            yield
        except (WriteError, WeightsError) as error:
            if any(self.store.checkpoints.glob(f"*/{STATE}")):
                first = f"{error.fix}; then " if error.fix else ""
                error.fix = f"{first}go on with the run: {self.go_on}"
            raise


def spread_evenly(every: Dataset, count: int | None) -> Dataset:
    """So many of the pictures, spread evenly: the same ones for the same number. None: all of them."""
    if count is None or count >= len(every):
        return every
    return every.subset([i * len(every) // count for i in range(count)])


def round_epochs(epochs: float) -> float:
    """A number of epochs for people: a whole number, or one with two digits after the point."""
    rounded = round(epochs, 2)
    return int(rounded) if rounded == int(rounded) else rounded


@dataclass(frozen=True)
class Beginning:
    """How a run begins, or goes on. planned: of a run that goes on, before its new ``settings``; None for a new run.
    accept_changes: go on though pictures have changed.
    """

    planned: Plan | None = None
    settings: NewSettings = NOTHING_NEW
    accept_changes: bool = False

    def pictures_in(self, folder: Path) -> Inventory | None:
        """The pictures with which the run in ``folder`` began; None for a new run, or if they are not known."""
        return None if self.planned is None else Inventory.load(folder)


def start(run: Run, monitor: Monitor, lock: FolderLock, begin: Beginning) -> tuple[Run, RunState]:
    """The run as it begins: new, or in the state of the newest whole checkpoint.

    Check that the folder can be written, and sign its lock, which this process has. Raise ConfigError if the folder already
    holds a run and none is planned, or if one is and the folder holds none that these parts can take up.
    So it does if pictures have changed since the run began, unless it is to accept changes.
    """
    planned, settings = begin.planned, begin.settings
    checkpoint, damaged = run.store.latest()
    begun = checkpoint is not None and checkpoint.step > 0
    again = is_again(run.group, run.folder)
    if planned is None and not begun and _begins_again(run, checkpoint, monitor, again=again):
        checkpoint, damaged = None, ()
    if planned is not None:
        replace(planned, train=settings.of(planned.train)).check_same(run.plan, run.folder)
        for line in damaged:
            monitor.say(f"skipped a damaged checkpoint: {line}")
        if checkpoint is None:
            raise _beyond_repair(run, damaged)
        state = restored(run, checkpoint)
        run = _with_new_settings(run, state, planned, settings)
    elif checkpoint is None and not damaged:
        state = RunState(data=fingerprint(run.data.train), batch_size=run.config.batch_size)
    else:
        fix = f"go on with it ({run.go_on}), or choose another folder"
        raise ConfigError("this folder already holds a run", where=run.folder, fix=fix)
    stamps: dict[str, str] = {}
    work = stamping(stamps, run.data.train, run.data.val, timeout=run.config.worker_timeout)
    while run.group.on_main(lambda: next(work, None)) is not None:  # the others hear of every part, so none takes too long
        pass
    checked = begun and planned is not None and not begin.accept_changes  # before the first step, nothing was learned
    lost = run.group.on_main(partial(_lost, run, stamps, checked=checked))
    if settings.given or lost:
        monitor.say(told(settings, state.step, lost))
    run = replace(run, changes=with_left_out(run.changes, state.step, lost))
    run.group.on_main(partial(_open_folder, run, state, monitor, lock, stamps, kept=checked, new=planned is None))
    return run, state


def _begins_again(run: Run, checkpoint: Checkpoint | None, monitor: Monitor, *, again: bool) -> bool:
    """Whether the folder holds a run that had not begun: its length was not known, or it was killed while it wrote its first
    checkpoint, or the launcher starts the processes ``again``, of which one died before that was whole.
    """
    killed = run.store.is_unfinished and not (run.folder / HISTORY).exists()
    again = _waits_for_its_length(run.folder) or (checkpoint is None and (again or killed))
    if again and (run.folder / CONFIG).is_file():
        monitor.say("the run in this folder had not begun: it begins again")
    return again


def _waits_for_its_length(folder: Path) -> bool:
    """Whether the folder holds a run whose steps are not known yet."""
    return (folder / CONFIG).is_file() and Plan.load(folder).is_unfitted


def _with_new_settings(run: Run, state: RunState, planned: Plan, settings: NewSettings) -> Run:
    """The run with the length and the history that follow from its new settings."""
    pictures = len(run.data.train)
    old_epoch = max(1, pictures // (state.batch_size or planned.train.batch_size))
    config, changes = went_on(settings, planned, run.config, state, loader=run.loader, old_epoch=old_epoch)
    state.batch_size = config.batch_size
    return replace(run, config=config, changes=changes)


def _lost(run: Run, stamps: Stamps, *, checked: bool) -> list[str]:
    """The names of the pictures that are gone or cannot be read since the run began. stamps: of the pictures as they are.

    checked: raise ConfigError if pictures have changed; look for unreadable ones only then.
    """
    lost, root = [*run.data.gone], run.data.train.root
    if checked:
        skips = run.config.on_bad != "stop"
        lost += check_pictures(run.folder, stamps, root=root, go_on=run.go_on, lost=skips)
    return [*dict.fromkeys(lost)]


def _open_folder(
    run: Run, state: RunState, monitor: Monitor, lock: FolderLock, stamps: dict[str, str], *, kept: bool, new: bool
) -> None:
    """Write what a run folder has from the beginning. stamps: of the pictures as they are; they are gone afterwards.

    kept: the stamps with which the run began stay. new: the run begins.
    """
    run.store.probe()
    if new:
        _tell_little_room(run, monitor)
    if lock.left_by is not None:
        monitor.say(f"took the folder over from {lock.left_by}, which ended without a word")
    lock.sign()
    sign(run.folder)
    if not kept or not is_listed(run.folder):
        save_stamps(run.folder, stamps)
    stamps.clear()  # those of a million pictures take much memory
    if run.data.path is not None and (new or not (run.data.gone or Inventory.load(run.folder))):
        Inventory.of(run.data.train, run.data.val).save(run.folder)
    run.plan.save(run.folder)
    if state.history:  # the last process may have ended between its checkpoint and these files
        write_history(run.folder, state.history)


def _tell_little_room(run: Run, monitor: Monitor) -> None:
    """Say so if the disk has less room than the checkpoints and models of the run will take."""
    model = sum(tensor.nbytes for tensor in run.model.state_dict().values())
    momenta = 2 if run.config.optimizer == "adamw" else 1
    checkpoint = (1 + momenta + (run.averages is not None)) * model
    needs = (run.store.keep + 1) * checkpoint + 3 * model  # last, best, and one that is being written
    free = shutil.disk_usage(run.folder).free
    if free < needs:
        monitor.say(
            f"there may be too little room: {free / 1e6:,.0f} MB are free on the disk of {run.folder}, and the run needs up to"
            f" {needs / 1e6:,.0f} MB"
        )


def open_again(run: Run, monitor: Monitor, lock: FolderLock) -> None:
    """If the folder was moved away or deleted, write what a run needs to go on into a new one of its name."""
    if lock.renewed():
        monitor.say(f"{run.folder} was moved away or deleted: from here on there is a new one of that name")
        run.plan.save(run.folder)
        sign(run.folder)
        if run.data.path is not None and not run.data.gone:
            Inventory.of(run.data.train, run.data.val).save(run.folder)


def _beyond_repair(run: Run, damaged: Sequence[str]) -> ConfigError:
    """No checkpoint is whole. The advice is to begin another run, from the last or the best model if one is whole."""
    model = next((path for name in (LAST, BEST) if _is_whole(path := run.folder / name)), None)
    start_from = f"--model {run.model.config.name}" if model is None else f"--weights {shlex.quote(str(model))}"
    numbers = (run.folder.with_name(f"{run.folder.name}-{number}") for number in count(2))
    folder = next(path for path in numbers if not path.exists())
    options = "".join(f" {option}" for option in run.config.options)
    return ConfigError(
        "there is no checkpoint to go on from",
        where=run.folder,
        got="\n" + first_ten(damaged) if damaged else "no checkpoints",
        fix=f"begin another run: {command('train', *run.plan.named)} {start_from} --out {shlex.quote(str(folder))}{options}",
    )


def _is_whole(model: Path) -> bool:
    try:
        load_detector(model)
    except OnestageError:
        return False
    return True


def restored(run: Run, checkpoint: Checkpoint) -> RunState:
    """The checkpoint's weights and momenta are loaded; the rest is returned."""
    fix = f"train into another folder{from_model(run.folder)}"
    if "data" not in checkpoint.extra:
        what = "the checkpoints of this run do not say which pictures it saw: an earlier version of onestage wrote them"
        raise ConfigError(what, where=run.folder, fix=fix)
    try:
        state = RunState.of(checkpoint)
    except WeightsError as e:
        raise e.at(run.folder) from e
    if state.data != fingerprint(run.data.train):
        _check_gone(run, fix)
    run.model.load_state_dict(dict(checkpoint.extra.get(LEARNING, checkpoint.model)))
    if run.averages is not None:
        run.result.load_state_dict(dict(checkpoint.model))
    if run.is_divided:
        spread(run.model, run.learner)
    load_optimizer(run.optimizer, checkpoint.optimizer)
    return state


def _check_gone(run: Run, fix: str) -> None:
    """Raise ConfigError unless the training pictures differ from those of the run by some that are gone and may be left out.

    fix: what to do if they differ by more.
    """
    begun, gone = Inventory.load(run.folder), run.data.gone
    changed = [] if begun is None else begun.changes(run.data.train)
    if begun is not None and gone and not changed:
        if run.config.on_bad != "stop":
            return
        fix = f"go on without them: {run.go_on} --on-bad limit"
    changed = [*(f"{name}: it is gone" for name in gone), *changed]
    changed = changed or come_and_gone(run.folder, run.data.train, run.data.val)
    got = "\n" + first_ten(changed) if changed else f"{counted(len(run.data.train), 'picture')}, and other labels"
    what = "the training pictures or their labels have changed since this run began"
    raise ConfigError(what, where=run.data.train.root, got=got, fix=f"put them back, or {fix}")


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and on_gpu))
