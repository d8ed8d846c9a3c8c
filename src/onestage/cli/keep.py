"""What ``onestage evaluate`` keeps in the file of a model: the scores to report, and how scores become believable."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from onestage.cli.output import say, stdout, tell
from onestage.errors import ConfigError, WriteError, counted, printable

if TYPE_CHECKING:
    from onestage.analysis import Analysis
    from onestage.analysis.calibration import Calibrated
    from onestage.analysis.thresholds import Thresholds
    from onestage.cli.judge import Judging
    from onestage.data import Dataset
    from onestage.metrics.matches import Matches
    from onestage.metrics.report import Report
    from onestage.model.detector import Detector
    from onestage.model.output.scores import Scores
    from onestage.predict.predictor import Predictor
    from onestage.structures import Detections, Truth

ROWS = 20
"""So many classes are shown with their thresholds."""
ROUNDING = 2e-5
"""A threshold is the score of a detection. It is kept so much lower, because another runtime may round that score down."""


@dataclass(frozen=True)
class Keeping:
    """What the file of the model gets from the measurement, besides the weights that it has."""

    HEADING: ClassVar[str] = "model file"
    keep_thresholds: bool = False
    """Write into the file of the model which score of each class is reported: predict does so then, and so do exported files.
    evaluate never does."""
    calibrate: bool = False
    """Fit a temperature or joined lines for each class on one half of the pictures, judge them on the other half, and write
    them into the file if they help: scores are then nearer to the share of hits, and thresholds are about the new scores."""


NOTHING_KEPT = Keeping()


def to_keep_in(path: Path, model: Detector | Predictor | None, keeping: Keeping, judging: Judging) -> Detector | None:
    """The detector whose file at ``path`` gets something; None if nothing is asked for. model: None for detections.

    Raise ConfigError or WriteError if the file can get nothing, or if nothing looks for what is wanted.
    """
    from onestage.model.detector import Detector
    from onestage.training.checkpoint import STATE

    if not (keeping.keep_thresholds or keeping.calibrate):
        if judging.want != type(judging).want and not judging.analysis:
            what, fix = "this says what scores are for, and none are looked for", "leave --no-analysis out"
            raise ConfigError(what, where="want", got=judging.want, fix=fix)
        return None
    if not isinstance(model, Detector):
        got = "detections" if model is None else "an exported file"
        what, expected = "thresholds and calibration are kept in the file of a model", "a run folder or a .safetensors file"
        fix = "name the model that it was made with; an export of that model then has them too"
        raise ConfigError(what, where=path, got=got, expected=expected, fix=fix)
    if not path.exists():
        what, fix = "published weights have no file to keep this in", 'model.save("model.safetensors") in Python, then name it'
        raise ConfigError(what, got=path, expected="a run folder or a .safetensors file", fix=fix)
    folder = path if path.is_dir() else path.parent
    if path.is_file() and (folder / STATE).is_file():
        what, fix = "this is a part of a checkpoint, which has to stay as it is", "name the run folder, or a copy of this file"
        raise ConfigError(what, where=path, got=STATE, fix=fix)
    if not os.access(folder, os.W_OK):
        what, fix = "nothing can be kept in the file of this model", "copy it to a folder that you may write to"
        raise WriteError(what, where=folder, got="a folder that cannot be written", fix=fix)
    return model


class Measured(NamedTuple):
    """What the detections of a model are worth. scores: what is known about their scores; its calibration has been applied.
    fitted: what the calibration gave, if it was fitted now.
    """

    report: Report
    found: list[Detections]
    scores: Scores | None
    fitted: Calibrated | None = None


def calibrated(report: Report, found: list[Detections], dataset: Dataset) -> Measured:
    """Fit a calibration to detections that have the scores of the network, and say what it gives. If it does not help, report
    and detections stay.
    """
    from onestage.analysis.calibration import Temperature, calibrate
    from onestage.metrics.report import measure
    from onestage.model.output.scores import Scores

    fitted = calibrate(_matched(found, dataset))
    before, after = (f"D-ECE {_figure(one.error)}" for one in (fitted.before, fitted.after))
    pictures = f"fitted on {counted(fitted.fitted_pictures, 'picture')}; on the {fitted.pictures:,} others"
    figures = f"{before}, AP {_figure(fitted.AP_before)} before and {after}, AP {_figure(fitted.AP_after)} after"
    tell(("calibrated:" if fitted.helps else "not calibrated:", "bold"), f" {pictures} {figures}")
    if not fitted.helps:
        return Measured(report, found, None, fitted)
    rules = fitted.calibration.rules
    heat = tuple(rule.value if isinstance(rule, Temperature) else 1.0 for rule in rules)
    lines = tuple(() if isinstance(rule, Temperature) else rule.knots for rule in rules)
    scores = Scores(temperatures=heat if any(value != 1 for value in heat) else (), lines=lines if any(lines) else ())
    changed = [scores.calibrated(one) for one in found]
    again = measure(
        changed,
        _truths(found, dataset),
        dataset.classes,
        model=report.model,
        data=report.data,
        losses=report.losses,
        book=report.book,
    )
    return Measured(again, changed, scores, fitted)


def keep(
    keeping: Keeping,
    detector: Detector,
    *,
    judging: Judging,
    measured: Measured,
    analysis: Analysis | None,
    dataset: Dataset,
    path: Path,
) -> None:
    """Write what was asked for into the file of a detector at ``path``, and say so. analysis: of what was measured, if there is
    one.

    Raise ConfigError if no threshold has what is wanted, WeightsError if the file holds another detector by now.
    """
    from onestage.analysis.thresholds import find_thresholds
    from onestage.model.output.scores import Scores
    from onestage.weights.detector_file import keep_scores

    scores, before = measured.scores or Scores(), detector.scores or Scores()
    if keeping.keep_thresholds:
        thresholds = None if analysis is None else analysis.thresholds
        if thresholds is None:
            thresholds = find_thresholds(_matched(measured.found, dataset), judging.wanted(), draws=judging.draws)
        scores = replace(scores, thresholds=_chosen(thresholds, judging.want))
        _show_thresholds(thresholds)
    elif (scores.temperatures, scores.lines) == (before.temperatures, before.lines):
        scores = replace(scores, thresholds=before.thresholds)
    elif before.thresholds:
        say(("note:", "bold"), " the thresholds in the file were about other scores and are dropped: add --keep-thresholds")
    new = scores if scores != Scores() else None
    if new is None and detector.scores is None:
        return
    detector.scores = new
    kept = ["thresholds"] * bool(scores.thresholds) + ["calibration"] * scores.calibrates
    tell(f"kept in {keep_scores(path, detector)}: {' and '.join(kept) or 'neither thresholds nor calibration'}")


def _chosen(found: Thresholds, want: str) -> tuple[float, ...]:
    """The score to keep for each class: its threshold, or that of all classes. Raise ConfigError if these have none."""
    from onestage.analysis.thresholds import without_use

    common = found.overall.score.value
    if math.isnan(common):
        what, fix = "no threshold has what is wanted in these pictures, so none is kept", "want less, or train longer"
        raise ConfigError(what, where="want", got=want, fix=fix)
    without = [row.name for row in found.per_class if math.isnan(row.score.value)]
    useless = [row.name for row in without_use(found)]
    for what, names in (("no threshold has what is wanted for", without), ("no score is of use for", useless)):
        if names:
            listed = ", ".join(names[:ROWS]) + (f" and {len(names) - ROWS} more" if len(names) > ROWS else "")
            say(("note:", "bold"), f" {what} {listed}: there it is {common:.3f}, that of all classes")
    instead = {*without, *useless}
    scores = (common if row.name in instead else row.score.value for row in found.per_class)
    return tuple(max(0.0, score - ROUNDING) for score in scores)


def _show_thresholds(found: Thresholds) -> None:
    """Print the thresholds, and what they give. All figures are 0..1."""
    from onestage.analysis.wording import threshold_table

    head, *rows = threshold_table(found, most=ROWS)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("threshold of", overflow="ellipsis", no_wrap=True)
    for heading in head[1:]:
        table.add_column(heading, justify="right", overflow="fold")
    for name, *figures in rows:
        table.add_row(Text(printable(name)), *figures)
    if (more := len(found.per_class) - ROWS) > 0:
        table.add_row(Text(f"and {counted(more, 'class')} more", style="dim"))
    stdout().print()
    stdout().print(table)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _truths(found: Sequence[Detections], dataset: Dataset) -> list[Truth]:
    """The labels of the pictures of these detections: pictures that could not be read have none."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    return [dataset.truth(row_of[one.image_id]) for one in found]


def _matched(found: Sequence[Detections], dataset: Dataset) -> Matches:
    from onestage.metrics.matches import match
    from onestage.metrics.tables import tabulate

    return match(tabulate(found, _truths(found, dataset), dataset.classes))
