"""The trials of ``onestage tune``: what each of them trains, and what is told of it."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from optuna.trial import FrozenTrial, TrialState

from onestage.cli.candidates import CANDIDATES
from onestage.cli.choose import ModelChoice
from onestage.cli.output import say, tell
from onestage.cli.train import Prepared, prepared
from onestage.cli.trial_length import rehearsed
from onestage.errors import ConfigError, check_folder_place, command, counted
from onestage.predict.measure import evaluate_dataset
from onestage.processes import init
from onestage.structures import Detections
from onestage.training.config import Setting, TrainConfig, typed
from onestage.training.folder import CONFIG, Plan, fingerprint
from onestage.training.inputs import TrainData, read_data
from onestage.training.loop import TrainResult, resume, train
from onestage.training.machine import Machine, measure_together
from onestage.training.memory import keep_freed_memory
from onestage.training.monitor import TerminalMonitor
from onestage.training.rehearsal import FEW_STEPS
from onestage.training.rules import Decision, before_data
from onestage.training.run import spread_evenly
from onestage.tuning.page import page_of, save_page
from onestage.tuning.space import BY_RULE, SCALES, Proposal, Space, parted, scaled, told
from onestage.tuning.storage import try_storage
from onestage.tuning.study import (
    BEST,
    FAILED,
    FAILURE,
    PLAN,
    TRIES,
    WHY,
    Search,
    SearchPlan,
    Stopped,
    Trained,
    Watch,
    agree,
    load_plan,
)
from onestage.tuning.sureness import Drawn, drawn_of
from onestage.weights.detector_file import load_detector

MODELS = 3
"""Candidates that a search tries beside the one that the rules choose, at most."""

LEAST_STEPS = FEW_STEPS
"""A trial with fewer steps is no measurement."""
Found = Sequence[Detections]

HOPELESS = 2 * TRIES
"""After so many failures in a row, of two trials at least, a search ends: what fails is not a trial."""


class TooShortError(ConfigError):
    """A trial has too few steps to say anything."""


class _Bar(TerminalMonitor):
    """The bar of a trial. It hears the AP of every measurement. best, found: of the best one in this process."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch, self.steps = watch, 0
        self.best = -1.0
        self.found: Found = ()
        self._last: Found = ()

    def start(self, *, epochs: float, steps: int, done: int) -> None:
        """Show the bar. Raise TooShortError if the clock allows too few steps."""
        self.steps = steps
        if steps < LEAST_STEPS:
            what = f"{counted(steps, 'step')} fit into its minutes, and fewer than {LEAST_STEPS} say nothing"
            raise TooShortError(what)
        super().start(epochs=epochs, steps=steps, done=done)

    def say(self, text: str) -> None:
        """Say nothing."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Say nothing."""

    def measured(self, found: Found) -> None:
        """Keep what was found until its AP is known."""
        self._last = found

    def epoch(self, record: Mapping[str, float]) -> None:
        """Tell the search the AP."""
        super().epoch(record)
        if (AP := record.get("val/AP", -1.0)) >= 0:
            if self.best < AP:
                self.best, self.found = AP, self._last
            self._watch(AP, record["step"] / max(1, self.steps))


