"""Which detector to train: what the user names, and what the rules decide where the user names none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import tyro

from onestage.cli.generate import parse_size
from onestage.cli.output import say
from onestage.errors import ConfigError, require

if TYPE_CHECKING:
    from onestage.cli.candidates import Candidate, Choice
    from onestage.data import Dataset
    from onestage.model.config import DetectorConfig
    from onestage.model.detector import Detector
    from onestage.training.config import Setting
    from onestage.training.machine import Machine
    from onestage.training.rules import Decision
    from onestage.weights.source import Source


DETECTOR, TRAINING = "detector", "training"
"""The parts of a file that ``onestage tune`` wrote."""
AUTO, NONE = "auto", "none"
"""Values of --weights: the best published ones, fetched if need be; and fresh ones."""
FITS = 0.7
"""Objects are smaller than the default boxes if their sides are less than this part of the smallest one's."""


@dataclass(frozen=True)
class ModelChoice:
    """Which detector, and what it starts from."""

    HEADING: ClassVar[str] = "detector"
    model: str | None = None
    """A recipe of the zoo: see onestage models; by default that of the weights, or what suits the data and this machine."""
    size: str | None = None
    """Input size in pixels, 300 or 240x320 (height x width); by default that of your model in --weights, or of the recipe; if
    --model is left out too, what suits the data."""
    backbone: str | None = None
    """For --model ssd, dssd, retinanet or efficientdet: any timm backbone, such as timm/resnet34."""
    box_sizes: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="FLOAT [FLOAT ...]")] = None
    """Sizes of the default boxes in input pixels, one per level and one more; by default those of the recipe."""
    weights: str | None = None
    """Start from a detector: a file, ours or of another project, or "coco" if such weights are published. A model that you have
    trained keeps the settings that differ from its recipe. By default the best published weights that are on this machine, of
    the detector or of its backbone; "auto" fetches them if need be, and "none" starts from fresh ones."""
    background: Literal["first", "none"] | None = None
    """Whether the first output in --weights stands for background, if they are of a RetinaNet of torchvision; by default what
    the number of the data's classes says."""
    backbone_weights: str | None = None
    """Start from a classifier: a file, or "imagenet" for published weights."""
    changes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Change anything else of the recipe, as often as wanted: --set loss.negative_ratio=2 --set assigner.claim=greedy."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """A model as a file that onestage data anchors wrote, or the best trial of onestage tune with its settings; it replaces
    --model, --size, --backbone and --box-sizes."""

    @property
    def options(self) -> list[list[str]]:
        """What is given, as it is typed: the words of each option."""
        given = {name: value for name, value in vars(self).items() if value not in (None, ())}
        changes = given.pop("changes", ())
        names = {name: "--config" if name == "config_file" else f"--{name.replace('_', '-')}" for name in given}
        found = [[names[name], *map(str, value if isinstance(value, tuple) else (value,))] for name, value in given.items()]
        return [*found, *(["--set", change] for change in changes)]

    @property
    def named(self) -> str | None:
        """The model that the user names, in an option or in a file. Raise ConfigError if both name one, or for a bad file."""
        if self.config_file is None:
            return self.model
        given = {"--model": self.model, "--size": self.size, "--backbone": self.backbone, "--box-sizes": self.box_sizes}
        if others := [option for option, value in given.items() if value is not None]:
            what, fix = "a config file says which model, so other options cannot", f"leave out {', '.join(others)}, or --config"
            raise ConfigError(what, where=self.config_file, got=", ".join(others), fix=fix)
        return read_config(self.config_file).name

    def source(self) -> Source | None:
        """Read the weights of a detector to start from. Return None for a tag, which needs a model, if none is named."""
        from onestage.creation import find_source

        name = self.named
        if self.weights in (AUTO, NONE):
            if self.backbone_weights is not None:
                raise ConfigError(
                    "these weights say what to start from", got="weights and backbone_weights", fix="give one of them"
                )
            return None
        if name is None and (self.weights is None or (self.weights.isidentifier() and not Path(self.weights).exists())):
            return None
        source = find_source(name or "", self.weights, self.backbone_weights)
        return source if source is None or self.background is None else source.settled(None, self.background)

    def config(self, classes: tuple[str, ...], source: Source | None = None) -> DetectorConfig:
        """The recipe for these classes, with its changes. The weights decide the settings that the user does not give."""
        if self.config_file is not None:
            config = replace(read_config(self.config_file), classes=classes, category_ids=())
        else:
            config = self._recipe(classes, source)
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

    def _recipe(self, classes: tuple[str, ...], source: Source | None) -> DetectorConfig:
        """The recipe of the zoo for these classes."""
        from onestage.creation import as_in_weights
        from onestage.zoo.table import ZOO, recipe

        name = self.model or (None if source is None else source.model)
        if name is None:
            expected = f"--model and a name, such as {', '.join([*ZOO][:3])}"
            raise ConfigError("no model is named", expected=expected, fix="see all names: onestage models")
        asked = None if self.size is None else parse_size(self.size)
        size, backbone = as_in_weights(name, source, size=asked, backbone=self.backbone)
        return recipe(name, classes, size=size, box_sizes=self.box_sizes, backbone=backbone)


def read_config(path: Path) -> DetectorConfig:
    """The model that a file describes. Raise ConfigError if it holds none, OSError if it cannot be read."""
    from onestage.model.config import DetectorConfig

    text, tuned = _read(path)
    try:
        return DetectorConfig.from_json(text if tuned is None else json.dumps(tuned.get(DETECTOR)))
    except ConfigError as error:
        raised = ConfigError.because("this file does not describe a model", error, where=path)
        raised.fix = "give a file that this wrote: onestage data anchors DATA --model NAME --out FILE"
        raise raised from error


def tuned_settings(path: Path | None) -> dict[str, Setting]:
    """The settings of the training in a file that ``onestage tune`` wrote; none in a file of anchors, or without a file.

    Raise ConfigError if one of them is not known or not possible.
    """
    from onestage.training.config import known_settings, make_config

    tuned = None if path is None else _read(path)[1]
    if tuned is None:
        return {}
    settings = tuned.get(TRAINING)
    try:
        require(isinstance(settings, dict), "a file of onestage tune has settings for the training", got=settings)
        given = cast("dict[str, Setting]", settings)
        found = known_settings({name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
        make_config(found)
    except ConfigError as error:
        raised = ConfigError.because("the settings of this file cannot be taken", error, where=path)
        raised.fix = "give a file that onestage tune wrote: best.json"
        raise raised from error
    return found


def _read(path: Path) -> tuple[str, dict[str, object] | None]:
    """The text of a config file, and what is in it if ``onestage tune`` wrote it."""
    from onestage.files import open_regular
    from onestage.model.limits import CONFIG_TEXT

    if path.exists() and not path.is_file():
        expected = "a file that onestage data anchors or onestage tune wrote"
        raise ConfigError.no_file(path, expected, ends=(".json",))
    with open_regular(path) as file:
        text = file.read(int(CONFIG_TEXT.most) + 1).decode(errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # the reader of configs says what is wrong
        content = None
    return text, content if isinstance(content, dict) and {DETECTOR, TRAINING} <= content.keys() else None


NO_CHOICE = ModelChoice()


def choose_detector(
    asked: ModelChoice, data: Dataset, machine: Machine | None, *, gpu: bool, minutes: float | None, fresh: bool = False
) -> tuple[ModelChoice, list[Decision], int | None]:
    """The choice completed by a model and its input, how they were decided, and the pictures that it should see in the time.

    data: the pictures to learn from. minutes: the time for the training, if the user set it. fresh: no trained weights can be
    taken, though some may seem to be at hand.
    """
    from onestage.cli.candidates import HOUR, DataFacts, choose, larger_than, sizes_for
    from onestage.training.rules import Decision

    facts = DataFacts.of(data)
    sizes = sizes_for(facts, gpu=gpu) if asked.size is None else [parse_size(asked.size)]
    larger = None if gpu or asked.size is not None else larger_than(sizes[0], facts)
    candidates = _usable(asked, gpu=gpu)
    if not fresh:
        candidates = _with_weights(candidates, asked, data.classes)
    seconds = HOUR if minutes is None else 60 * minutes
    found = choose(candidates, sizes, machine, seconds=seconds, larger=larger)
    candidate, (height, width) = found.candidate, found.size
    chosen = replace(asked, model=candidate.model, size=f"{height}x{width}", backbone=asked.backbone or candidate.backbone)
    decisions = [_told_model(found, chosen.backbone, "an hour" if minutes is None else f"{minutes:g} min")]
    side = facts.small * sqrt(height * width)
    if asked.size is None:
        size, reason = f"{height}x{width}", f"small objects have {side:.0f} pixels there"
        decisions.append(Decision("size", size, reason, f"--size {size}"))
    boxes = None if asked.box_sizes is not None else _smaller_boxes(chosen.config(data.classes), max(side, candidate.stride))
    if boxes is not None:
        chosen, text = replace(chosen, box_sizes=boxes), " ".join(f"{size:g}" for size in boxes)
        decisions.append(Decision("box_sizes", text, "those of the recipe are too large for them", f"--box-sizes {text}"))
    return chosen, decisions, found.seen


def _usable(asked: ModelChoice, *, gpu: bool) -> list[Candidate]:
    """The candidates to choose among: those with the backbone that the user names, or with weights of the tag; else all."""
    from onestage.cli.candidates import CANDIDATES, on_backbone
    from onestage.weights.source import tags

    if asked.backbone is not None:
        return [on_backbone(asked.backbone)]
    here = [each for each in CANDIDATES if gpu >= each.gpu]
    return [each for each in here if asked.weights in tags(each.model)] or here


def _told_model(found: Choice, backbone: str | None, time: str) -> Decision:
    """Which model was chosen, and why. time: that for the training, for people."""
    from onestage.training.rules import Decision

    candidate = found.candidate
    title, typed = candidate.model, f"--model {candidate.model}"
    if backbone is not None:
        title, typed = f"{title} on {backbone}", f"{typed} --backbone {backbone}"
    seen = "" if found.seen is None else f"sees {found.seen:,} pictures in {time}, "
    trained = " from trained weights" if candidate.trained else ""
    return Decision("model", title, f"{seen}needs {candidate.needs:,}{trained}", typed)


def _with_weights(candidates: Sequence[Candidate], asked: ModelChoice, classes: tuple[str, ...]) -> list[Candidate]:
    """The candidates with the pictures that they need from the weights that they would start from."""
    return [each.from_trained() if _has_weights(asked, each, classes) else each for each in candidates]


def _has_weights(asked: ModelChoice, candidate: Candidate, classes: tuple[str, ...]) -> bool:
    """Whether the candidate would start from trained weights: those that are asked for, or published ones."""
    from onestage.weights.at_hand import offers

    if asked.backbone_weights is not None or asked.weights not in (None, AUTO, NONE):
        return True
    named = replace(asked, model=candidate.model, backbone=asked.backbone or candidate.backbone, size=None)
    try:
        found = [] if asked.weights == NONE else [*offers(named.config(classes))]
    except ConfigError:  # the user's changes do not suit it; if it is chosen, that is said
        return False
    return any(asked.weights == AUTO or offer.path is not None for offer in found)


def _smaller_boxes(config: DetectorConfig, side: float) -> tuple[float, ...] | None:
    """Sizes of default boxes that begin with objects of that side, in pixels, evenly spread in octaves; None if the recipe's
    begin small enough.
    """
    shapes = [sqrt(w * h) for level in config.levels for w, h in level.shapes]
    if side >= FITS * min(shapes):
        return None
    count, ratio = len(config.levels), max(shapes) / side
    return tuple(float(round(side * ratio ** (place / count))) for place in range(count + 1))


def make_model(classes: tuple[str, ...], detector: ModelChoice, source: Source | None, *, seed: int) -> Detector:
    """The detector for these classes; the same seed gives the same fresh weights."""
    import torch

    from onestage.cli.common import other_settings
    from onestage.creation import build
    from onestage.processes import Launch

    torch.manual_seed(seed)
    chosen = detector.config(classes, source)
    model = build(chosen, weights=source, backbone_weights=detector.backbone_weights)
    usual = chosen if detector.config_file is not None else replace(detector, model=chosen.name).config(classes)
    taken = other_settings(model.config, usual)
    if taken and Launch.from_environment().is_main:
        say(("from the weights:", "bold"), f" {', '.join(taken)}")
    return model
