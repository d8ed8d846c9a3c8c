"""``onestage data anchors``: anchor shapes that fit a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from onestage.cli.choose import NO_CHOICE, ModelChoice, make_model
from onestage.cli.output import progress, stdout, tell
from onestage.errors import ConfigError, DataError, absent, command

if TYPE_CHECKING:
    from rich.table import Table

    from onestage.data import Dataset
    from onestage.model.config import DetectorConfig
    from onestage.model.detector import Detector
    from onestage.training.coverage import Coverage, Reached
    from onestage.training.rules import Decision

CLASSES_SHOWN = 20
DRAWN = 5000
"""Objects in the drawing, at least, if there are so many."""


def anchors(
    data: tyro.conf.Positional[Path],
    /,
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("anchors.json"),
    detector: ModelChoice = NO_CHOICE,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    seed: int = 0,
) -> int:
    """Fit the shapes of a model's anchors to the objects of a data set, and show how many objects they reach.

    An anchor reaches an object if their IoU is 0.5 or more. The shapes are fitted to the training pictures, at the size of the
    model's input; the validation pictures show whether others are reached too. The number of anchors stays, so weights fit.

    `onestage data anchors pictures/ --model ssd300_vgg16 -o anchors.json` writes the model with its new anchors, and a drawing
    of them to anchors.png. `onestage train pictures/ --config anchors.json` trains it. Bad annotations are left out.

    Args:
        data: the data set's folder or file: COCO JSON, Pascal VOC, YOLO, CSV, LabelMe, or tar or Parquet shards
        out: file for the model with its anchors, in JSON; the drawing has the same name, and ends in .png
        format: the data set's format, if it is not recognised
        seed: of what is random in the search; the same seed gives the same file
    """
    from onestage.training.anchors import with_anchors
    from onestage.training.config import TrainConfig
    from onestage.training.coverage import coverage_of
    from onestage.training.inputs import adopt_classes, read_data

    _check_arguments(data, out, detector)
    source = detector.source()
    detector.config(("object",), source)  # a mistake in it is told before the data is read
    pictures = read_data(data, TrainConfig(on_bad="skip", seed=seed), format=format)
    model = make_model(pictures.train.classes, detector, source, seed=seed)
    adopt_classes(model, pictures.train)
    fitted = fit_with_progress(model, pictures.train, seed=seed)
    splits = {"train": pictures.train, "val": pictures.val}
    both = model, with_anchors(model, fitted)
    found = {name: [coverage_of(one, part) for one in both] for name, part in splits.items()}
    stdout().print(render(found))
    _write(out, fitted, model.config, sides=_sides(model, pictures.train))
    tell(f"written: {out}, and a drawing: {out.with_suffix('.png')}")
    choice = _better_choice(detector, out, *found["train"])
    tell(f"next: {command('train', *pictures.train.named, *chain(*choice.options))}")
    return 0


def _better_choice(detector: ModelChoice, out: Path, before: Coverage, after: Coverage) -> ModelChoice:
    """What to train with: the file ``out``, or the detector as it is, if the fit does not reach more of the training pictures'
    objects, in all or of the class that is reached least; then say so.
    """
    worst = [1.0 if found.least is None else found.least.share for found in (before, after)]
    if after.total.reached > before.total.reached or (after.total == before.total and worst[1] > worst[0]):
        return replace(detector, config_file=out, model=None, size=None, backbone=None, box_sizes=None, changes=())
    tell(f"the usual anchors are as good: those in {out} reach no more objects")
    return detector


def _check_arguments(data: Path, out: Path, detector: ModelChoice) -> None:
    """Raise DataError if there is no such data. Raise ConfigError if no model is named, or if a file is in the way."""
    from onestage.cli.results import MODEL_CONFIG, check_replaceable

    if not data.exists():
        raise DataError(absent(data), where=data, fix="correct the path of the data set")
    if detector.named is None and detector.weights is None:
        raise ConfigError("no model is named", expected="--model and a name", fix="such as --model ssd300_vgg16")
    drawing = out.with_suffix(".png")
    if drawing == out:
        what, fix = "the drawing has that name", f"such as {out.with_suffix('.json')}"
        raise ConfigError(what, where=out, expected="the name of a JSON file", fix=fix)
    check_replaceable(out, MODEL_CONFIG)
    if drawing.exists() and not out.exists():
        raise ConfigError("a file is in the way of the drawing", where=drawing, fix="choose another name for --out")


def fit_with_progress(model: Detector, data: Dataset, *, seed: int) -> DetectorConfig:
    """``fit_anchors`` with a bar on a terminal."""
    from onestage.model.anchors.fit import ROUNDS
    from onestage.training.anchors import fit_anchors

    with progress("fit", ROUNDS, unit="rounds") as bar:
        return fit_anchors(model, data, seed=seed, advance=bar.advance)


def fitted(model: Detector, data: Dataset, *, seed: int) -> tuple[Detector, Decision]:
    """The model with anchors that fit the data, and what they changed."""
    from onestage.training.anchors import with_anchors
    from onestage.training.coverage import coverage_of
    from onestage.training.rules import ANCHORS, Decision

    changed = with_anchors(model, fit_with_progress(model, data, seed=seed))
    before, after = (f"{coverage_of(one, data).total.share:.1%}" for one in (model, changed))
    return changed, Decision(
        ANCHORS, "fitted", f"they reach {after} of the objects, those of the model {before}", "--fit-anchors"
    )


def render(pairs: dict[str, list[Coverage]]) -> Table:
    """The coverage before and after the fit, of each split: in all, by size, of the most frequent classes, and by level."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(Text("Reached", "bold cyan not dim"), overflow="fold")
    for name in pairs:
        for title in (f"{name} objects", "before", "after"):
            table.add_column(title, justify="right", no_wrap=True)
    columns = [[_rows(found) for found in pair] for pair in pairs.values()]
    for parts in zip(*(zip(*pair, strict=True) for pair in columns), strict=True):
        cells = [cell for before, after in parts for cell in (f"{before.objects:,}", _percent(before), _percent(after))]
        table.add_row(Text(parts[0][0].name), *cells)
    return table


def _rows(found: Coverage) -> list[Reached]:
    """The rows of the table. The order of the classes is that of their labels, so all splits have the same."""
    return [found.total, *found.sizes, *found.classes[:CLASSES_SHOWN], *found.levels]


def _percent(part: Reached) -> str:
    return f"{part.share:.1%}" if part.objects else "-"


def _sides(model: Detector, data: Dataset) -> list[tuple[float, float]]:
    """Width and height of the objects that count, in pixels of the input: of every n-th one, where there are too many."""
    from onestage.data.tallies import objects_of
    from onestage.training.coverage import PlacedObjects, pieces

    step = max(1, sum(objects_of(data)) // DRAWN)
    before, found = 0, list[tuple[float, float]]()
    for piece in pieces(data):
        extents, _ = PlacedObjects.of(model, piece).apart(model.config.levels)
        found += [(width, height) for width, height in extents[-before % step :: step].tolist()]
        before += len(extents)
    return found


def _write(out: Path, fitted: DetectorConfig, before: DetectorConfig, *, sides: Sequence[tuple[float, float]]) -> None:
    """Write the config, and the drawing beside it. sides: of objects, in pixels of the input."""
    from onestage.files import write_file
    from onestage.metrics.plots import plot_anchors
    from onestage.model.codec import encode

    old, new = ([level.shapes for level in config.levels] for config in (before, fitted))
    write_file(out, json.dumps(encode(fitted), indent=2) + "\n")
    plot_anchors(sides, old, new, out.with_suffix(".png"))
