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
import re
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol
from uuid import uuid4

from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from onestage.errors import ConfigError, DataError, OnestageError, absent, counted, lacks_memory, shortened
from onestage.files import BEST as BEST_MODEL
from onestage.files import LAST as LAST_MODEL
from onestage.files import make_folder, write_atomically
from onestage.model.codec import Range, decode, encode
from onestage.model.config import DetectorConfig
from onestage.model.limits import Positive
from onestage.training.checkpoint import CHECKPOINTS, newest_step
from onestage.training.checks import DivergedError
from onestage.training.config import Setting
from onestage.training.lock import is_taken
from onestage.tuning.space import Proposal, Space
from onestage.tuning.storage import NAME, STORAGE, Kind, check_trials, locked, open_study, understood, without_password
from onestage.tuning.sureness import DRAWN, SHOWN, STEPS, UNKNOWN, Drawn, Verdict, verdict

PLAN = "tune.json"
BEST = "best.json"
TRIALS = "trials"
FOLDER, PROCESS, WHY = "folder", "process", "why"
"""What is kept with a trial: its run folder, the process that works on it, and why it could not be trained."""
TRIED, REACHED, BEFORE = "tried", "reached", "before"
"""With a trial that is tried again: how often it has failed since its last new checkpoint, the step of that checkpoint, and why
it failed before.
"""
FAILED, STOPPED = "failed", "stopped"
"""With a trial that has failed: why, and whether a signal or a broken file ended this try; such an end does not count."""
DETECTOR, SETTINGS = "detector", "settings"
"""With a complete trial: its config, and the settings that differ from the rules."""
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys((PROCESS, WHY, BEFORE, FAILED), lambda value: isinstance(value, str)),
    **dict.fromkeys((TRIED, REACHED, STEPS, SHOWN), lambda value: isinstance(value, int)),
    **dict.fromkeys((DETECTOR, SETTINGS), lambda value: isinstance(value, dict)),
    FOLDER: lambda value: isinstance(value, str) and re.fullmatch(r"\w+", value) is not None,
    DRAWN: lambda value: isinstance(value, list) and all(isinstance(each, int | float) for each in value),
}
"""What each of these is. The folder lies in that of the trials: files in it are removed."""
TRIES = 3
"""A trial that has failed so often, without a new checkpoint in between, is given up."""
FAILURE = "failed.txt"
RUNGS = 10
"""A trial is compared with the others at each tenth of its steps."""


@dataclass(frozen=True)
class SearchPlan:
    """What all processes of a search agree on. data: the path of the data set. minutes: of each trial. options: of the user.

    name: of the search, where a database holds several. pictures: of the validation set, spread evenly, that measure every
    trial: the same ones. content: a checksum of the pictures and their labels.
    """

    data: str
    space: Space
    minutes: Positive
    options: tuple[str, ...] = ()
    seed: int = 0
    name: str = ""
    pictures: Annotated[int, Range(least=0)] = 0
    content: str = ""


