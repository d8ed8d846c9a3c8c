"""How good a detector is after some minutes of training: onestage against other programs, on one machine and the same pictures.

    python benchmarks/time_to_accuracy.py DATA --minutes 10 --ultralytics yolo/bin/python --json minutes.json
    python benchmarks/time_to_accuracy.py DATA --minutes 10 --models default "ssdlite320_mobilenet_v3_large --lr 2e-3" --peers
    python benchmarks/time_to_accuracy.py DATA --minutes 10 --families --peers --split val

Each program is a separate process. They train one after another, from scratch and with all cores: let nothing else run. Each
learns from the train split and chooses its best model by the val split. Then it looks once at the test split, and one
evaluator, ours (pycocotools' definition), measures the detections of all. While you tune, measure with ``--split val``: then
nothing looks at the test pictures.
"""

from __future__ import annotations

import json as json_module
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from common import environment
from onestage.metrics.report import Report, measure
from split_pictures import Measured, SplitPictures, split_pictures
from trainings import INSTALL, FailedTraining, Trained, train_ours, train_torchvision, train_ultralytics

Peer = Literal["ultralytics", "torchvision"]
FAMILIES = (
    "ssdlite320_mobilenet_v3_large",
    "dssd --backbone timm/resnet18 --size 320",
    "retinanet --backbone timm/resnet18 --size 320",
    "efficientdet_d0 --size 320",
)
"""A light model of each family, with the options of ``onestage train``."""


@dataclass(frozen=True)
class Row:
    """The figures of one program. classes: AP50 by name; None for a class without objects."""

    name: str
    version: str
    command: str
    seconds: float
    epochs: float
    AP: float
    AP50: float
    classes: dict[str, float | None]


Training = Callable[[SplitPictures, float, Path], Trained]
"""A program that trains: the pictures, the minutes, and the folder that it may write to."""


def trainings(
    models: Sequence[str], weights: Sequence[Path], peers: Sequence[Peer], yolo: Sequence[str], *, ultralytics: Path
) -> list[Training]:
    """Everything that is to be trained, in this order: our models, what ours makes of each of the weights, the peers.

    Raise SystemExit if Ultralytics is asked for and is not there.
    """
    if "ultralytics" in peers and not ultralytics.with_name("yolo").exists():
        raise SystemExit(f"no Ultralytics beside {ultralytics}\n{INSTALL}\nthen --ultralytics ultralytics/bin/python")
    starts = [f"default --weights {shlex.quote(str(path.resolve()))}" for path in weights]
    found: list[Training] = [partial(train_ours, model) for model in (*models, *starts)]
    if "ultralytics" in peers:
        found += [partial(train_ultralytics, model, python=ultralytics) for model in yolo]
    return [*found, train_torchvision] if "torchvision" in peers else found


def rows(todo: Sequence[Training], pictures: SplitPictures, minutes: float, folder: Path) -> Iterator[Row]:
    """Train one after another, and measure each. A program that fails is quoted and left out."""
    dataset = pictures.measured
    truths = [dataset.truth(row) for row in range(len(dataset))]
    for number, training in enumerate(todo):
        try:
            trained = training(pictures, minutes, folder / f"training-{number}")
        except FailedTraining as error:
            print(f"not measured: {error}", flush=True)
            continue
        yield _row(trained, measure(trained.found, truths, dataset.classes))


def _row(trained: Trained, report: Report) -> Row:
    classes = {one.name: None if one.AP50 != one.AP50 else one.AP50 for one in report.coco.per_class}
    figures = {"AP": report.coco.AP, "AP50": report.coco.AP50, "classes": classes}
    return Row(trained.name, trained.version, trained.command, round(trained.seconds, 1), trained.epochs, **figures)


def table(content: dict) -> str:
    """What was measured as a table in Markdown, and below it what it was measured with."""
    found = [Row(**row) for row in content["rows"]]
    peer = next((row for row in found if not row.name.startswith("onestage")), None)
    names = list(found[0].classes) if found and len(found[0].classes) <= 8 else []
    columns = ["", "minutes", "epochs", "AP", "AP50", *(f"AP50 {name}" for name in names)]
    columns += [] if peer is None else [f"AP, times {peer.name}", "AP50, times"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in found:
        cells = [row.name, f"{row.seconds / 60:.1f}", f"{row.epochs:g}", _figure(row.AP), _figure(row.AP50)]
        cells += [_figure(row.classes[name]) for name in names]
        cells += [] if peer is None else [_ratio(row.AP, peer.AP), _ratio(row.AP50, peer.AP50)]
        lines.append("| " + " | ".join(cells) + " |")
    about = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    versions = ", ".join(dict.fromkeys(f"{row.name} {row.version}" for row in found))
    return "\n".join([*lines, "", f"{content['data']}: {content['pictures']}. {versions}; {about}."])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs > 0 else "-"


def main(
    data: tyro.conf.Positional[Path],
    /,
    *,
    minutes: float = 10,
    models: tuple[str, ...] = ("default",),
    families: bool = False,
    weights: tuple[Path, ...] = (),
    peers: tuple[Peer, ...] = ("ultralytics", "torchvision"),
    yolo: tuple[str, ...] = ("yolo26n",),
    ultralytics: Path = Path("ultralytics/bin/python"),
    split: Measured = "test",
    folder: Path | None = None,
    json: Path | None = None,
) -> list[Row]:
    """Train for some minutes with each program, and compare what the detectors find.

    Args:
        data: a labelled data set of any format. One that is not divided into train, val and test is divided here.
        minutes: the budget of each program.
        models: "default", which leaves the model to onestage train; or a model's name, and after it, in the same
            quotation marks, options of onestage train.
        families: also a light model of each family.
        weights: files to start from; each makes one more training of ours, with the model of the file.
        peers: the other programs; none at all with --peers alone.
        yolo: models of Ultralytics.
        ultralytics: the Python of an environment with Ultralytics, a separate program.
        split: the pictures that are measured.
        folder: where the runs stay; by default a new temporary folder.
        json: a file for all figures.
    """
    todo = trainings([*models, *(FAMILIES if families else ())], weights, peers, yolo, ultralytics=ultralytics.absolute())
    folder = (folder or Path(tempfile.mkdtemp(prefix="minutes-"))).absolute()
    pictures = split_pictures(data, folder / "pictures", split=split)
    counts = (
        f"{len(pictures.train)} pictures to train, {len(pictures.val)} to validate, {len(pictures.measured)} ({split}) measured"
    )
    busy = os.getloadavg()[0]
    print(f"{data.name}: {counts}; {len(todo)} trainings of {minutes:g} minutes; load {busy:.1f}; runs in {folder}", flush=True)
    where = environment() | {"load before": round(busy, 1)}
    content = {"data": data.name, "pictures": counts, "minutes": minutes, "environment": where, "rows": []}
    found = []
    for row in rows(todo, pictures, minutes, folder):
        found.append(row)
        content["rows"].append(asdict(row))
        print(f"{row.name}: AP {row.AP:.3f}, AP50 {row.AP50:.3f}, {row.seconds / 60:.1f} minutes\n  {row.command}", flush=True)
        if json is not None:  # after each: an hour of training is not lost with the next program
            json.write_text(json_module.dumps(content, indent=1))
    print(f"\n{table(content)}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
