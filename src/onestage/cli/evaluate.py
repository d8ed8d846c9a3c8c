"""``onestage evaluate``: every figure of a detector on a labelled data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import tyro

from onestage.cli.judge import USUAL_JUDGING, Judging, judged
from onestage.cli.keep import NOTHING_KEPT, Keeping, Measured, calibrated, keep, to_keep_in
from onestage.cli.looking import PLAIN_LOOK, Look
from onestage.cli.output import progress, say, stdout, tell
from onestage.console import words
from onestage.errors import ConfigError, WeightsError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.analysis import Analysis
    from onestage.cli.learning_curve import Trials
    from onestage.data import Dataset
    from onestage.data.detections import FoundObjects
    from onestage.metrics.report import Report
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Looker, Predictor
    from onestage.structures import Detections


@dataclass(frozen=True)
class Machine:
    """How the work is done. The figures do not depend on it; see the batch size for the exception."""

    HEADING: ClassVar[str] = "machine"
    batch_size: int = 16
    """Pictures that the network takes at once. 1 is exact for a model whose input follows the picture, such as a RetinaNet:
    several are padded to the largest of them, which changes detections."""
    workers: int | None = None
    """Processes that read pictures; by default a number that suits this machine."""
    worker_timeout: float = 600.0
    """Seconds after which a process that reads pictures and says nothing is given up."""
    picture_memory: float = 2.0
    """Gigabytes for the pictures that are decoded at the same time."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda if there is one."""
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "ncnn", "litert"] | None = None
    """What runs the model: by default torch, and for an exported file its usual runtime (onnxruntime for .onnx, openvino for
    .xml, torch for .pt2, ncnn for .param, litert for .tflite). auto: the fastest that finds the same, if there are so many
    pictures that trying it pays. Losses, class error and box MAE need torch or a file without NMS."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: torch, or OpenVINO if it is named, computes in bfloat16, if the processor can; other figures result. An exported
    file has its precision."""
    trusted: bool = False
    """Open a .pt2 file, which could run code."""

    def __post_init__(self) -> None:
        Range(least=1).check(self.batch_size, "batch_size")
        Range(least=0, most=1024).check(self.workers, "workers")
        Range(above=0, below=1e6).check(self.worker_timeout, "worker_timeout")
        Range(above=0, below=1e6).check(self.picture_memory, "picture_memory")


THIS_MACHINE = Machine()
"""What follows from the machine alone."""


def evaluate(
    model: tyro.conf.Positional[str],
    data: tyro.conf.Positional[Path],
    /,
    *,
    split: str | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    judging: Judging = USUAL_JUDGING,
    keeping: Keeping = NOTHING_KEPT,
    look: Look = PLAIN_LOOK,
    machine: Machine = THIS_MACHINE,
) -> int:
    """Measure a detector, or the detections of any program, on labelled pictures: COCO AP, VOC AP, each class, loss, and the
    d2l book's class error and box MAE; and which errors cost most, how sure AP is, and which score to deploy with.

    onestage evaluate runs/first pictures/

    onestage evaluate runs/first pictures/ --split val --out report/

    onestage evaluate results.json annotations/instances_val2017.json

    onestage evaluate runs/first pictures/ --tiles auto --flip --with runs/second

    Args:
        model: a run folder, a .safetensors file, an exported file, or published weights (see onestage models); or detections:
            COCO results, JSON lines or CSV as predict writes them, VOC's comp4_det files or YOLO's texts, one or a folder, or
            the folder of onestage batch
        data: the data set's folder or file: COCO JSON, Pascal VOC, YOLO, CSV, LabelMe, or tar or Parquet shards; for detections
            COCO and VOC do without pictures
        split: train, val, test or trainval; by default the first that exists of test, val, the pictures that the run held out,
            and everything; for detections the first that has all of their pictures
        out: also write to this folder: index.html, a page that holds everything; metrics.json, per_class.csv, pr_curves.png,
            errors.png, analysis.json, errors.csv (each detection and object), pictures.csv, predictions.json and pictures/
        format: the data set's format; by default it is recognised
        on_bad: what to do about a bad annotation or detection, or an unreadable picture: stop, or leave it out
    """
    return _evaluate(model, _Wanted(data, split, out, format, on_bad, judging, keeping), look, machine)


class _Wanted(NamedTuple):
    """The options that models and detections share: see ``evaluate``."""

    data: Path
    split: str | None
    out: Path | None
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None
    on_bad: Literal["stop", "skip"]
    judging: Judging
    keeping: Keeping

    @property
    def typed(self) -> list[str]:
        """The options that say which pictures measure, as they are typed."""
        given = {"--split": self.split, "--format": self.format, "--on-bad": self.on_bad if self.on_bad != "stop" else None}
        return [word for name, value in given.items() if value is not None for word in (name, value)]


