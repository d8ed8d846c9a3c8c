"""``onestage evaluate RUN DATA --learning-curve MINUTES``: whether more pictures would help, by three short trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from onestage.analysis.bootstrap import Estimate
from onestage.analysis.learning import LITTLE, PARTS, LearningCurve, learning_curve
from onestage.analysis.plain import to_plain
from onestage.cli.choose import NONE
from onestage.cli.output import say, stdout, tell
from onestage.creation import build
from onestage.data import Dataset
from onestage.errors import DataError, counted
from onestage.files import write_file
from onestage.metrics.matches import Matches, match
from onestage.metrics.tables import tabulate
from onestage.model.codec import Range
from onestage.model.detector import Detector
from onestage.structures import Detections
from onestage.training.config import EPOCHS, TrainConfig
from onestage.training.folder import CONFIG, Plan
from onestage.training.inputs import TrainData, read_data
from onestage.training.inventory import Inventory
from onestage.training.loop import train
from onestage.training.monitor import TerminalMonitor
from onestage.training.rules import Decision

FOLDER = "learning-curve"
"""The folder inside the run folder for these trainings."""
RESULT = "curve.json"
MINUTES = Range(above=0, below=1e6)

Measure = Callable[[Detector, Dataset], list[Detections]]
"""A function that gives the detections of a model in all pictures of a data set that can be read."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Three trainings of the same ``minutes`` each, in ``folder``, with the settings of a run.

    pictures: to learn from, of which each training takes a part. measured: those that measure all three.
    """

    plan: Plan
    config: TrainConfig
    pictures: TrainData
    measured: Dataset
    minutes: float
    folder: Path

    @staticmethod
    def of(path: Path, data: Path, *, measured: Dataset, minutes: float, workers: int | None, device: str | None) -> Trials:
        """Those of the run at ``path`` on the pictures at ``data``. workers, device: in place of those of the run.

        measured: the pictures that measure the run. If it also learns from some of them, its validation pictures measure.
        Raise ConfigError if there is no run, DataError if there are fewer than four pictures to learn from.
        """
        MINUTES.check(minutes, "learning_curve")
        run = path if path.is_dir() else path.parent
        plan = Plan.load(run)
        begun = Inventory.load(run) if plan.data is not None and Path(plan.data) == data.resolve() else None
        pictures = read_data(data, plan.train, format=plan.format, classes=plan.model.classes, begun=begun)
        if len(pictures.train) < PARTS[-1]:
            what, fix = "there are too few pictures for a learning curve", "name a data set with more training pictures"
            raise DataError(what, where=data, got=counted(len(pictures.train), "picture"), expected="four or more", fix=fix)
        apart = {*measured.paths}.isdisjoint(pictures.train.paths)
        config = settings_for(plan.train, minutes)
        config = replace(config, device=device or config.device, workers=config.workers if workers is None else workers)
        folder = run / FOLDER / f"{minutes:g}-minutes"
        return Trials(plan, config, pictures, measured if apart else pictures.val, minutes, folder)

    def part(self, quarters: int) -> Dataset:
        """So many quarters of the pictures to learn from. A larger part holds the smaller ones."""
        every = self.pictures.train
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.config.seed)).tolist()
        return every.subset(sorted(order[: quarters * (len(every) // PARTS[-1])]))


def settings_for(config: TrainConfig, minutes: float) -> TrainConfig:
    """The settings of a run for a training of so many minutes, which no logger hears of."""
    free = replace(config, epochs=EPOCHS, steps=None, evaluate_steps=None, evaluate_pictures=None, evaluate_every=1)
    return replace(free, minutes=minutes, log=None)


class _Bar(TerminalMonitor):
    """The bar of a training alone. What a training says, such as how it goes on, is for runs of people."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Say nothing."""