class Tuner:
    """One process of a search."""

    def __init__(
        self,
        data: Path,
        out: Path,
        detector: ModelChoice,
        given: Mapping[str, Setting],
        format: str | None,
        *,
        each_given: bool = False,
        storage: str | None = None,
    ) -> None:
        self.data, self.out, self.detector, self.given, self.format = data, out, detector, dict(given), format
        self.each_given, self.storage = each_given, storage
        self._too_short = False  # the latest trial of this process
        detector.source()  # a mistake in a name or a file is told before the data is read
        check_folder_place(out, "a folder for the search", fix="choose another folder: --out")
        try_storage(out, storage)
        self.pictures: TrainData = read_data(data, before_data(given), format=format)

    def search(self, minutes: float, trials: int | None) -> int:
        """Train trials until the time is over, or so many are done. Return the exit code."""
        keep_freed_memory()
        began, each = time.monotonic(), cast(float, self.given["minutes"])
        with init(before_data(self.given).device) as group:
            self.machine: Machine = measure_together(group)
        try:
            search = self._begun(minutes, each)
        except (Stopped, KeyboardInterrupt):
            say("stopped before the search had begun; the same command begins it")
            return 130
        done = failed = 0
        while done == 0 or (time.monotonic() - began) / 60 + each <= minutes:
            if trials is not None and done >= trials:
                break
            try:
                trial = search.next(self._run)
            except (Stopped, KeyboardInterrupt):
                say("stopped; all is saved, and the same command goes on")
                return 130
            self._tell(search, trial)
            why = trial.user_attrs.get(WHY) or (trial.user_attrs[FAILED] if trial.state is TrialState.FAIL else None)
            done, failed = done + (trial.state is not TrialState.FAIL), 0 if why is None else failed + 1
            if failed >= HOPELESS:
                raise self._hopeless(search, trial, f"{why} ({failed} in a row)")
        return self._end(search)

    def _hopeless(self, search: Search, trial: FrozenTrial, got: str) -> ConfigError:
        """The error that ends a search of which no trial can be trained."""
        if self._too_short:
            fix = "end what else runs on this machine, then the same command; or another search (--out) with a longer --each"
            return ConfigError("trial after trial is too short: the machine is slower now", where=self.out, got=got, fix=fix)
        fix = f"see {FAILURE} there; the same command goes on"
        return ConfigError("trial after trial fails", where=search.folder(trial), got=got, fix=fix)

    def _begun(self, minutes: float, each: float) -> Search:
        """The search: the one in the folder, or a new one, for which the first steps are timed. Say what it is."""
        first = self._prepared(None)
        content = hashlib.sha256(f"{fingerprint(self.pictures.train)} {fingerprint(self.pictures.val)}".encode()).hexdigest()
        options, seed = tuple(self._options()), cast(int, self.given.get("seed", 0))
        plan = SearchPlan(str(self.data.resolve()), self._space(first), each, options, seed=seed, content=content)
        if (self.out / PLAN).exists():
            if not load_plan(self.out).pictures:
                what = "an earlier version began this search, and measured its trials on different pictures"
                raise ConfigError(what, where=self.out, fix="begin another search: --out")
        else:
            length = rehearsed(first, self.out, minutes=minutes, each=each, each_given=self.each_given)
            plan = replace(plan, pictures=length.pictures)
        search = Search(self.out, agree(self.out, plan), storage=self.storage)
        self._introduce(first, search)
        for line in parted(search.plan.space, plan.space):
            kept = "The search keeps its values; what a trial leaves to the rules follows this machine"
            say(("note:", "bold"), f" {line}. {kept}")
        tell(f"{minutes:g} min of trials, {each:g} min each, in {self.out}")
        self.plan = search.plan
        return search

    def _options(self) -> list[str]:
        """What the user decided, as typed."""
        given = [text for name, value in self.given.items() if name != "minutes" for text in typed(name, value)]
        return [*map(shlex.join, self.detector.options), *given]

    def _space(self, first: Prepared) -> Space:
        """What is searched: what the user has left open."""
        typed_model = next((one.option for one in first.chosen.decisions if one.setting == "model"), "")
        usual = typed_model.replace("--model ", "").replace("--backbone ", "")  # empty if the user names a model
        here = [each for each in CANDIDATES if self.machine.device == "cuda" or not each.gpu]
        names = [" ".join(filter(None, (each.model, each.backbone))) for each in here]
        free = bool(usual) and self.detector.backbone is None
        others = [name for name in names if name != usual][:MODELS] if free else []
        fixed = self.detector.size is not None or self.detector.config_file is not None
        given = tuple(name for name in self.given if name != "minutes")
        return Space((BY_RULE, *others), SCALES[:1] if fixed else SCALES, trained=first.trained, given=given)

    def _prepared(self, proposal: Proposal | None) -> Prepared:
        """The detector and the settings of a trial; None: by rule."""
        asked, given = self.detector, dict(self.given)
        if proposal is None:
            return prepared(self.pictures, self.machine, asked, given, source=asked.source())
        if proposal.model != BY_RULE:
            model, _, backbone = proposal.model.partition(" ")
            asked = replace(asked, model=model, backbone=backbone or None)
        given |= proposal.given
        found = prepared(self.pictures, self.machine, asked, given, source=asked.source())
        if proposal.scale != 1:
            height, width = scaled(found.model.config.preprocess.size, proposal.scale)
            asked = replace(asked, size=f"{height}x{width}")
            found = prepared(self.pictures, self.machine, asked, given, source=asked.source())
        if proposal.batch != 1:
            given["batch_size"] = max(1, round(found.chosen.train.batch_size * proposal.batch))
            found = prepared(self.pictures, self.machine, asked, given, source=asked.source())
        if proposal.lr != 1:
            rate = float(f"{found.chosen.train.peak_lr * proposal.lr:.3g}")
            found = found._replace(chosen=replace(found.chosen, train=replace(found.chosen.train, lr=rate)))
        return found

    def _run(self, proposal: Proposal, folder: Path, watch: Watch) -> Trained:
        """Train one trial, or the rest of it."""
        bar, self._too_short = _Bar(watch), False
        try:
            result = self._trained(proposal, folder, bar)
        except TooShortError:
            self._too_short = True
            raise
        if result.interrupted:
            raise Stopped
        plan = Plan.load(folder)
        settings = proposal.given
        if proposal.lr != 1:
            settings["lr"] = plan.train.peak_lr
        if proposal.batch != 1:
            settings["batch_size"] = plan.train.batch_size
        if "augment_with" in settings:
            settings["augment_with"] = plan.train.augment_with
        user = {name: value for name, value in self.given.items() if name != "minutes"}
        return Trained(
            result.best_ap, plan.model, {**user, **settings}, steps=bar.steps, drawn=self._drawn(bar, result, plan.train)
        )

    def _trained(self, proposal: Proposal, folder: Path, bar: _Bar) -> TrainResult:
        """Train a proposal in a run folder, or go on there."""
        if (folder / CONFIG).is_file() and not Plan.load(folder).is_unfitted:
            return resume(folder, monitor=bar)
        found = self._prepared(proposal)
        chosen = replace(found.chosen, train=replace(found.chosen.train, evaluate_pictures=self.plan.pictures))
        return train(found.model, self.pictures, out=folder, config=chosen, monitor=bar)

    def _drawn(self, bar: _Bar, result: TrainResult, config: TrainConfig) -> Drawn:
        """How the AP of a trial differs with the choice of pictures. What an earlier process measured is measured again."""
        val, found = spread_evenly(self.pictures.val, self.plan.pictures), bar.found
        if bar.best != result.best_ap:
            model = load_detector(result.best)
            workers, on_bad = config.workers_of(1), config.on_bad_picture
            found = evaluate_dataset(model, val, batch_size=config.batch_size, workers=workers, on_bad=on_bad)[1]
        return drawn_of(found, val)

    def _introduce(self, first: Prepared, search: Search) -> None:
        """Print what is searched."""
        train, val = self.pictures.train, self.pictures.val
        tell(f"{first.model.config.name} by rule; {counted(len(train), 'picture')} to learn from, {len(val):,} to measure on")
        tell(f"searched: {', '.join(search.plan.space.names) or 'nothing, all is given'}")
        if search.complete and search.best is not None:
            tell(f"goes on after {counted(len(search.complete), 'trial')}; best AP {search.best.value:.3f}")

    def _tell(self, search: Search, trial: FrozenTrial) -> None:
        """Print what a trial came to, and write the page."""
        text = told(dict(trial.params), search.plan.space.first)
        if why := trial.user_attrs.get(WHY):
            tell(f"trial {trial.number}: not measured: {why} ({text})")
        elif trial.state is TrialState.FAIL:
            end = search.given_up(trial)
            tell(f"trial {trial.number}: {end or f'failed, and is tried again: {trial.user_attrs[FAILED]}'} ({text})")
        elif trial.value is None or trial.state.name != "COMPLETE":
            tell(f"trial {trial.number}: stopped early ({text})")
        else:
            best = search.best is not None and trial.number == search.best.number
            tell(
                (f"trial {trial.number}: AP {trial.value:.3f}{' (best)' if best else ''}", "bold" if best else ""), f"  {text}"
            )
        save_page(search, title=f"Search for settings on {self.pictures.train.root.name}", command=self._command(search))

    def _command(self, search: Search) -> str:
        """The command that trains with what was found, or with the default settings if nothing better was found."""
        format = [] if self.format is None else [f"--format {shlex.quote(self.format)}"]
        if (found := search.verdict) is not None and found.rule is not None and not found.better:
            options = [*format, *self._options()]
        else:
            weights = [] if self.detector.weights is None else [f"--weights {shlex.quote(self.detector.weights)}"]
            options = [f"--config {shlex.quote(str(self.out / BEST))}", *format, *weights]
        return " ".join([command("train", self.data), *options, "--minutes 60"])

    def _end(self, search: Search) -> int:
        """Print the best trial, and how to train with it."""
        found = search.verdict
        if found is None:
            say("no trial was trained to its end: give more --minutes, or a longer --each")
            return 1
        trials, pictures = counted(found.trials, "trial"), counted(found.pictures, "picture")
        tell((f"best AP {found.best.value:.3f}", "bold"), f" of {trials}, on the same {pictures}: trial {found.best.number}")
        tell(f"  settings    {told(dict(found.best.params), search.plan.space.first)}")
        tell(f"  how sure    {found.gain_text}")
        for text in filter(None, (found.equals_text, found.uneven_text)):
            tell(f"              {text}")
        tell(f"  train       {self._command(search)}")
        tell(f"  look at     {page_of(self.out)}")
        return 0