def _evaluate(model: str, wanted: _Wanted, look: Look, machine: Machine) -> int:
    from onestage.cli.suspects import check_suspects
    from onestage.data.detections import holds_detections
    from onestage.files import given_path

    path = given_path(model, "model")
    check_suspects(wanted.judging, wanted.out)
    if holds_detections(path):
        look.refuse("these options say how a model looks, and this is a file of detections", "leave them out")
        _evaluate_file(path, wanted, machine)
        return 0
    return _evaluate_model(path, wanted, look, machine)


def _evaluate_model(path: Path, wanted: _Wanted, look: Look, machine: Machine) -> int:
    from onestage.cli.advice import background
    from onestage.cli.report import report_folder
    from onestage.evaluation import data_to_measure

    data, split, out, format, on_bad, judging, keeping = wanted
    if keeping != NOTHING_KEPT or judging.learning_curve is not None:
        look.refuse("what is kept in a file, and a learning curve, are of the plain call", "leave these options out")
    found = find(str(path), machine)
    target = to_keep_in(path, found, keeping, judging)
    dataset, was_held_out = data_to_measure(found, data, run=path, split=split, format=format, on_bad=on_bad)
    if out is not None:
        report_folder(out, dataset)  # now: after an hour of measuring it would be too late to fail
    trials = None if judging.learning_curve is None else _trials(path, data, dataset, machine, judging.learning_curve)
    predictor = runner(found, dataset, machine)
    if keeping.calibrate:
        figures = calibrated(*measured(replace(predictor, scores=None), dataset, machine, on_bad), dataset)
    else:
        looker, dataset = _closer(path, predictor, dataset, look, machine, wanted)
        figures = Measured(*measured(looker, dataset, machine, on_bad), looker.scores)
    known = background(predictor if look.is_closer else found, path, data, dataset, options=[*wanted.typed, *look.typed])
    known = known.keeping(figures.scores, thresholds=keeping.keep_thresholds)
    judge = partial(judged, figures.found, dataset, judging, known, calibrated=figures.fitted)
    finish = partial(_finish, figures.report, figures.found, dataset, wanted, held_out=was_held_out)
    analysis = _judged_and_finished(judge, finish)
    if target is not None:
        keep(keeping, target, judging=judging, measured=figures, analysis=analysis, dataset=dataset, path=path)
    return 0 if trials is None else _run_trials(trials, machine, on_bad)


def _closer(
    model: Path, predictor: Predictor, dataset: Dataset, look: Look, machine: Machine, wanted: _Wanted
) -> tuple[Looker, Dataset]:
    """What looks at the pictures, and these with the labels of all classes that it knows. What it costs is said."""
    from onestage.cli.looking import tell_cost
    from onestage.evaluation import for_classes

    others = [runner(find(name, machine), dataset, machine) for name in look.with_]
    looker = look.closer([predictor, *others], batch_size=machine.batch_size)
    if looker.classes != dataset.classes:
        dataset = for_classes(dataset, looker.classes, wanted.data, format=wanted.format, on_bad=wanted.on_bad)
    tell_cost(look, looker, str(model), dataset)
    return looker, dataset


def _trials(path: Path, data: Path, dataset: Dataset, machine: Machine, minutes: float) -> Trials:
    """The trainings of a learning curve: now, as after an hour of measuring it would be too late to fail."""
    from onestage.cli.learning_curve import Trials

    return Trials.of(path, data, measured=dataset, minutes=minutes, workers=machine.workers, device=machine.device)


def _run_trials(trials: Trials, machine: Machine, on_bad: Literal["stop", "skip"]) -> int:
    from onestage.cli.learning_curve import run_trials
    from onestage.predict.predictor import Predictor

    return run_trials(trials, lambda model, dataset: measured(Predictor.of(model), dataset, machine, on_bad)[1])


def _evaluate_file(path: Path, wanted: _Wanted, machine: Machine) -> None:
    """Measure the detections in a file, or a folder of texts. Raise ConfigError for options that say how a model runs."""
    from onestage.cli.advice import of_detections
    from onestage.cli.report import report_folder
    from onestage.data.detections import open_detections
    from onestage.evaluation import data_of, measure_detections

    data, split, out, format, on_bad, judging, keeping = wanted
    refuse_model_options(path, machine)
    to_keep_in(path, None, keeping, judging)
    if judging.learning_curve is not None:
        what, fix = "a learning curve is of a run, and these are detections", "name a run folder, or leave learning_curve= out"
        raise ConfigError(what, where=path, fix=fix)
    opened = open_detections(path)
    dataset = data_of(opened, data, split=split, format=format, on_bad=on_bad)
    if out is not None:
        report_folder(out, dataset)
    report, objects = measure_detections(opened, dataset, on_bad=on_bad)
    known = of_detections(path, data, options=wanted.typed)
    judge = partial(judged, objects.detections, dataset, judging, known)
    _judged_and_finished(judge, partial(_finish, report, objects.detections, dataset, wanted, objects=objects))


