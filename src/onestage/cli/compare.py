"""``onestage compare``: whether one detector is better than another on the same pictures, or whether that cannot be told."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import tyro

from onestage.cli.evaluate import THIS_MACHINE, Machine, find, measured, refuse_model_options, runner
from onestage.cli.output import say, stdout, tell
from onestage.cli.results import results_folder
from onestage.errors import ConfigError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.analysis.compare import Comparison
    from onestage.data import Dataset
    from onestage.data.detections import FoundObjects, OpenDetections
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Predictor
    from onestage.structures import Detections, Truth

UNTOLD = frozenset({"best.safetensors", "last.safetensors", "model.safetensors", "predictions.json", "results.json"})
"""Names that alone do not tell one detector from another: the folder belongs to them."""

UNSEEN = "A picture without detections is one in which nothing was found: if a detector never saw it, name a split that it saw"
"""Said if a file of detections has none for some picture."""


@dataclass(frozen=True)
class Draws:
    """How sure a difference is follows from data sets that are drawn from the pictures, with repeats."""

    HEADING: ClassVar[str] = "certainty"
    draws: int = 1000
    """So many data sets are drawn."""
    seed: int = 0
    """What is drawn follows from it."""

    def __post_init__(self) -> None:
        Range(least=10, most=1_000_000).check(self.draws, "draws")
        Range(least=0).check(self.seed, "seed")


class _Labelled(NamedTuple):
    """Which labelled pictures to compare on: see ``compare``."""

    data: Path
    split: str | None
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None
    on_bad: Literal["stop", "skip"]


def compare(
    systems: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    data: Path,
    split: str | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    draws: Draws = Draws(),
    machine: Machine = THIS_MACHINE,
) -> int:
    """Tell whether one detector is better than another on the same pictures: the difference of their AP, of each size and
    class, with the interval in which 95 of 100 drawn data sets have it. If it holds 0, the two cannot be told apart. The first
    detector is compared with each of the others.

    onestage compare runs/first runs/second --data pictures/ --out compared/

    onestage compare runs/first results.json --data pictures/ --split val

    The page in --out begins with the answer, and shows the pictures on which the two differ most, side by side.

    Args:
        systems: two or more: run folders, models or files of detections, as evaluate takes them
        data: the labelled pictures: a folder or a file, as evaluate takes it
        split: train, val, test or trainval; by default as evaluate chooses it
        out: also write to this folder: index.html, a page that holds everything; compare.json; compare.csv (each picture)
        format: the data set's format; by default it is recognised
        on_bad: what to do about a bad annotation or detection, or an unreadable picture: stop, or leave it out
    """
    from onestage.analysis.compare import compare as compared
    from onestage.analysis.compare_terminal import comparison_table
    from onestage.predict.measure import name_of

    sources = dict(zip(short_names(systems), systems, strict=True))
    measured = _measure_all(sources, _Labelled(data, split, format, on_bad), machine, out)
    dataset, found, truths, remarks = measured
    comparison = compared(found, truths, dataset.classes, data=name_of(dataset), draws=draws.draws, seed=draws.seed)
    stdout().print(comparison_table(comparison, sources))
    for remark in remarks:
        say(("note:", "bold"), f" {remark}")
    if out is not None:
        _save(comparison, measured, out, [*remarks, *_told(sources, data)])
    return 0


def short_names(systems: Sequence[str]) -> list[str]:
    """A name for each detector: the end of its path, as short as possible. Raise ConfigError for one alone, or twice."""
    paths = [Path(name).absolute().parts if os.path.lexists(name) else (name,) for name in systems]
    if len({os.path.realpath(name) for name in systems}) < max(len(systems), 2):
        got, fix = ", ".join(systems) or "none", "name two or more, each once: onestage compare A B --data DATA"
        raise ConfigError("there is nothing to compare", got=got, expected="two different detectors or more", fix=fix)
    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        lengths = range(2 if path[-1] in UNTOLD else 1, len(path) + 1)
        length = next((n for n in lengths if all(other[-n:] != path[-n:] for other in others)), len(path))
        names.append("/".join(path[-length:]))
    return names


class _Measured(NamedTuple):
    """What every detector finds, by its name, in the pictures that can be read, and the truth of these; and what a reader of
    the figures should know.
    """

    dataset: Dataset
    found: dict[str, list[Detections]]
    truths: list[Truth]
    remarks: list[str]


def _measure_all(sources: Mapping[str, str], labelled: _Labelled, machine: Machine, out: Path | None) -> _Measured:
    """Open everything, so that what does not fit is an error before anything is measured; then let each model predict.

    Raise ConfigError if the detectors differ in pictures or classes.
    """
    from onestage.analysis.compare_files import NAMES
    from onestage.data.detections import holds_detections, open_detections

    files = {name: open_detections(Path(source)) for name, source in sources.items() if holds_detections(Path(source))}
    models = {name: _open(source, labelled, machine) for name, source in sources.items() if name not in files}
    dataset = _data(sources, files, models, labelled, machine)
    if out is not None:
        results_folder(out, NAMES, dataset)
    read = {name: opened.on(dataset, on_bad=labelled.on_bad) for name, opened in files.items()}
    found = {name: objects.detections for name, objects in read.items()}
    for name, (model, pictures) in models.items():
        detections = measured(runner(model, pictures, machine), pictures, machine, labelled.on_bad)[1]
        found[name] = [_relabelled(one, dataset.classes) for one in detections]
    return _kept(dataset, {name: found[name] for name in sources}, read)


def _kept(dataset: Dataset, found: Mapping[str, Sequence[Detections]], read: Mapping[str, FoundObjects]) -> _Measured:
    """Leave out the pictures that some detector could not read. read: the files of detections."""
    seen = set.intersection(*({one.image_id for one in detections} for detections in found.values()))
    rows = [row for row, image_id in enumerate(dataset.image_ids) if image_id in seen]
    return _Measured(
        dataset,
        {name: [one for one in detections if one.image_id in seen] for name, detections in found.items()},
        [dataset.truth(row) for row in rows],
        _remarks(dataset, read, left_out=len(dataset) - len(rows)),
    )


def _open(source: str, labelled: _Labelled, machine: Machine) -> tuple[Detector | Predictor, Dataset]:
    """A model, and the pictures that measure it."""
    from onestage.evaluation import data_to_measure

    data, split, format, on_bad = labelled
    model = find(source, machine)
    return model, data_to_measure(model, data, run=Path(source), split=split, format=format, on_bad=on_bad)[0]


def _data(
    sources: Mapping[str, str],
    files: Mapping[str, OpenDetections],
    models: Mapping[str, tuple[Detector | Predictor, Dataset]],
    labelled: _Labelled,
    machine: Machine,
) -> Dataset:
    """The pictures that every detector is measured on; the classes are in the order of the first model."""
    from onestage.evaluation import data_of_all

    if not models:
        refuse_model_options(Path(next(iter(sources.values()))), machine)
        data, split, format, on_bad = labelled
        return data_of_all([*files.values()], data, split=split, format=format, on_bad=on_bad)
    (first, (_, dataset)), *others = models.items()
    for name, (_, other) in others:
        _check_same(dataset, other, name, first)
    return dataset


def _remarks(dataset: Dataset, read: Mapping[str, FoundObjects], *, left_out: int) -> list[str]:
    """What was left out, and how something unclear was understood. read: the files. left_out: so many pictures."""
    remarks = [f"{problem} (left out)" for objects in read.values() for problem in objects.left_out]
    remarks += [str(note) for objects in read.values() for note in objects.notes]
    if any(not len(one) for objects in read.values() for one in objects.detections):
        remarks.append(UNSEEN)
    if dataset.problems:
        remarks.append(f"{counted(len(dataset.problems), 'bad label')} left out")
    return [*remarks, f"{counted(left_out, 'picture')} that cannot be read left out"] if left_out else remarks


def _told(sources: Mapping[str, str], data: Path) -> list[str]:
    """What the page tells besides: what the names stand for, and how to look at one detector."""
    typed = f"onestage evaluate {shlex.quote(next(iter(sources.values())))} {shlex.quote(str(data))} --out report/"
    names = [f"{name} is {source}" for name, source in sources.items() if name != source]
    return [*names, f"Where one of them fails, and what to do next, says {typed}"]


def _save(comparison: Comparison, measured: _Measured, out: Path, remarks: Sequence[str]) -> None:
    """Write the folder of a comparison, and say where its page is."""
    from onestage.analysis.compare_files import save_comparison
    from onestage.analysis.compare_pictures import draw_differing
    from onestage.data.files import is_picture_there

    dataset, found, truths, _ = measured
    there = [truth for truth in truths if not dataset.is_on_disk or is_picture_there(truth.path)]
    paths = dict(zip(dataset.image_ids, dataset.paths, strict=True))
    drawn = draw_differing(comparison, found, there)
    page = save_comparison(comparison, out, paths=paths, drawn=drawn, remarks=remarks)
    stdout().print()
    tell(f"page: {page}")


def _check_same(dataset: Dataset, other: Dataset, name: str, first: str) -> None:
    """Raise ConfigError unless two models are measured on the same pictures, with the same classes in any order."""
    if {*dataset.classes} != {*other.classes}:
        got, expected = ", ".join(other.classes[:10]), ", ".join(dataset.classes[:10])
        fix = "compare detectors of the same classes"
        raise ConfigError("these models differ in their classes", where=name, got=got, expected=expected, fix=fix)
    if dataset.image_ids != other.image_ids:
        what, fix = "these runs held different pictures out", "name a split that none of them trained on: split="
        raise ConfigError(what, where=f"{first}, {name}", got=f"{len(other):,} and {len(dataset):,} pictures", fix=fix)


def _relabelled(found: Detections, classes: Sequence[str]) -> Detections:
    """The same detections, with the labels that their names have among ``classes``."""
    label_of = {name: label for label, name in enumerate(classes)}
    return replace(found, labels=found.labels.new_tensor([label_of[name] for name in found.class_names]))
