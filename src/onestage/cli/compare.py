"""``onestage compare``: whether one detector is better than another on the same pictures, or whether that cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal, NamedTuple

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from onestage.cli.evaluate import THIS_MACHINE, Machine, find, measured, refuse_model_options, runner, tell_remarks
from onestage.cli.output import say, stdout
from onestage.console import words
from onestage.errors import ConfigError, counted, printable
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.analysis.compare import Comparison, Difference, Pairing
    from onestage.data import Dataset
    from onestage.data.detections import OpenDetections
    from onestage.structures import Detections

CLASSES, PICTURES = 20, 5
"""The most classes and pictures that the terminal shows of two detectors: those on which they differ most."""


@dataclass(frozen=True)
class Draws:
    """How sure a difference is follows from data sets that are drawn from the pictures, with repeats."""

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
    format: Literal["coco", "voc", "yolo", "csv"] | None
    on_bad: Literal["stop", "skip"]


def compare(
    systems: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    data: Path,
    split: str | None = None,
    format: Literal["coco", "voc", "yolo", "csv"] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    draws: Draws = Draws(),
    machine: Machine = THIS_MACHINE,
) -> int:
    """Compare detectors on the same pictures: the difference of their AP, of each size and class, with the interval in which 95
    of 100 drawn data sets have it. If it holds 0, the two cannot be told apart.

    onestage compare runs/first runs/second --data pictures/

    onestage compare runs/first results.json --data pictures/ --split val

    Args:
        systems: two or more: run folders, models or files of detections, as evaluate takes them
        data: the labelled pictures: a folder or a file, as evaluate takes it
        split: train, val, test or trainval; by default as evaluate chooses it
        format: the data set's format; by default it is recognised
        on_bad: what to do about a bad annotation or detection, or an unreadable picture: stop, or leave it out
    """
    from onestage.analysis.compare import compare as compared

    if len(systems) < 2 or len({*systems}) < len(systems):
        got, fix = ", ".join(systems) or "none", "name two or more, each once: onestage compare A B --data DATA"
        raise ConfigError("there is nothing to compare", got=got, expected="two different detectors or more", fix=fix)
    dataset, found = _detections(systems, _Labelled(data, split, format, on_bad), machine)
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    seen = [image_id for image_id in row_of if all(image_id in by_id for by_id in found.values())]
    if left_out := len(dataset) - len(seen):
        say(("left out:", "bold yellow"), f" {counted(left_out, 'picture')} that cannot be read")
    comparison = compared(
        {name: [by_id[image_id] for image_id in seen] for name, by_id in found.items()},
        [dataset.truth(row_of[image_id]) for image_id in seen],
        dataset.classes,
        draws=draws.draws,
        seed=draws.seed,
    )
    _show(comparison, dataset)
    return 0


def _detections(
    systems: Sequence[str], labelled: _Labelled, machine: Machine
) -> tuple[Dataset, dict[str, dict[int | str, Detections]]]:
    """The pictures, and what each system finds in them, by picture. Raise ConfigError if they differ in pictures or classes."""
    from onestage.data.detections import holds_detections, open_detections
    from onestage.evaluation import data_of_all

    files = {name: open_detections(Path(name)) for name in systems if holds_detections(Path(name))}
    found: dict[str, dict[int | str, Detections]] = {}
    dataset: Dataset | None = None
    for name in (name for name in systems if name not in files):
        other, detections = _run(name, labelled, machine)
        dataset = other if dataset is None else dataset
        _check_same(dataset, other, name, next(iter(found), name))
        found[name] = {one.image_id: _relabelled(one, dataset.classes) for one in detections}
    if dataset is None:
        refuse_model_options(Path(systems[0]), machine)
        data, split, format, on_bad = labelled
        dataset = data_of_all([*files.values()], data, split=split, format=format, on_bad=on_bad)
    for name, opened in files.items():
        found[name] = _read(opened, dataset, labelled)
    return dataset, {name: found[name] for name in systems}


def _run(name: str, labelled: _Labelled, machine: Machine) -> tuple[Dataset, list[Detections]]:
    """The pictures that measure a model, and what it finds in them."""
    from onestage.evaluation import data_to_measure

    data, split, format, on_bad = labelled
    model = find(name, machine)
    dataset, _ = data_to_measure(model, data, run=Path(name), split=split, format=format, on_bad=on_bad)
    return dataset, measured(runner(model, dataset, machine), dataset, machine, on_bad)[1]


def _read(opened: OpenDetections, dataset: Dataset, labelled: _Labelled) -> dict[int | str, Detections]:
    """The detections of a file by picture."""
    objects = opened.on(dataset, on_bad=labelled.on_bad)
    tell_remarks(objects)
    return {one.image_id: one for one in objects.detections}


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


def _show(comparison: Comparison, dataset: Dataset) -> None:
    """The tables of every two detectors, which are called A, B and so on: their paths would fill the columns."""
    out = stdout()
    pictures, draws = counted(comparison.pictures, "picture"), counted(comparison.draws, "draw")
    out.print(words((f"{' '.join(filter(None, (dataset.root.name, dataset.split)))}", "bold"), f": {pictures}, {draws}"))
    signs = [*ascii_uppercase, *map(str, range(len(ascii_uppercase) + 1, len(comparison.names) + 1))]
    letters = dict(zip(comparison.names, signs, strict=False))
    for name, letter in letters.items():
        out.print(words((letter, "bold"), f"  {name}"), soft_wrap=True)
    for named in comparison.pairings:
        pairing = replace(named, first=letters[named.first], second=letters[named.second])
        out.print()
        out.print(_table(pairing.figures, pairing, "figure"))
        out.print(words((f"{pairing.first} and {pairing.second}: {_verdict(pairing.figures[0], pairing)}", "bold")))
        classes = sorted(pairing.per_class, key=lambda row: 1.0 if isnan(row.difference.value) else -abs(row.difference.value))
        out.print()
        out.print(_table(classes[:CLASSES], pairing, "class"))
        if len(classes) > CLASSES:
            out.print(words((f"and {counted(len(classes) - CLASSES, 'class')} that differ less", "dim")))
        for picture in pairing.pictures[:PICTURES]:
            errors = f"{counted(picture.first, 'error')} of {pairing.first}, {picture.second:,} of {pairing.second}"
            out.print(words(f"picture {picture.image_id}: {errors}"))


def _table(rows: Sequence[Difference], pairing: Pairing, title: str) -> Table:
    """Figures of two detectors, and what their difference says. All are 0..1."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, overflow="ellipsis", no_wrap=True)
    for heading in (pairing.first, pairing.second, "difference", "95 % of draws"):
        table.add_column(Text(printable(heading)), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for row in rows:
        change = row.difference
        between = "-" if isnan(change.low) else f"{change.low:+.3f} to {change.high:+.3f}"
        cells = [_figure(row.first), _figure(row.second), _figure(change.value, sign="+"), between]
        table.add_row(Text(printable(row.name)), *cells, Text(printable(_verdict(row, pairing))))
    return table


def _verdict(row: Difference, pairing: Pairing) -> str:
    """Which of two detectors is better, if that can be told."""
    if isnan(row.difference.value):
        return "nothing to find"
    better = pairing.second if row.difference.value > 0 else pairing.first
    return f"{better} is better" if row.told_apart else "cannot be told apart"


def _figure(value: float, *, sign: Literal["", "+"] = "") -> str:
    return "-" if isnan(value) else f"{value:{sign}.3f}"
