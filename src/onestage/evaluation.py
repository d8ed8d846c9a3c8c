"""Every figure of a detector on a labelled data set: from a model, a run folder or detections in a file to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from onestage.data import Dataset
from onestage.data.detections import FoundObjects, OpenDetections, holds_detections, open_detections
from onestage.data.reader import open_data
from onestage.data.table import OnBad
from onestage.errors import ConfigError, known_keywords, warn_outside
from onestage.files import given_path
from onestage.loading import load
from onestage.metrics.report import Report, measure
from onestage.model.detector import Detector
from onestage.predict.measure import Advance, evaluate_dataset, name_of
from onestage.predict.predictor import Looker
from onestage.training.inputs import held_out


@known_keywords
def evaluate(
    model: Detector | Looker | str | Path,
    data: str | Path | Dataset,
    *,
    split: str | None = None,
    format: str | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    on_bad: OnBad = "stop",
    advance: Advance | None = None,
) -> Report:
    """Every figure of the detector on a data set: COCO AP, VOC AP, each class, the losses, the book's class error and box MAE.

    model: a detector, its file, a run folder, or an exported file; what ``onestage.look`` or ``onestage.fuse`` makes of them;
    or a file with detections of any program, which is measured without a model (data/detections.py lists the kinds; what it
    leaves out or takes for granted is a warning). data: a path, or a Dataset already read. split: of a path. The default is the
    first that exists of "test", "val", the pictures that the run held out, and everything; for detections the first that has
    all of their pictures. format: of a path that is not recognised.

    Raise DataError if the data cannot be used, ConfigError if its classes are not the model's, WeightsError if the model
    cannot be read.
    """
    if isinstance(data, Dataset) and (split is not None or format is not None):
        what, got = "a split or format is for a path; these pictures are read already", f"split={split}, format={format}"
        raise ConfigError(what, got=got, fix="leave both out, or give the path of the data set")
    run: Path | None = None
    if isinstance(model, str | Path) or not hasattr(model, "predict"):
        run = given_path(cast(Path, model), "model")
        if holds_detections(run):
            _refuse_model_options(batch_size=batch_size, workers=workers)
            return _evaluate_file(run, data, split=split, format=format, on_bad=on_bad)
        model = load(run)
    dataset = data if isinstance(data, Dataset) else given_path(data, "data")
    if not isinstance(dataset, Dataset):
        dataset, _ = data_to_measure(model, dataset, run=run, split=split, format=format, on_bad=on_bad)
    return evaluate_dataset(model, dataset, batch_size=batch_size, workers=workers, on_bad=on_bad, advance=advance)[0]


def _refuse_model_options(*, batch_size: int, workers: int | None) -> None:
    """Raise ConfigError for options that say how a model runs."""
    if (batch_size, workers) != (16, None):
        what, got = (
            "batch_size and workers are for a model, and these are detections",
            f"batch_size={batch_size}, workers={workers}",
        )
        raise ConfigError(what, got=got, fix="leave both out")


def _evaluate_file(file: Path, data: str | Path | Dataset, *, split: str | None, format: str | None, on_bad: OnBad) -> Report:
    """The report of the detections in a file, with a warning for all that is not plain."""
    opened = open_detections(file)
    path = data if isinstance(data, Dataset) else given_path(data, "data")
    dataset = path if isinstance(path, Dataset) else data_of(opened, path, split=split, format=format, on_bad=on_bad)
    report, objects = measure_detections(opened, dataset, on_bad=on_bad)
    warn_outside(str(remark) for remark in (*objects.left_out, *objects.notes))
    return report


class Measured(NamedTuple):
    """The report of detections that a file has, and what was read of it."""

    report: Report
    objects: FoundObjects


def measure_detections(opened: OpenDetections, dataset: Dataset, *, on_bad: OnBad = "stop") -> Measured:
    """Every figure of detections on a data set, losses and anchors aside. Raise DataError as ``read_detections`` does."""
    objects = opened.on(dataset, on_bad=on_bad)
    truths = [dataset.truth(row) for row in range(len(dataset))]
    name = opened.rows.file.name
    return Measured(measure(objects.detections, truths, dataset.classes, model=name, data=name_of(dataset)), objects)


def data_of(
    opened: OpenDetections, path: str | Path, *, split: str | None = None, format: str | None = None, on_bad: OnBad = "stop"
) -> Dataset:
    """The pictures that detections belong to: see ``data_of_all``."""
    return data_of_all([opened], path, split=split, format=format, on_bad=on_bad)


def data_of_all(
    files: Sequence[OpenDetections],
    path: str | Path,
    *,
    split: str | None = None,
    format: str | None = None,
    on_bad: OnBad = "stop",
) -> Dataset:
    """The pictures at ``path`` that the detections of some files belong to, of which only the labels are needed.

    split: by default the first of test, val, trainval and train that has all pictures of the detections, or everything.
    """
    labels = open_data(path, format, labels_alone=True)
    if split is None:
        for name in ("test", "val", "trainval", "train"):
            if name in labels.splits:
                found = labels.load(name, on_bad=on_bad)
                if not any(opened.lacks(found) for opened in files):
                    return found
    return labels.load(split, on_bad=on_bad)


def data_to_measure(
    model: Detector | Looker,
    path: str | Path,
    *,
    run: Path | None = None,
    split: str | None = None,
    format: str | None = None,
    on_bad: OnBad = "stop",
) -> tuple[Dataset, bool]:
    """The pictures at ``path`` that measure a model, with the labels of its classes, and whether a run held them out.

    run: the run folder of the model, or its file in one. Pictures that the run trained on are left out if the data set has no
    split to measure on.
    """
    if run is not None and split is None and run.exists():
        rest, note = held_out(model, run if run.is_dir() else run.parent, path, on_bad=on_bad, format=format)
        warn_outside([note] if note is not None else [])
        if rest is not None:
            return rest, True
    return read_for(model, path, split=split, on_bad=on_bad, format=format), False


def for_classes(
    dataset: Dataset, classes: tuple[str, ...], path: str | Path, *, format: str | None = None, on_bad: OnBad = "stop"
) -> Dataset:
    """The pictures of a data set read from ``path``, with the labels of other classes."""
    opened = open_data(path, format)
    read = opened.load(dataset.split if dataset.split in opened.splits else None, classes=classes, on_bad=on_bad)
    wanted = set(dataset.paths)
    return read.subset([row for row, name in enumerate(read.paths) if name in wanted], dataset.split)


def read_for(
    model: Detector | Looker, path: str | Path, *, split: str | None, on_bad: OnBad, format: str | None = None
) -> Dataset:
    """The data set at ``path``, with the labels of the model's classes; by default its "test" or "val" split, or everything.

    Raise ConfigError if it has none of the classes.
    """
    opened = open_data(path, format)
    if split is None:
        stated = [s for s in ("test", "val") if s in opened.splits or s in opened.missing]
        split = next((s for s in stated if s in opened.splits), next(iter(stated), None))
    return opened.load(split, classes=model.classes, on_bad=on_bad)