def run_trials(trials: Trials, measure: Measure) -> int:
    """Train three times, or go on where that was interrupted; then say what more pictures would bring. Return the exit code."""
    trained: list[tuple[int, Matches]] = []
    tell(f"learning curve: three trainings of {trials.minutes:g} min each, in {trials.folder}")
    for number, quarters in enumerate(PARTS, start=1):
        part = trials.part(quarters)
        tell(f"training {number} of {len(PARTS)}: {counted(len(part), 'picture')}")
        model = _trained(trials, part, trials.folder / f"{100 * quarters // PARTS[-1]}-percent")
        if model is None:
            say("stopped; all is saved, and the same command goes on")
            return 130
        trained.append((len(part), _matches(measure(model, trials.measured), trials.measured)))
    curve = learning_curve(trained, minutes=trials.minutes)
    text = json.dumps(to_plain(curve), indent=2, allow_nan=False)
    write_file(trials.folder / RESULT, text + "\n")
    show(curve)
    return 0


def _trained(trials: Trials, part: Dataset, folder: Path) -> Detector | None:
    """The model that was trained on a part of the pictures; None if the training was interrupted."""
    model = _beginning(trials.plan)
    begun = (folder / CONFIG).is_file() and not Plan.load(folder).is_unfitted
    pictures = TrainData(part, trials.pictures.val)
    result = train(model, pictures, out=folder, config=trials.config, resume=begun, monitor=_Bar())
    return None if result.interrupted else model.eval()


def _beginning(plan: Plan) -> Detector:
    """The detector as the run began, if the run says which weights it began with; else one with fresh weights."""
    start = next((decision.option for decision in plan.decisions if decision.setting == "start"), None)
    if start is None:
        say(("note:", "bold"), " the run does not say which weights it began with; this training begins with fresh ones")
    option, _, name = (start or "").partition(" ")
    with torch.random.fork_rng():
        torch.manual_seed(plan.train.seed)
        if name in ("", NONE):
            return build(plan.model)
        return build(plan.model, weights=name) if option == "--weights" else build(plan.model, backbone_weights=name)


def _matches(found: Sequence[Detections], dataset: Dataset) -> Matches:
    """The detections against the truth of the same pictures. Raise DataError if these have no objects."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    truths = [dataset.truth(row_of[detections.image_id]) for detections in found]
    matches = match(tabulate(found, truths, dataset.classes))
    if not matches.counted.any():
        what, fix = "the pictures that measure have no objects", "name labelled pictures with split="
        raise DataError(what, where=dataset.root, got=counted(len(found), "picture"), fix=fix)
    return matches


def show(curve: LearningCurve) -> None:
    """Print the points of the curve, and what follows from it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("pictures", "AP", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(f"{point.pictures:,}", f"{point.AP.value:.3f}", _interval(point.AP))
    table.add_row(f"{2 * curve.points[-1].pictures:,}?", f"{curve.doubled.value:.3f}", _interval(curve.doubled))
    stdout().print(table)
    stdout().print()
    tell((answer(curve), "bold"))
    tell(
        f"Intervals are over {counted(curve.draws, 'draw')} of the {counted(curve.measured, 'measured picture')}; another seed,"
        " or more minutes, may give another curve."
    )


def answer(curve: LearningCurve) -> str:
    """What the curve says about more pictures, in a sentence."""
    twice = f"twice as many pictures ({2 * curve.points[-1].pictures:,})"
    if curve.answer == "helps":
        return f"More pictures help: {twice} would bring AP to {curve.doubled.value:.3f} ({_interval(curve.doubled)})."
    if curve.answer == "little":
        return f"More pictures of the same kind would bring little: {twice} less than {LITTLE:g} AP."
    return (
        f"Whether more pictures help cannot be told: {twice} would bring {curve.gain.value:.3f} AP ({_interval(curve.gain)})."
        " More measured pictures, or more minutes, may tell."
    )


def _interval(figure: Estimate) -> str:
    return f"{figure.low:.3f} to {figure.high:.3f}"
