"""The steps of ``onestage demo``: pictures, training, measuring."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.panel import Panel
from rich.table import Table

from onestage.cli.generate import FINISHED, UNFINISHED, is_data_set, write_data_set
from onestage.cli.output import progress, say, stdout, tell
from onestage.cli.report import SCORE, save_report
from onestage.console import words
from onestage.creation import create
from onestage.data import load_dataset
from onestage.data.synthetic import SyntheticConfig
from onestage.data.writers import Split
from onestage.errors import ConfigError, command
from onestage.metrics.report import Report
from onestage.metrics.wording import NOT_MEASURED
from onestage.predict.measure import evaluate_dataset
from onestage.training.checkpoint import CheckpointStore
from onestage.training.config import TrainConfig
from onestage.training.loop import TrainResult, resume, train
from onestage.training.memory import keep_freed_memory
from onestage.weights.detector_file import load_detector

MODEL = "tinyssd"
USUAL_SCORE = 0.4
"""The least score that the demo proposes to show; less if no detection has it."""


@dataclass(frozen=True)
class Scale:
    """The demo's size: the number of pictures in each split, their side, the side of the network's input, and the training."""

    train: int
    val: int
    test: int
    side: int
    size: int
    config: TrainConfig


FULL = Scale(
    train=1000,
    val=100,
    test=200,
    side=256,
    size=96,
    config=TrainConfig(
        epochs=11,
        batch_size=8,
        lr=2e-3,
        warmup=60,
        augment="none",
        augment_with=("flip=0.5",),
        evaluate_every=3,
        cache=0.25,
        fused=True,
    ),
)
"""The objects are a third of a picture wide or more, so 96 pixels show enough of them. In the same time, ten epochs of small
steps on 96 pixels teach more than six on 128.
"""
FAST = Scale(train=16, val=8, test=8, side=64, size=64, config=TrainConfig(epochs=1, batch_size=8, workers=1))
"""Shows that everything works. It learns nothing."""


def walk(out: Path, scale: Scale) -> int:
    """All steps, with everything in ``out``; finished steps are not repeated. Return the exit code."""
    keep_freed_memory()
    _step(1, "pictures")
    data = _pictures(out / "data", scale)
    _step(2, "training")
    result = _trained(out / "run", data, scale)
    if result.interrupted:
        fast = ("--fast",) if scale is FAST else ()
        say(("or go on with the whole demo:", "bold"), " ", command("demo", "--out", out, *fast))
        return 130
    _step(3, "measuring on pictures that it has never seen")
    report, best = _measured(result, data, out)
    stdout().print(report.table())
    stdout().print(_summary(report, result, out, best))
    return 0


def _step(number: int, what: str) -> None:
    stdout().print(f"\n[bold cyan]{number}/3[/] [bold]{what}[/]", highlight=False)


def _pictures(folder: Path, scale: Scale) -> Path:
    """The folder of the generated data set: drawn now, or by an earlier run."""
    counts: dict[Split, int] = {"train": scale.train, "val": scale.val, "test": scale.test}
    config = SyntheticConfig(size=(scale.side, scale.side))
    if not (folder / FINISHED).exists():
        unfinished = (folder / UNFINISHED).exists()
        write_data_set(folder, counts, config, overwrite=unfinished)
    elif is_data_set(folder, counts, config):
        tell(f"the pictures in {folder} are still there")
    else:
        fix = "name another folder with --out, or delete this one"
        raise ConfigError("this folder holds a data set that is not the demo's", where=folder, fix=fix)
    return folder


def _trained(folder: Path, data: Path, scale: Scale) -> TrainResult:
    """The training: started now, resumed, or finished already."""
    state, _ = CheckpointStore(folder).latest()
    if state is not None:
        return resume(folder)
    classes = load_dataset(data, split="train").classes
    torch.manual_seed(scale.config.seed)
    model = create(MODEL, classes=classes, size=(scale.size, scale.size))
    return train(model, data, out=folder, config=scale.config)


def _measured(result: TrainResult, data: Path, out: Path) -> tuple[Report, float]:
    """The figures of the best model on the test pictures, and the best score of a detection, 0 without one. Write all results
    into ``out``.
    """
    model = load_detector(result.best)
    dataset = load_dataset(data, split="test", classes=model.config.classes)
    with progress("measuring", len(dataset)) as bar:
        report, found = evaluate_dataset(model, dataset, advance=bar.advance)
    save_report(report, found, dataset, out)
    shutil.copyfile(result.folder / "curves.png", out / "training_curves.png")
    return report, max((detections.scores.max().item() for detections in found if len(detections)), default=0.0)


def _summary(report: Report, result: TrainResult, out: Path, best: float) -> Panel:
    """The most important figures, where to look, and what to do next. best: the best score of a detection."""
    coco, book, folder = report.coco, report.book, str(out)
    score = USUAL_SCORE if best >= USUAL_SCORE else float(f"{best / 2:.1g}")
    side_by_side = "labels on the left, detections on the right"
    if best < SCORE:
        side_by_side = f"labels alone: no detection has a score of {SCORE} or more after so short a training"
    rows = {
        "AP50": f"{coco.AP50:.3f}   AP {coco.AP:.3f}, on {coco.pictures} pictures",
        "class error": f"{book.class_error:.2e}   box MAE {book.box_mae:.2e}" if book else NOT_MEASURED,
        "training": f"{result.seconds / 60:.1f} min" if result.seconds >= 60 else f"{result.seconds:.0f} s",
        "": "",
        "look at": f"{folder}/index.html",
        "pictures": f"{folder}/pictures/   {side_by_side}",
        "curves": f"{folder}/training_curves.png, pr_curves.png",
        "the model": str(result.best),
        " ": "",
        "try it": command("predict", f"{folder}/run", f"{folder}/data/test", "--score", f"{score:g}"),
        "next": "onestage train YOUR_PICTURES",
    }
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(words((name, "bold")), words(text))
    return Panel(table, title=f"{MODEL}, trained and measured", title_align="left", expand=False, border_style="cyan")
