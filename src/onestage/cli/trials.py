"""The trials of ``onestage tune``: what each of them trains, and what is told of it."""

from __future__ import annotations

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
from onestage.errors import ConfigError, counted
from onestage.processes import init
from onestage.training.config import Setting, option, typed
from onestage.training.folder import CONFIG, Plan
from onestage.training.inputs import TrainData, read_data
from onestage.training.loop import resume, train
from onestage.training.machine import Machine, measure_together
from onestage.training.memory import keep_freed_memory
from onestage.training.monitor import TerminalMonitor
from onestage.training.rules import Decision, before_data
from onestage.tuning.page import page_of, save_page
from onestage.tuning.space import BY_RULE, SCALES, Proposal, Space, scaled, told
from onestage.tuning.study import BEST, FAILED, FAILURE, TRIES, WHY, Search, SearchPlan, Stopped, Trained, Watch, agree

MODELS = 3
"""Candidates that a search tries beside the one that the rules choose, at most."""

HOPELESS = 2 * TRIES
"""After so many failures in a row, of two trials at least, a search ends: what fails is not a trial."""


class _Bar(TerminalMonitor):
    """The bar of a trial. It hears the AP of every measurement."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch, self._of = watch, 0

    def start(self, *, epochs: float, steps: int, done: int) -> None:
        """Show the bar."""
        self._of = steps
        super().start(epochs=epochs, steps=steps, done=done)

    def say(self, text: str) -> None:
        """Say nothing."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Say nothing."""

    def epoch(self, record: Mapping[str, float]) -> None:
        """Tell the search the AP."""
        super().epoch(record)
        if record.get("val/AP", -1.0) >= 0:
            self._watch(record["val/AP"], record["step"] / max(1, self._of))


class Tuner:
    """One process of a search."""

    def __init__(self, data: Path, out: Path, detector: ModelChoice, given: Mapping[str, Setting], format: str | None) -> None:

        self.data, self.out, self.detector, self.given, self.format = data, out, detector, dict(given), format
        detector.source()  # a mistake in a name or a file is told before the data is read
        self.pictures: TrainData = read_data(data, before_data(given), format=format)

    def search(self, minutes: float, trials: int | None, storage: str | None) -> int:
        """Train trials until the time is over, or so many are done. Return the exit code."""
        keep_freed_memory()
        began, each = time.monotonic(), cast(float, self.given["minutes"])
        with init(before_data(self.given).device) as group:
            self.machine: Machine = measure_together(group)
        first = self._prepared(None)
        plan = SearchPlan(
            str(self.data.resolve()),
            self._space(first),
            each,
            tuple(self._options()),
            seed=cast(int, self.given.get("seed", 0)),
        )
        search = Search(self.out, agree(self.out, plan), storage=storage)
        self._introduce(first, search)
        tell(f"{minutes:g} min of trials, {each:g} min each, in {self.out}")
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
            done, failed = (done, failed + 1) if trial.state is TrialState.FAIL else (done + 1, 0)
            if failed >= HOPELESS:
                what, fix = "trial after trial fails", f"see {FAILURE} there; the same command goes on"
                where = search.folder(trial)
                raise ConfigError(what, where=where, got=f"{trial.user_attrs[FAILED]} ({failed} failures in a row)", fix=fix)
        return self._end(search)

    def _options(self) -> list[str]:
        """What the user decided, as typed."""
        model = [f"{option(name)} {value}" for name, value in vars(self.detector).items() if value not in (None, ())]
        return [*model, *(text for name, value in self.given.items() if name != "minutes" for text in typed(name, value))]

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
        if (folder / CONFIG).is_file() and not Plan.load(folder).is_unfitted:
            result = resume(folder, monitor=_Bar(watch))
        else:
            found = self._prepared(proposal)
            result = train(found.model, self.pictures, out=folder, config=found.chosen, monitor=_Bar(watch))
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
        return Trained(result.best_ap, plan.model, {**user, **settings})

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
            tell(f"trial {trial.number}: cannot be trained: {why} ({text})")
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
        save_page(search, title=f"Search for settings on {self.pictures.train.root.name}", command=self._command())

    def _command(self) -> str:
        """The command that trains with what was found."""
        options = {"--config": str(self.out / BEST), "--format": self.format, "--weights": self.detector.weights}
        said = " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items() if value is not None)
        return f"onestage train {shlex.quote(str(self.data))} {said} --minutes 60"

    def _end(self, search: Search) -> int:
        """Print the best trial, and how to train with it."""
        best, rule = (
            search.best,
            next((trial for trial in search.complete if dict(trial.params) == search.plan.space.first), None),
        )
        if best is None:
            say("no trial was trained to its end: give more --minutes, or a longer --each")
            return 1
        gain = "" if rule is None or rule.value is None else f"; the rules alone {rule.value:.3f}"
        tell((f"best AP {best.value:.3f}", "bold"), f" of {counted(len(search.complete), 'trial')}{gain}")
        tell(f"  settings    {told(dict(best.params), search.plan.space.first)}")
        tell(f"  train       {self._command()}")
        tell(f"  look at     {page_of(self.out)}")
        return 0
