"""Detectors from a name or a config, classes and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from onestage.errors import ConfigError, WeightsError, check_number, known_keywords, warn_outside
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.limits import MANY_CLASSES
from onestage.structures import Size
from onestage.weights.load import Loaded, load_weights
from onestage.weights.load_backbone import load_backbone
from onestage.weights.source import OURS, PROJECTS, Source, open_weights
from onestage.weights.tensor_file import numbered_classes
from onestage.zoo.table import ANY_BACKBONE, ZOO, no_such_model, recipe


@known_keywords
def create(
    name: str,
    num_classes: int | None = None,
    *,
    classes: Sequence[str] | None = None,
    size: Size | None = None,
    box_sizes: Sequence[float] | None = None,
    backbone: str | None = None,
    weights: str | Path | Source | None = None,
    backbone_weights: str | Path | None = None,
) -> Detector:
    """A detector of the zoo for K classes, given by number or by name; by default those of the weights.

    size: (height, width) of the input in pixels. box_sizes: of the default boxes, in input pixels, one per level and one more.
    backbone: any timm model, for a model of ANY_BACKBONE. weights: of a whole detector: a file (ours or a foreign one, which is
    recognised by its keys) or a published tag such as "coco". Tensors that do not fit the classes start fresh, and a warning
    names them; classes that the file knows by name keep their outputs. backbone_weights: of a classifier: a file, or
    "imagenet". Files may be "https://..." or "hf-hub:owner/name" too.
    If no weights are given, they are drawn from torch's global random numbers; under ``torch.device("meta")`` the detector has
    no numbers, as torch builds modules there.

    The first output of a RetinaNet of torchvision is a class if the file has as many outputs as there are classes. It is
    background if the file has one output more.

    Raise ConfigError or WeightsError if something does not fit.
    """
    if not isinstance(name, str) or name not in ZOO:
        raise no_such_model(str(name))
    if num_classes is not None:
        check_number("num_classes", num_classes, least=1, most=MANY_CLASSES.most, whole=True)
    source = find_source(name, weights, backbone_weights)
    if source is not None and source.background is None:
        source = source.settled(num_classes if classes is None else len(classes))
    if classes is None and num_classes is None and source is not None:
        classes = source.classes.names
    size, backbone = as_in_weights(name, source, size=size, backbone=backbone)
    config = recipe(name, _class_names(name, num_classes, classes), size=size, box_sizes=box_sizes, backbone=backbone)
    if source is not None and config.classes == source.classes.names:
        config = replace(config, category_ids=source.classes.ids)
    return _with_notes_told(_built(config, source, backbone_weights))


@known_keywords
def build(
    config: DetectorConfig, *, weights: str | Path | Source | None = None, backbone_weights: str | Path | None = None
) -> Detector:
    """A detector of a config, such as a recipe with changes, with weights as ``create`` takes them."""
    if not isinstance(config, DetectorConfig):
        raise ConfigError("build takes a config", got=repr(config), expected="a DetectorConfig, as onestage.recipe gives it")
    return _with_notes_told(_built(config, find_source(config.name, weights, backbone_weights), backbone_weights))


def _built(config: DetectorConfig, source: Source | None, backbone_weights: str | Path | None) -> Loaded:
    if source is not None:
        _check_kind(config.name, source)
        return load_weights(config, source)
    if backbone_weights is not None:
        return load_backbone(config, backbone_weights)
    detector = Detector.on("meta" if torch.get_default_device().type == "meta" else "cpu", config)
    if isinstance(config.backbone, TimmBackbone) and (config.backbone.freeze or config.backbone.norm == "frozen"):
        note = "the backbone is frozen but has no weights that were trained: give weights or backbone_weights"
        return Loaded(detector, (note,))
    return Loaded(detector)


def _with_notes_told(loaded: Loaded) -> Detector:
    """The detector. Its notes become warnings in this function only."""
    warn_outside(loaded.notes)
    return loaded.detector


def as_in_weights(
    name: str, source: Source | None, *, size: Size | None, backbone: str | None
) -> tuple[Size | None, str | None]:
    """The input size, (height, width) in pixels, and the timm name of the backbone, for a recipe. A value that the user gave is
    used first, then the value in the weights file, if it holds a detector of that name. None means the recipe's value.
    """
    stored = None if source is None else source.config
    if stored is None or stored.name != name:
        return size, backbone
    if backbone is None and name in ANY_BACKBONE and isinstance(stored.backbone, TimmBackbone):
        backbone = stored.backbone.name
    return stored.preprocess.size if size is None else size, backbone


def find_source(name: str, weights: str | Path | Source | None, backbone_weights: str | Path | None) -> Source | None:
    """The weights for a model of the zoo, read if they are still a path or a tag. Raise ConfigError if both are given."""
    if weights is not None and backbone_weights is not None:
        raise ConfigError("weights already hold a backbone", got="weights and backbone_weights", fix="give one of them")
    return weights if isinstance(weights, Source | None) else open_weights(name, weights)


def _check_kind(name: str, source: Source) -> None:
    """Raise WeightsError if a foreign detector is of another recipe. Another size of the same recipe may fit."""
    if source.origin != OURS and (name not in ZOO or ZOO[name].build is not ZOO[source.model].build):
        what, got = f"these weights are not those of {name}", f"{source.model}, of {PROJECTS[source.origin]}"
        raise WeightsError(what, where=source.path, got=got, fix=f"name the model the weights were made for: {source.model}")


def _class_names(name: str, num_classes: int | None, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        if isinstance(classes, str):
            raise ConfigError("classes is a list of names, not one text", where=name, got=classes, fix=f"[{classes!r}]")
        if not isinstance(classes, Sequence):
            raise ConfigError("classes is a list of names", where=name, got=repr(classes), expected='["cat", "dog"]')
        if num_classes not in (None, len(classes)):
            raise ConfigError("num_classes contradicts the classes", where=name, got=num_classes, expected=len(classes))
        return tuple(classes)
    if num_classes is None:
        fix = 'num_classes=20 or classes=["cat", "dog"]'
        raise ConfigError("say which classes to detect", where=name, got=num_classes, fix=fix)
    return numbered_classes(num_classes)