def _judged_and_finished(
    judge: Callable[[], tuple[Analysis | None, tuple[str, ...]]], finish: Callable[[Analysis | None, tuple[str, ...]], None]
) -> Analysis | None:
    """The analysis that ``judge`` gives, once ``finish`` has told and saved all. At Ctrl-C it does so without the analysis: the
    figures may have taken an hour.
    """
    try:
        analysis, advice = judge()
    except KeyboardInterrupt:
        say(("not analysed:", "bold yellow"), " it was interrupted; the figures are complete")
        finish(None, ())
        raise
    finish(analysis, advice)
    return analysis


def _finish(
    report: Report,
    found: list[Detections],
    dataset: Dataset,
    wanted: _Wanted,
    analysis: Analysis | None,
    advice: tuple[str, ...],
    *,
    held_out: bool = False,
    objects: FoundObjects | None = None,
) -> None:
    """Show the figures, tell what was left out, and write the folder of the report. objects: of a file of detections."""
    _show(report, dataset if held_out else None)
    if objects is not None:
        tell_remarks(objects)
    bad, what = len(dataset.problems), "bad labels"
    if objects is None:
        bad, what = bad + len(dataset) - len(found), "bad labels or pictures"
    if bad:
        say(("left out:", "bold yellow"), f" {bad:,} {what}; see them: {dataset.doctor}")
    if wanted.out is not None:
        _save(report, found, dataset, wanted.out, analysis=analysis, advice=advice, judging=wanted.judging)


def refuse_model_options(path: Path, machine: Machine) -> None:
    """Raise ConfigError for options that say how a model runs, where there are only detections."""
    if given := [name for name, value in vars(machine).items() if value != getattr(THIS_MACHINE, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        what, fix = "these options say how a model runs, and this is a file of detections", f"leave {options} out"
        raise ConfigError(what, where=path, got=options, fix=fix)


def tell_remarks(objects: FoundObjects) -> None:
    """What was left out of a file of detections, and how something unclear in it was understood."""
    for problem in objects.left_out:
        say(("left out:", "bold yellow"), f" {problem}")
    for note in objects.notes:
        say(("note:", "bold"), f" {note}")


def _save(
    report: Report,
    detections: list[Detections],
    dataset: Dataset,
    out: Path,
    *,
    analysis: Analysis | None,
    advice: tuple[str, ...],
    judging: Judging,
) -> None:
    """Write the folder of a report, and say where its page is, and the labels to check if they are wanted."""
    from onestage.cli.judge import with_truths
    from onestage.cli.report import save_report
    from onestage.cli.suspects import save_suspects

    page = save_report(report, detections, dataset, out, analysis=analysis, advice=advice)
    stdout().print()
    tell(f"report: {page}")
    save_suspects(analysis, with_truths(detections, dataset), dataset, out, judging)


def find(name: str, machine: Machine) -> Detector | Predictor:
    """The model that a user names. Raise WeightsError, which says what was looked for, if there is none."""
    from onestage.cli.common import find_any_model

    try:
        return find_any_model(name, device=machine.device, runtime=machine.runtime, trusted=machine.trusted)
    except WeightsError as error:
        if not os.path.lexists(name) and error.expected is not None:
            from onestage.data.detections import KINDS

            error.expected = f"{error.expected}; or detections: {KINDS}"
        raise


def runner(model: Detector | Predictor, dataset: Dataset, machine: Machine) -> Predictor:
    """The model, run by the runtime that was asked for."""
    from onestage.cli.common import TRIED_WITH, Numbers, run_model
    from onestage.predict.pictures import PictureFile
    from onestage.predict.pipeline import first_pictures

    files = [PictureFile(Path(path), path) for path in dataset.paths[:TRIED_WITH]]
    limits = {"gigabytes": machine.picture_memory, "timeout": machine.worker_timeout}
    some = partial(first_pictures, files, TRIED_WITH, **limits)
    numbers: Numbers = "bf16" if machine.precision == "bf16" else "exact"
    return run_model(model, machine.runtime, pictures=some, total=len(dataset), numbers=numbers)


def _show(report: Report, held_out: Dataset | None) -> None:
    """The figures. held_out: the pictures, if a run kept them back from the data set that it trained on."""
    stdout().print(report.table())
    if held_out is not None:
        pictures = counted(len(held_out), "picture")
        stdout().print()
        stdout().print(words(f"measured on the {pictures} held out; the run trained on the rest of this data set"))


def measured(
    looker: Looker, dataset: Dataset, machine: Machine, on_bad: Literal["stop", "skip"]
) -> tuple[Report, list[Detections]]:
    """The figures, and the detections behind them, with a bar for the time that it takes."""
    from onestage.data.loader import usual_workers
    from onestage.data.workers import Workers
    from onestage.predict.measure import evaluate_dataset

    size, count = machine.batch_size, usual_workers() if machine.workers is None else machine.workers
    workers = Workers(count, machine.worker_timeout, machine.picture_memory)
    with progress("measuring", len(dataset)) as bar:
        return evaluate_dataset(looker, dataset, batch_size=size, workers=workers, on_bad=on_bad, advance=bar.advance)
