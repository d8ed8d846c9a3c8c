"""The trials of a search, in a database that several processes and machines share, and that outlives them.

study.db     the trials, by Optuna (SQLite), unless another storage is named
tune.json    what is searched, and for how long each trial trains; fixed when the search begins
trials/N     the run folder of trial N, with the traceback of its last error in failed.txt
best.json    the best trial so far: ``onestage train DATA --config best.json``
index.html   the page of the search
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
from filelock import FileLock
from optuna import Study, Trial, TrialPruned
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from onestage.errors import ConfigError, DataError, OnestageError, absent, counted, lacks_memory, shortened
from onestage.files import BEST as BEST_MODEL
from onestage.files import LAST as LAST_MODEL
from onestage.files import make_folder, write_atomically
from onestage.model.codec import decode, encode
from onestage.model.config import DetectorConfig
from onestage.training.checkpoint import CHECKPOINTS, newest_step
from onestage.training.checks import DivergedError
from onestage.training.config import Setting
from onestage.tuning.space import Proposal, Space, Value

PLAN = "tune.json"
BEST = "best.json"
STORAGE = "study.db"
TRIALS = "trials"
NAME = "onestage"
LOCK = ".tune.lock"
FOLDER, PROCESS, WHY = "folder", "process", "why"
"""What is kept with a trial: its run folder, the process that works on it, and why it could not be trained."""
TRIED, REACHED, BEFORE = "tried", "reached", "before"
"""With a trial that is tried again: how often it has failed since its last new checkpoint, the step of that checkpoint, and why
it failed before.
"""
FAILED, STOPPED = "failed", "stopped"
"""With a trial that has failed: why, and whether somebody stopped it, which is no failure."""
TRIES = 3
"""A trial that has failed so often, without a new checkpoint in between, is given up."""
FAILURE = "failed.txt"
HEARTBEAT, GRACE = 30, 120
"""Seconds between two signs of life of a trial, and after how many without one it counts as lost."""
PATIENCE = 60.0
"""Seconds to wait for another process that has the database."""
STARTUP = 4
"""Trials before any is stopped early, and after which the sampler learns from them."""
SPREAD = 7919
"""Between the seeds of two trials."""
RUNGS = 10
"""A trial is compared with the others at each tenth of its steps."""


@dataclass(frozen=True)
class SearchPlan:
    """What all processes of a search agree on. data: the path of the data set. minutes: of each trial. options: of the user."""

    data: str
    space: Space
    minutes: float
    options: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What a trial came to. AP: the best on the validation pictures. settings: those that differ from the rules."""

    AP: float
    detector: DetectorConfig
    settings: Mapping[str, Setting]


class Stopped(Exception):
    """A trial was interrupted by a signal; its run is saved."""


class Failed(Exception):
    """A try of a trial has failed in a way that says nothing about the others."""


class Watch(Protocol):
    """Hears the AP of a trial while it trains, and raises an error that ends it if it is not worth going on."""

    def __call__(self, AP: float, part: float) -> None:
        """AP: of a measurement. part: of the steps that are done, 0 to 1."""
        ...


Run = Callable[[Proposal, Path, Watch], Trained]
"""A function that trains a proposal in a run folder, or goes on there. It raises Stopped after a signal."""


def agree(out: Path, plan: SearchPlan) -> SearchPlan:
    """The plan of the search in a folder: this one if it is new. Raise ConfigError if it has another plan."""
    make_folder(out)
    path = out / PLAN
    with FileLock(out / LOCK):
        if not path.exists():
            write_atomically(path, (json.dumps(encode(plan), indent=2) + "\n").encode())
            return plan
    begun = load_plan(out)
    mine, theirs = (vars(each) for each in (plan, begun))
    changed = [
        f"{name}: {theirs[name]} -> {mine[name]}"
        for name in ("data", "minutes", "options", "seed")
        if mine[name] != theirs[name]
    ]
    if changed:
        fix = "give the options with which it began, or name another folder: --out"
        raise ConfigError("this folder holds another search", where=out, got="; ".join(changed), fix=fix)
    return begun


def load_plan(out: Path) -> SearchPlan:
    """The plan of the search in a folder. Raise ConfigError if there is none, or it cannot be read."""
    path = out / PLAN
    try:
        return decode(json.loads(path.read_text(encoding="utf-8")), SearchPlan, PLAN)
    except OSError as error:
        fix = "name a folder that onestage tune made"
        raise ConfigError(absent(path, "this folder holds no search"), where=out, got=error.strerror, fix=fix) from error
    except (ValueError, RecursionError) as error:
        fix = "put the file back, or begin another search: --out"
        raise ConfigError("the plan of the search cannot be read", where=path, got=error, fix=fix) from error


