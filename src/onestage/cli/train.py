"""``onestage train``: from labelled pictures to a run folder."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from onestage.cli.output import say, stdout, tell
from onestage.errors import ConfigError, DataError, absent
from onestage.training.config import TrainConfig

if TYPE_CHECKING:
    from onestage.model.config import DetectorConfig
    from onestage.model.detector import Detector
    from onestage.training.loop import TrainResult
    from onestage.weights.source import Source

RUNS = Path("runs")


@dataclass(frozen=True)
class ModelChoice:
    """Which detector, and what it starts from."""

    model: str | None = None
    """A recipe of the zoo: see onestage models; by default that of the weights."""
    size: str | None = None
    """Input size in pixels, 300 or 240x320 (height x width); by default that of your model in --weights, or the recipe's."""
    backbone: str | None = None
    """For --model ssd, dssd, retinanet or efficientdet: any timm backbone, such as timm/resnet34."""
    box_sizes: tuple[float, ...] | None = None
    """Sizes of the default boxes in input pixels, one per level and one more; by default those of the recipe."""
    weights: str | None = None
    """Start from a detector: a file, ours or of another project, or "coco" if such weights are published. A model that you have
    trained keeps the settings that differ from its recipe."""
    background: Literal["first", "none"] | None = None
    """Whether the first output in --weights stands for background, if they are of a RetinaNet of torchvision; by default what
    the number of the data's classes says."""
    backbone_weights: str | None = None
    """Start from a classifier: a file, or "imagenet" for published weights."""
    changes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Change anything else of the recipe, as often as wanted: --set loss.negative_ratio=2 --set assigner.claim=greedy."""

    def source(self) -> Source | None:
        """Read the weights of a detector to start from. Return None for a tag if no model is named."""
        from onestage.creation import find_source

        if self.model is None and (self.weights is None or self.weights.isidentifier()):
            return None
        source = find_source(self.model or "", self.weights, self.backbone_weights)
        return source if source is None or self.background is None else source.settled(None, self.background)

    def config(self, classes: tuple[str, ...], source: Source | None = None) -> DetectorConfig:
        """The recipe for these classes, with its changes. The weights decide the settings that the user does not give."""
        from onestage.cli.generate import parse_size
        from onestage.creation import as_in_weights
        from onestage.zoo.table import ZOO, recipe

        name = self.model or (None if source is None else source.model)
        if name is None:
            expected = f"--model and a name, such as {', '.join([*ZOO][:3])}"
            raise ConfigError("no model is named", expected=expected, fix="see all names: onestage models")
        asked = None if self.size is None else parse_size(self.size)
        size, backbone = as_in_weights(name, source, size=asked, backbone=self.backbone)
        config = recipe(name, classes, size=size, box_sizes=self.box_sizes, backbone=backbone)
        for change in self.changes:
            if "=" not in change:
                raise ConfigError("--set takes KEY=VALUE", got=change, fix="write it as in --set loss.negative_ratio=2")
        changes = dict(change.split("=", 1) for change in self.changes)
        if "preprocess.size" in changes:
            what = "the recipe's levels and boxes follow from its size, so it is given to the recipe"
            raise ConfigError(what, where="--set preprocess.size", fix="--size HEIGHTxWIDTH")
        try:
            return config.replace(changes)
        except ConfigError as error:
            error.got = error.got or ", ".join(f"--set {change}" for change in self.changes)
            error.fix = error.fix or "docs/parts.md has all settings: --set KEY=VALUE"
            raise


NO_CHOICE, USUAL = ModelChoice(), TrainConfig()


def train(
    data: tyro.conf.Positional[Path | None] = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    accept_changes: bool = False,
    format: Literal["coco", "voc", "yolo", "csv"] | None = None,
    detector: ModelChoice = NO_CHOICE,
    training: TrainConfig = USUAL,
) -> int:
    """Learn to detect the objects of a labelled data set.

    onestage train shapes/ --model tinyssd --epochs 20

    onestage train pictures/ --model ssd --backbone timm/resnet34 --size 300x400 --backbone-weights imagenet --out runs/x

    onestage train --resume runs/x

    Ctrl-C saves and stops. On several GPUs: torchrun --nproc-per-node 4 --no-python onestage train ...

    Args:
        data: the data set's folder or file: COCO JSON, Pascal VOC, YOLO or CSV
        out: run folder for models, curves and numbers; by default runs/MODEL-1, -2, ...
        resume: go on with the interrupted run in this folder; the folder knows the data and the settings
        accept_changes: with --resume: go on though pictures have changed since the run began
        format: the data set's format, if it is not recognised
    """
    if resume is not None:
        if (data, out, format, detector, training) != (None, None, None, NO_CHOICE, USUAL):
            given = {"DATA": data, "--out": out, "--format": format, "--model and its like": detector != NO_CHOICE or None}
            raise _no_other_settings(resume, [*training.options, *(name for name, value in given.items() if value is not None)])
        return _go_on(resume, accept_changes=accept_changes)
    if accept_changes:
        raise ConfigError("--accept-changes is for a run that goes on", fix="add --resume RUN, or leave it out")
    if data is None:
        raise ConfigError("no data set is named", fix="onestage train DATA --model NAME, or --resume RUN")
    return _start(data, out, detector, training, format)


def _start(data: Path, out: Path | None, detector: ModelChoice, training: TrainConfig, format: str | None) -> int:
    """Train a new run. After a crash, torchrun gives the same command again: then train the rest of the run in ``out``."""
    from onestage.processes import Launch
    from onestage.training.checkpoint import CheckpointStore
    from onestage.training.inputs import read_data
    from onestage.training.loop import train as run_training
    from onestage.training.memory import keep_freed_memory

    if detector == NO_CHOICE and not data.exists():  # the model that is missing too is asked for later
        raise DataError(absent(data), where=data, fix="correct the path of the data set")
    launch = Launch.from_environment()
    if out is None and launch.world > 1:
        raise ConfigError("several processes need to agree on one folder", fix="--out runs/NAME")
    if out is not None and launch.restarts and CheckpointStore(out).latest()[0] is not None:
        return _go_on(out)
    keep_freed_memory()
    source = detector.source()
    _check_recipe(detector, source)
    pictures = read_data(data, training, format=format)
    model = make_model(pictures.train.classes, detector, source, seed=training.seed)
    return _close(run_training(model, pictures, out=out or _free_folder(model.config.name), config=training))


def _go_on(run: Path, *, accept_changes: bool = False) -> int:
    """The rest of an interrupted run."""
    from onestage.data.dataset import CORRECT
    from onestage.files import LAST
    from onestage.training.loop import resume
    from onestage.training.memory import keep_freed_memory

    keep_freed_memory()
    try:
        return _close(resume(run, accept_changes=accept_changes))
    except DataError as error:
        if error.fix is not None and error.fix.startswith(CORRECT):
            error.fix = (
                "put the data set back as it was when this run began; or begin a new run on what is left, from this model:"
                f" onestage train DATA --on-bad skip --weights {shlex.quote(str(run / LAST))}"
            )
        raise


def _no_other_settings(run: Path, given: Sequence[str]) -> ConfigError:
    """The error for a run to go on with for which other settings are given."""
    from onestage.files import BEST
    from onestage.training.folder import Plan

    Plan.load(run)  # raises if there is no run
    what = "--resume goes on with the data and settings of its run, so it takes no others"
    longer = f"to train longer, start a new run from its model: --weights {shlex.quote(str(run / BEST))}"
    return ConfigError(what, where=run, got=", ".join(given), fix=f"onestage train --resume {shlex.quote(str(run))}; {longer}")


def _check_recipe(detector: ModelChoice, source: Source | None) -> None:
    """A misspelt setting is an error before the data is read. So are parts that do not fit, if no file brings other parts."""
    import torch

    from onestage.model.detector import Detector

    config = detector.config(("object",), source)
    if source is None:
        with torch.device("meta"):
            Detector(config)


def make_model(classes: tuple[str, ...], detector: ModelChoice, source: Source | None, *, seed: int) -> Detector:
    """The detector for these classes; the same seed gives the same fresh weights."""
    import torch

    from onestage.cli.common import other_settings
    from onestage.creation import build
    from onestage.processes import Launch

    torch.manual_seed(seed)
    chosen = detector.config(classes, source)
    model = build(chosen, weights=source, backbone_weights=detector.backbone_weights)
    usual = replace(detector, model=chosen.name).config(classes)
    taken = other_settings(model.config, usual)
    if taken and Launch.from_environment().is_main:
        say(("from the weights:", "bold"), f" {', '.join(taken)}")
    return model


def _free_folder(name: str) -> Path:
    """runs/NAME-1, or the next number that is free."""
    number = 1
    while (RUNS / f"{name}-{number}").exists():
        number += 1
    return RUNS / f"{name}-{number}"


def _close(result: TrainResult) -> int:
    """Print where everything is, and what to do next. After an interruption, the loop has already printed how to continue."""
    from onestage.processes import Launch
    from onestage.training.folder import Plan

    if result.interrupted:
        return 130
    if not Launch.from_environment().is_main:
        return 0
    folder, run = result.folder, shlex.quote(str(result.folder))
    plan = Plan.load(result.folder)
    data = "DATA" if plan.data is None else shlex.quote(plan.data)
    named = "" if plan.format is None else f" --format {plan.format}"
    unmeasured = result.report is not None and math.isnan(result.report.coco.AP)
    best = "the last model; AP could not be measured" if unmeasured else f"best validation AP {result.best_ap:.3f}"
    stdout().print()
    tell((best, "bold"), f" after {result.seconds / 60:.1f} min")
    for what, text in {
        "model": str(result.best),
        "curves": f"{folder}/curves.png",
        "measure it": f"onestage evaluate {run} {data}{named}",
        "use it": f"onestage predict {run} PICTURES",
    }.items():
        tell(f"  {what:<11} {text}")
    return 0
