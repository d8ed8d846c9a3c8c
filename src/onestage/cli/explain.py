"""``onestage explain``: one picture's way through a detector, as pictures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from onestage.cli.output import say, stdout, tell
from onestage.console import words
from onestage.errors import ConfigError, DataError, absent, command
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.data import Dataset
    from onestage.explain import Explanation
    from onestage.model.detector import Detector
    from onestage.structures import Sample


def explain_picture(
    model: tyro.conf.Positional[str],
    picture: tyro.conf.Positional[Path],
    /,
    *,
    labels: Path | None = None,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("explained"),
    score: float = 0.3,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    device: str | None = None,
) -> int:
    """Show how a detector looks at one picture: the anchors of every feature map, which of them learn which object, where the
    class loss lies, and the boxes before and after non-maximum suppression.

    onestage explain runs/first pictures/test/7.jpg --labels pictures/ -o seven/

    onestage explain ssd300_vgg16.coco holiday.jpg

    Without labels, the model's detections stand in for them. With labels, a recipe of the zoo without weights works too: its
    anchors and their matches are those of a trained model. Its loss is that of the first step.

    Args:
        model: a run folder, a .safetensors file, published weights, or a recipe (see onestage models)
        picture: the picture to look at
        labels: the data set that the picture belongs to: COCO JSON, Pascal VOC, YOLO, CSV, LabelMe, or tar or Parquet shards
        out: folder for index.html, the pictures and figures.json
        score: the least score of the detections to show and of those that stand in for labels
        format: the data set's format; by default it is recognised
        on_bad: what to do about a bad annotation of the data set: stop, or leave it out
        device: "cpu" or "cuda"; by default cuda if there is one
    """
    from onestage.cli.results import results_folder
    from onestage.data import load_dataset
    from onestage.explain import explain_sample, files_of, save_explanation

    Range(above=0, below=1).check(score, "score")
    dataset = None if labels is None else load_dataset(labels, format, on_bad=on_bad)
    detector = _find(model, dataset, device=device)
    sample = _guessed(picture, detector, score) if dataset is None else _labelled(picture, dataset, detector.config.classes)
    _say_what_was_left_out(dataset)
    seen = explain_sample(detector, sample, guessed=dataset is None, score=score)
    results_folder(out, files_of(seen), dataset)
    _summary(seen, save_explanation(seen, out))
    return 0


def _find(model: str, dataset: Dataset | None, *, device: str | None) -> Detector:
    """The trained model of that name, or a recipe with fresh weights for the data set's classes."""
    from onestage.cli.common import find_model, find_or_create, is_recipe

    if dataset is not None:
        return find_or_create(model, dataset.classes, device=device)
    if is_recipe(model):
        fix = f"name a trained model, or the labels: {command('explain', model, 'PICTURE', '--labels', 'DATA')}"
        raise ConfigError(f"{model} is a recipe without weights, which finds nothing by itself", fix=fix)
    return find_model(model, device=device)


def _say_what_was_left_out(dataset: Dataset | None) -> None:
    if dataset is None or not dataset.problems:
        return
    count = len(dataset.problems)
    say(("left out:", "bold yellow"), f" {count:,} bad labels or pictures of the data set; see them: {dataset.doctor}")


def _guessed(picture: Path, detector: Detector, score: float) -> Sample:
    """The picture with the model's detections as its labels."""
    from onestage.explain import stand_ins
    from onestage.images import decode_image

    return stand_ins(detector, decode_image(picture), path=str(picture), score=score)


def _labelled(picture: Path, dataset: Dataset, classes: Sequence[str]) -> Sample:
    """The picture with its labels, as indices of the model's ``classes``. Raise DataError if the data set has no such
    picture.
    """
    import torch

    sample = dataset[_row_of(picture, dataset)]
    names = [dataset.classes[label] for label in sample.labels.tolist()]
    if unknown := sorted({*names} - {*classes}):
        what = "the picture holds classes that the model does not know"
        raise DataError(what, where=picture, got=", ".join(unknown), expected=", ".join(classes[:20]))
    labels = [classes.index(name) for name in names]
    return replace(sample, labels=torch.tensor(labels, dtype=torch.int64))


def _row_of(picture: Path, dataset: Dataset) -> int:
    """The row of this picture in the data set, or of a picture with the same name and content."""
    from onestage.predict.pictures import absolute

    here = absolute(picture).resolve()
    namesakes = [(row, Path(path)) for row, path in enumerate(dataset.paths) if Path(path).name == picture.name]
    for same in (lambda path: path.resolve() == here, lambda path: _same_bytes(picture, path)):
        for row, path in namesakes:
            if same(path):
                return row
    unknown = "the data set has no labels for this picture" if picture.exists() else absent(picture, "there is no such picture")
    what = "the data set has another picture of this name" if namesakes else unknown
    raise DataError(what, where=dataset.root, got=picture, fix="name a picture of the data set by its path")


def _same_bytes(a: Path, b: Path) -> bool:
    try:
        return cmp(a, b, shallow=False)
    except OSError:
        return False


def _summary(seen: Explanation, page: Path) -> None:
    from onestage.explain.page import LEVEL_TITLES, crowded, labels_in_words, level_rows, percent

    out = stdout()
    out.print(words((seen.name, "bold"), f" on {seen.source}"))
    out.print(words((labels_in_words(seen), "dim")), "", sep="\n")
    for note in crowded(seen):
        say(note)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, title in enumerate(LEVEL_TITLES):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    *rows, total = level_rows(seen)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    out.print(table)
    for group in seen.groups:
        _line(out, group.name, f"{group.anchors:>8,} anchors  {percent(group.share):>8} of the class loss")
    _line(out, "NMS", f"{len(seen.before):>8,} boxes of score {seen.score:g} or more, {len(seen.after):,} after it")
    out.print()
    tell(f"page: {page}")


def _line(out: Console, name: str, text: str) -> None:
    out.print(words((f"{name:<16}", "bold"), text))