class Search:
    """A search in a folder, as this process takes part in it."""

    def __init__(self, out: Path, plan: SearchPlan, *, storage: str | None = None) -> None:
        self.out, self.plan = out, plan
        self._lock = FileLock(out / LOCK)
        self.study = _study(out, storage, seed=plan.seed)
        with self._lock:
            if not self.study.trials:
                self.study.enqueue_trial(dict(plan.space.first), user_attrs={FOLDER: f"{0:04d}"})

    def next(self, run: Run) -> FrozenTrial:
        """Train one trial: one that was left unfinished, or a new one. A trial that cannot be trained is over, with the reason.

        One that fails otherwise, as for want of memory, is on the list again, and is given up after TRIES failures; so is one
        whose process was killed. Raise Stopped after a signal, and the error where a picture cannot be read or a file cannot be
        written, which no other trial would spare: the trial is on the list again then, and that counts as no failure.
        """
        number = -1

        def objective(trial: Trial) -> float:
            nonlocal number
            number = trial.number
            return self._objective(trial, run)

        self._take_back()
        try:
            self.study.optimize(objective, n_trials=1, catch=(Failed,))
        finally:
            self._take_back()
        with self._lock:  # others end trials too: each keeps the best of those that it sees, and writes it, before the next
            trials = self.trials
            best = best_of(trials)
            self._tidy(trials, best)
            self._save_best(best)
        return next(trial for trial in trials if trial.number == number)

    def _objective(self, trial: Trial, run: Run) -> float:
        """The AP of a trial, which is trained in its run folder."""
        trial.set_user_attr(PROCESS, _process())
        name = trial.user_attrs.get(FOLDER, f"{trial.number:04d}")
        trial.set_user_attr(FOLDER, name)
        folder = self.out / TRIALS / name
        try:
            done = run(self.plan.space.ask(trial), folder, _watch(trial))
        except (ConfigError, DivergedError) as error:  # such as an input that is too small for the model
            trial.set_user_attr(WHY, str(error))
            raise TrialPruned from error
        except TrialPruned:
            raise
        except (Stopped, KeyboardInterrupt):
            trial.set_user_attr(STOPPED, True)
            raise
        except Exception as error:
            if _is_of_files(error):
                trial.set_user_attr(STOPPED, True)
                raise
            trial.set_user_attr(FAILED, _reason(error))
            _note(error, folder)
            raise Failed from error
        trial.set_user_attr("detector", encode(done.detector))
        trial.set_user_attr("settings", json.loads(json.dumps(dict(done.settings))))
        return done.AP

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, of all processes."""
        return self.study.get_trials(deepcopy=False)

    @property
    def complete(self) -> list[FrozenTrial]:
        """The trials that were trained to their end."""
        return complete_of(self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial, the first of equal ones; None if there is none yet."""
        return best_of(self.trials)

    def folder(self, trial: FrozenTrial) -> Path:
        """The run folder of a trial."""
        return self.out / TRIALS / trial.user_attrs.get(FOLDER, f"{trial.number:04d}")

    def given_up(self, trial: FrozenTrial) -> str | None:
        """Why the trial that has failed is not tried again; None if it is."""
        name = trial.user_attrs.get(FOLDER)
        return next((t.user_attrs.get(WHY) for t in self.trials[trial.number + 1 :] if t.user_attrs.get(FOLDER) == name), None)

    def _take_back(self) -> None:
        """Put trials whose process ended before them on the list again. They go on in their run folder."""
        with self._lock:
            trials = self.trials
            for trial in trials:
                if trial.state is TrialState.RUNNING and _is_gone(trial.user_attrs.get(PROCESS, "")):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                elif trial.state is not TrialState.FAIL:
                    continue
                name = trial.user_attrs.get(FOLDER)
                if name is not None and not any(t.number > trial.number and t.user_attrs.get(FOLDER) == name for t in trials):
                    self._again(trial, name)

    def _again(self, trial: FrozenTrial, name: str) -> None:
        """Put a trial that has failed on the list again; or, after too many failures, the reason why it is given up."""
        known, reached = trial.user_attrs, newest_step(self.out / TRIALS / name)
        tried = known.get(TRIED, 0) if reached <= known.get(REACHED, 0) else 0
        kept = {FOLDER: name, TRIED: tried, REACHED: reached, BEFORE: known.get(BEFORE, "")}
        if not known.get(STOPPED):
            kept |= {TRIED: tried + 1, BEFORE: known.get(FAILED, "its process was killed")}
        if kept[TRIED] < TRIES:
            self.study.enqueue_trial(trial.params, user_attrs=kept)
            return
        why = f"given up after {counted(TRIES, 'failure')}: {kept[BEFORE]}"
        options = {"params": trial.params, "distributions": trial.distributions, "user_attrs": kept | {WHY: why}}
        self.study.add_trial(create_trial(state=TrialState.PRUNED, **options))

    def _tidy(self, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> None:
        """Remove the checkpoints of all finished trials, and the models of all but the best: a search makes many."""
        for trial in trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                shutil.rmtree(self.folder(trial) / CHECKPOINTS, ignore_errors=True)
                if best is None or trial.number != best.number:
                    for name in (BEST_MODEL, LAST_MODEL):
                        (self.folder(trial) / name).unlink(missing_ok=True)

    def _save_best(self, best: FrozenTrial | None) -> None:
        """Write the best trial, for ``onestage train --config``."""
        if best is not None:
            about = {"AP": best.value, "trial": best.number, "minutes": self.plan.minutes}
            content = {"tuned": about, "training": best.user_attrs["settings"], "detector": best.user_attrs["detector"]}
            write_atomically(self.out / BEST, (json.dumps(content, indent=2) + "\n").encode())


def complete_of(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained to their end."""
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best complete trial, the first of equal ones; None if there is none yet."""
    return max(complete_of(trials), key=lambda trial: trial.value or 0.0, default=None)


class _Sampler(BaseSampler):
    """Optuna's TPE. Its random numbers follow from the seed of the search and the number of the trial, which no other has."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the random numbers of a trial."""
        seed = self._seed + SPREAD * trial.number
        self._inner = TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Value]:
        """The values that are drawn together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Value:
        """A value that is drawn by itself."""
        value: Value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return value


def _study(out: Path, storage: str | None, *, seed: int) -> optuna.Study:
    """The trials in a folder, or in another storage."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        patient = {"connect_args": {"timeout": PATIENCE}} if storage is None else {}
        url = storage or f"sqlite:///{(out / STORAGE).resolve()}"
        try:
            with FileLock(out / LOCK):
                kept = optuna.storages.RDBStorage(url, patient, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        except Exception as error:  # of the database, whichever it is
            fix = "sqlite:///FILE, or the address of a database of which its Python package is installed"
            raise ConfigError("the storage of the trials cannot be opened", where=url, got=error, fix=fix) from error
        return optuna.create_study(
            storage=kept,
            study_name=f"{NAME} {out.resolve()}" if storage is not None else NAME,
            sampler=_Sampler(seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1),
            direction="maximize",
            load_if_exists=True,
        )


def _watch(trial: Trial) -> Watch:
    """Report a trial's best AP at each tenth of its steps, and end it where most others had more."""
    best = 0.0
    known = 0

    def hear(AP: float, part: float) -> None:
        nonlocal best, known
        best = max(best, AP)
        for rung in range(known + 1, int(RUNGS * part) + 1):
            trial.report(best, rung)
            known = rung
        if part < 1 and known and trial.should_prune():
            raise TrialPruned

    return hear


def _is_of_files(error: Exception) -> bool:
    """Whether pictures are wrong or something cannot be read or written, whatever is trained."""
    return isinstance(error, DataError | OSError) or (isinstance(error, OnestageError) and isinstance(error.__cause__, OSError))


def _reason(error: Exception) -> str:
    """Why a try has failed, for people, on one line."""
    if lacks_memory(error):
        return "there was not enough memory"
    if isinstance(error, OnestageError):
        return error.what
    return shortened(f"{type(error).__name__}: {error}".partition("\n")[0], 200)


def _note(error: Exception, folder: Path) -> None:
    """Write the traceback of an error into the run folder of its trial, if that can be written."""
    with suppress(OSError, OnestageError):
        make_folder(folder)
        write_atomically(folder / FAILURE, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))


def _process() -> str:
    """This process, for the others."""
    return f"{platform.node()} {os.getpid()}"


def _is_gone(process: str) -> bool:
    """Whether a process was on this machine and is no more."""
    machine, _, number = process.rpartition(" ")
    if machine != platform.node() or not number.isdecimal():
        return False  # a process of another machine: the database hears no sign of life of it
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
