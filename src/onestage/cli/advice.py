"""What to do next after a measurement: what the advice depends on, gathered from the model, its run folder and the data."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from onestage.analysis.advice import Epoch, Facts
from onestage.cli.output import stdout, tell
from onestage.errors import ConfigError

if TYPE_CHECKING:
    from onestage.analysis.reach import Overlaps
    from onestage.data import Dataset
    from onestage.model.detector import Detector
    from onestage.model.output.scores import Scores
    from onestage.predict.predictor import Predictor

FINER = ("ssd300_vgg16", "efficientdet_d0")
"""Recipes with maps of stride 8 and small anchors there, the faster one first."""


class Background(NamedTuple):
    """What an analysis and its advice need besides detections.

    overlaps: how the anchors lie to the objects of each picture, by its id; None if the anchors are not known.
    """

    overlaps: dict[int | str, Overlaps] | None
    facts: Facts

    def keeping(self, scores: Scores | None, *, thresholds: bool) -> Background:
        """The same for a model with these scores. thresholds: whether they are kept now."""
        has, believed = (False, False) if scores is None else (bool(scores.thresholds), scores.calibrates)
        return self._replace(facts=replace(self.facts, thresholds=has or thresholds, calibrated=believed))


def background(
    model: Detector | Predictor, path: Path, data: Path, dataset: Dataset, *, options: Sequence[str] = ()
) -> Background:
    """Gather it for the model at ``path``, and the pictures of ``data`` that measure it. options: that say which these are."""
    from onestage.model.detector import Detector
    from onestage.training.coverage import coverage_of

    facts = facts_of_run(path, data)
    measured = shlex.join([str(path), str(data), *options])
    facts = replace(facts, measured=measured, keeps=isinstance(model, Detector) and path.exists())
    if not isinstance(model, Detector):
        return Background(None, facts)
    found = coverage_of(model, dataset)
    finer = _finer_model(model, dataset) if found.poor else ""
    facts = replace(facts, size=model.config.preprocess.size, larger=found.larger, finer=finer)
    return Background(_overlaps(model, dataset), facts)


def of_detections(path: Path, data: Path, *, options: Sequence[str] = ()) -> Background:
    """What is known of detections in a file: its name and that of the pictures. options: that say which these are."""
    return Background(None, Facts(data=shlex.quote(str(data)), measured=shlex.join([str(path), str(data), *options])))


def facts_of_run(path: Path, data: Path) -> Facts:
    """What a run folder, or that of a model file in one, tells; for any other path the names alone."""
    from onestage.training.folder import Plan, saved_model
    from onestage.training.rules import ANCHORS
    from onestage.zoo.table import ZOO, recipe

    run = path if path.is_dir() else path.parent
    model = saved_model(run) if path.is_dir() else path if path.suffix == ".safetensors" else None
    typed = Facts(run=shlex.quote(str(path)), data=shlex.quote(str(data)))
    facts = typed if model is None else replace(typed, model=shlex.quote(str(model)))
    try:
        plan = Plan.load(run if path.exists() else path)
    except ConfigError:  # no run, or one of another version: there is less to say
        return facts
    name = plan.model.name if plan.model.name in ZOO else ""
    resized = bool(name) and recipe(name, plan.model.classes).preprocess.size != plan.model.preprocess.size
    fitted = ANCHORS in [decision.setting for decision in plan.decisions]
    return replace(facts, history=_history(run), run=shlex.quote(str(run)), recipe=name, resized=resized, fitted=fitted)


def tell_advice(sentences: Sequence[str]) -> None:
    """Print the sentences, if there are any. No line breaks, so that commands in them can be copied."""
    if not sentences:
        return
    tell(("What to do next", "bold"))
    for number, sentence in enumerate(sentences, start=1):
        tell((f"{number}.", "bold"), f" {sentence}")
    stdout().print()


def _history(run: Path) -> tuple[Epoch, ...]:
    """The rows of the run's metrics.csv; none if it is absent or damaged."""
    try:
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return tuple(_epoch(row) for row in csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return ()


def _epoch(row: dict[str, str | None]) -> Epoch:
    """A row of metrics.csv. An empty cell is NaN. Raise ValueError if a cell is no number."""
    names = ("epoch", "loss", "val/loss", "val/AP")
    return Epoch(*(float(value) if (value := row.get(name)) else math.nan for name in names))


def _overlaps(model: Detector, dataset: Dataset) -> dict[int | str, Overlaps]:
    """How the anchors lie to the objects of each picture, by its id."""
    from onestage.analysis.reach import Overlaps
    from onestage.training.coverage import overlaps_of

    iou, small = (column.numpy() for column in overlaps_of(model, dataset))
    parts = [slice(start, stop) for start, stop in pairwise(dataset.offsets.tolist())]
    return {image_id: Overlaps(iou[rows], small[rows]) for image_id, rows in zip(dataset.image_ids, parts, strict=True)}


def _finer_model(model: Detector, dataset: Dataset) -> str:
    """The option of a recipe other than the model's whose anchors reach the objects; an empty string if there is none."""
    from onestage.model.detector import Detector
    from onestage.training.coverage import coverage_of
    from onestage.zoo.table import recipe

    for name in FINER:
        if name != model.config.name and not coverage_of(Detector.on("meta", recipe(name, dataset.classes)), dataset).poor:
            return f"--model {name}"
    return ""