@dataclass(frozen=True)
class Trained:
    """What a trial came to. AP: the best on the validation pictures. settings: those that differ from the rules. steps: of its
    training. drawn: how AP differs with the choice of pictures.
    """

    AP: float
    detector: DetectorConfig
    settings: Mapping[str, Setting]
    steps: int = 0
    drawn: Drawn = UNKNOWN


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
    with locked(out):
        if not path.exists():
            named = replace(plan, name=f"{NAME} {uuid4().hex}")
            write_atomically(path, (json.dumps(encode(named), indent=2) + "\n").encode())
            return named
    begun = load_plan(out)
    mine, theirs = (vars(each) for each in (plan, begun))
    typed = {"data": "DATA", "minutes": "--each", "options": "options", "seed": "--seed"}
    changed = [f"{typed[name]}: {theirs[name]} before, {mine[name]} now" for name in typed if mine[name] != theirs[name]]
    if begun.content != plan.content and not changed:
        what = "the pictures of this search or their labels have changed, so its trials could not be compared"
        raise ConfigError(what, where=plan.data, fix="put the data set back, or begin another search: --out")
    if changed:
        fix = "give the options with which it began, or name another folder: --out"
        if mine["minutes"] != theirs["minutes"]:
            fix = f"--each {theirs['minutes']:g} keeps the length of a trial, whatever --minutes says; {fix}"
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
        self.out, self.plan, self.storage = out, plan, storage
        self.study = open_study(out, storage, name=plan.name, seed=plan.seed)
        self._done: Trained | None = None
        with locked(out), understood(out, storage):
            if not self.study.trials:
                self._check_new(storage)
                self.study.enqueue_trial(dict(plan.space.first), user_attrs={FOLDER: f"{0:04d}"})

    def _check_new(self, storage: str | None) -> None:
        """Raise ConfigError if the folder has trials, of which the database knows nothing."""
        trained = sorted(path.name for path in (self.out / TRIALS).glob("[0-9]*"))
        if trained:
            place = str(self.out / STORAGE) if storage is None else without_password(storage)[0]
            fix = "put the database back" if storage is None else "the --storage with which it began"
            what = "the database of this search has no trials, but its folder has"
            got = f"no trial in {place}, {counted(len(trained), 'folder')} in {self.out / TRIALS}"
            raise ConfigError(what, where=self.out, got=got, fix=f"{fix}, or begin another search: --out")

    def next(self, run: Run) -> FrozenTrial:
        """Train one trial: one that was left unfinished, or a new one. A trial that cannot be trained is over, with the reason.

        One that fails otherwise, as for want of memory, is on the list again, and is given up after TRIES failures; so is one
        whose process was killed. Raise Stopped after a signal, and the error where a picture cannot be read or a file cannot be
        written, which no other trial would spare: the trial is on the list again then, and that counts as no failure.
        """
        with understood(self.out, self.storage):
            return self._next(run)

    def _next(self, run: Run) -> FrozenTrial:
        number = -1

        def objective(trial: Trial) -> float:
            nonlocal number
            number = trial.number
            return self._objective(trial, run)

        self._take_back()
        self._done = None
        try:
            self.study.optimize(objective, n_trials=1, catch=(Failed,))
        except (ValueError, UpdateFinishedTrialError) as error:
            if isinstance(error, OnestageError):
                raise
            number = self._wake(number)
        finally:
            self._take_back()
        with locked(self.out):  # others end trials too: each keeps the best that it sees, before the next one does
            trials = self.trials
            best = best_of(trials)
            self._tidy(trials, best)
            self._save_best(best, _verdict_of(trials, self.plan))
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
            trial.set_user_attr(WHY, shortened(" ".join(str(error).split()), 300))
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
            _note(error, folder)
            trial.set_user_attr(FAILED, _reason(error))
            raise Failed from error
        self._done = done
        for key, value in _attributes(done).items():
            trial.set_user_attr(key, value)
        return done.AP

    def _wake(self, number: int) -> int:
        """After a trial that others took for lost, because its process slept: add its result as another trial, and return the
        number of the new one. Without a result it is on the list again: return the number of the trial.

        Otherwise raise the error that the caller handles.
        """
        lost = self.trials[number]
        if lost.state is not TrialState.FAIL:
            raise
        if self._done is None:
            return number
        attributes = lost.user_attrs | _attributes(self._done)
        again = create_trial(value=self._done.AP, params=lost.params, distributions=lost.distributions, user_attrs=attributes)
        with locked(self.out):
            self.study.add_trial(again)
            return len(self.trials) - 1

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, of all processes. Raise ConfigError if one is damaged."""
        found = self.study.get_trials(deepcopy=False)
        check_trials(found, KINDS, needed=(DETECTOR, SETTINGS), where=self.out)
        return found

    @property
    def complete(self) -> list[FrozenTrial]:
        """The trials that were trained to their end."""
        return complete_of(self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial, the first of equal ones; None if there is none yet."""
        return best_of(self.trials)

    @property
    def verdict(self) -> Verdict | None:
        """What the search has found; None if no trial was trained to its end."""
        return _verdict_of(self.trials, self.plan)

    def folder(self, trial: FrozenTrial) -> Path:
        """The run folder of a trial."""
        return self.out / TRIALS / trial.user_attrs.get(FOLDER, f"{trial.number:04d}")

    def given_up(self, trial: FrozenTrial) -> str | None:
        """Why the trial that has failed is not tried again; None if it is."""
        name = trial.user_attrs.get(FOLDER)
        return next((t.user_attrs.get(WHY) for t in self.trials[trial.number + 1 :] if t.user_attrs.get(FOLDER) == name), None)

    def _take_back(self) -> None:
        """Put trials whose process ended before them on the list again. They go on in their run folder."""
        with locked(self.out):
            trials = self.trials
            for trial in trials:
                if trial.state is TrialState.RUNNING and _is_gone(trial.user_attrs.get(PROCESS, "")):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                elif trial.state is not TrialState.FAIL:
                    continue
                name = trial.user_attrs.get(FOLDER)
                if name is None or any(t.number > trial.number and t.user_attrs.get(FOLDER) == name for t in trials):
                    continue
                if not self._is_trained(trial):  # else its process has slept, and others took it for lost
                    self._again(trial, name)

    def _is_trained(self, trial: FrozenTrial) -> bool:
        """Whether a process trains in the folder of a trial at this moment."""
        return is_taken(self.folder(trial) / CHECKPOINTS)

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
        about = kept | {WHY: why}
        over = create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions, user_attrs=about)
        self.study.add_trial(over)

    def _tidy(self, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> None:
        """Remove the checkpoints of all finished trials, and the models of all but the best: a search makes many."""
        for trial in trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and not self._is_trained(trial):
                shutil.rmtree(self.folder(trial) / CHECKPOINTS, ignore_errors=True)
                if best is None or trial.number != best.number:
                    for name in (BEST_MODEL, LAST_MODEL):
                        (self.folder(trial) / name).unlink(missing_ok=True)

    def _save_best(self, best: FrozenTrial | None, found: Verdict | None) -> None:
        """Write the best trial, for ``onestage train --config``."""
        if best is not None and found is not None:
            gain = None if found.gain is None else vars(found.gain.difference)
            about: dict[str, object] = {
                "AP": best.value,
                "trial": best.number,
                "minutes": self.plan.minutes,
                "pictures": self.plan.pictures,
            }
            about |= {"than_default": gain, "better": found.better}
            content = {"tuned": about, "training": best.user_attrs[SETTINGS], "detector": best.user_attrs[DETECTOR]}
            write_atomically(self.out / BEST, (json.dumps(content, indent=2) + "\n").encode())


def complete_of(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained to their end."""
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best complete trial, the first of equal ones; None if there is none yet."""
    return max(complete_of(trials), key=lambda trial: trial.value or 0.0, default=None)


def _verdict_of(trials: Sequence[FrozenTrial], plan: SearchPlan) -> Verdict | None:
    """What the trials of a search have found; None if none is complete."""
    complete, best = complete_of(trials), best_of(trials)
    if best is None:
        return None
    rule = next((trial for trial in complete if dict(trial.params) == dict(plan.space.first)), None)
    return verdict(complete, rule, best, pictures=plan.pictures)


def _attributes(done: Trained) -> dict[str, Any]:
    """What is kept with a trial that was trained to its end."""
    settings = json.loads(json.dumps(dict(done.settings)))
    about = {STEPS: done.steps, DRAWN: list(done.drawn.AP), SHOWN: done.drawn.pictures}
    return {DETECTOR: encode(done.detector), SETTINGS: settings} | about


def _watch(trial: Trial) -> Watch:
    """Report a trial's best AP at each tenth of its steps, and end it where most others had more."""
    best = 0.0
    known = 0

    def hear(AP: float, part: float) -> None:
        nonlocal best, known
        best = max(best, AP)
        for rung in range(known + 1, int(RUNGS * part) + 1):
            with suppress(UpdateFinishedTrialError):  # others took it for lost, while this process slept
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
