"""Weights into a detector: those of a whole detector, or of a classifier for its backbone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import WeightsError, first_ten
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.per_level import ConvHead
from onestage.weights import transfer as adapt_own
from onestage.weights.class_names import is_numbered
from onestage.weights.detector_file import COUNTER, differing, load_fitting, shapes_of
from onestage.weights.fetch import fetch, fetch_hub
from onestage.weights.foreign_file import load_foreign
from onestage.weights.projects import timm as adapt_timm
from onestage.weights.projects import torchvision as adapt_torchvision
from onestage.weights.projects.tflite import backbone as adapt_tflite_backbone
from onestage.weights.published import _file
from onestage.weights.source import ADAPTERS, OWN, Source, _adapting
from onestage.weights.tensor_file import check_finite, is_tflite


def load_weights(config: DetectorConfig, source: Source, recipe_of: Callable[[DetectorConfig], DetectorConfig]) -> Detector:
    """A detector of this config with these weights. recipe_of: what the zoo gives for the name and size of a config.

    What they expect of the input's pixels replaces the config's, and so do the parts of a detector of that name that they need
    otherwise than the recipe has them, unless the config has them otherwise too. The outputs for other classes or default boxes
    keep fresh values and are named in a warning; so does anything of our own files that does not fit. WeightsError where the
    weights are of something else, a foreign file's already at one tensor.
    """
    path, usual = source.path, recipe_of(config)
    tensors, own = (source.tensors, source.own) if source.own is not None else _converted(usual, source)
    if source.pixels is not None:
        own = own.replace(dict(zip(("preprocess.mean", "preprocess.std"), source.pixels, strict=True)))
    if own.name == config.name:
        config = adapt_own.with_parts_of(own, config, own_recipe=recipe_of(own), recipe=usual)
    if source.origin != OWN and is_numbered(own) and len(own.classes) == len(config.classes):
        # nobody knows the file's names: these may be them
        own = replace(own, classes=config.classes, category_ids=config.category_ids)
    with _adapting(source.origin, path):
        tensors, config = adapt_own.convert(tensors, own, config)
    if source.origin != OWN:
        _check_exact(tensors, own, config, source)
    detector = Detector(config)
    fresh = load_fitting(detector, tensors, where=path)
    other = set(own.classes) != set(config.classes)
    more = f" and {len(own.classes) - 10} more" if len(own.classes) > 10 else ""
    _report(fresh, path, f"; the file's classes are others: {', '.join(own.classes[:10])}{more}" if other else "")
    if not adapt_own.same_anchors(own, config):
        what = f"{path}: made for other default boxes, so its box offsets mean something else until they are trained"
        warnings.warn(what, stacklevel=4)  # the line that called create()
    return detector


def _check_exact(tensors: Mapping[str, Tensor], own: DetectorConfig, config: DetectorConfig, source: Source) -> None:
    """WeightsError where a foreign file's tensors are not those of a detector of this config, one by one; but for the outputs,
    where classes or default boxes are others than the file's, and all that stands on the backbone, where SSD for other classes
    has another number of levels at this input size. Nothing is allocated before that.
    """
    free = None
    if [len(level.shapes) for level in own.levels] != [len(level.shapes) for level in config.levels]:
        free = adapt_own.OUTPUTS
    if set(own.classes) != set(config.classes):
        free = free or adapt_own.CLASS_OUTPUTS
        levels = {match[1] for name in tensors if (match := re.match(r"head\.box\.(\d+)\.", name))}
        if isinstance(config.head, ConvHead) and len(levels) != len(config.levels):
            free = re.compile(r"(neck|head)\..+")
    sides = (shapes_of(config, source.path), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    kept = ({k: v for k, v in s.items() if not (k.endswith(COUNTER) or (free and free.fullmatch(k)))} for s in sides)
    wrong = differing(*kept)
    if wrong:
        fix = "leave backbone, neck, head and input size as the recipe has them"
        if source.model == "retinanet":
            fix = 'name the network that it stands on: onestage.create("retinanet", backbone=NAME, weights=FILE)'
        elif source.model != config.name:
            fix = f"name the model the weights were made for: {source.model}"
        what = f"these weights are not those of {config.name}: tensors that do not fit, {len(wrong):,}"
        raise WeightsError(what, where=source.path, got="\n" + first_ten(wrong), fix=fix)


def _converted(config: DetectorConfig, source: Source) -> tuple[Mapping[str, Tensor], DetectorConfig]:
    """A foreign file's tensors under our names, and the recipe's config as they need it for their own classes."""
    config = replace(config, classes=source.classes.names, category_ids=source.classes.ids)
    with _adapting(source.origin, source.path):
        return ADAPTERS[source.origin].convert(source.tensors, config)


def load_backbone(config: DetectorConfig, weights: str | Path) -> Detector:
    """A detector of this config whose backbone starts from a classifier's weights: a file, or "imagenet" for the published
    ones.

    WeightsError where the file is not of this backbone.
    """
    path = _published_backbone(config) if str(weights) == "imagenet" else _file(weights)
    tensors, converted = _read_backbone(config, path)
    adapted, config = converted or ({}, config)
    detector = Detector(config)
    own = detector.state_dict()
    fitting = {k: v for k, v in adapted.items() if k in own and own[k].shape == v.shape}
    expected = [k for k in own if k.startswith("backbone.")]
    if len(fitting) < len(expected) / 2:
        raise _of_another_backbone(config, tensors, expected, path)
    check_finite(fitting, path)
    detector.load_state_dict(fitting, strict=False)
    _report(tuple(k for k in expected if k not in fitting and not k.endswith(COUNTER)), path)
    return detector


def _of_another_backbone(config: DetectorConfig, got: Mapping[str, Tensor], expected: list[str], path: Path) -> WeightsError:
    backbone = config.backbone
    kind = type(backbone).__name__
    if isinstance(backbone, TimmBackbone):  # whose names we keep
        kind, expected = f"timm's {backbone.name}", [name.removeprefix("backbone.body.") for name in expected]
        fix = f'the state_dict of timm.create_model("{backbone.name}"), or backbone_weights="imagenet"'
    elif (known := adapt_torchvision.published_backbone(config)) is not None:
        kind = f"torchvision's {known[0]}"
        fix = f'the state_dict of {kind}, or backbone_weights="imagenet"'
    else:
        fix = "leave backbone_weights out: nobody publishes a classifier of this network"
    what = f"these are no weights for {kind}, the backbone of {config.name}"
    return WeightsError(what, where=path, got=", ".join(list(got)[:5]), expected=", ".join(expected[:5]), fix=fix)


def _read_backbone(
    config: DetectorConfig, path: Path
) -> tuple[Mapping[str, Tensor], tuple[dict[str, Tensor], DetectorConfig] | None]:
    """A classifier's tensors, and the same under our names with the config that they need, or None where nobody knows them."""
    if is_tflite(path):
        converted = adapt_tflite_backbone.convert_backbone(path, config)
        return converted[0], converted
    tensors = load_foreign(path, finite=False)  # torchvision's VGG16 for SSD has a classifier of NaN
    with torch.device("meta"):
        names = Detector(config).state_dict()
    return tensors, (adapt_timm.convert_backbone(tensors, config, names) or adapt_torchvision.convert_backbone(tensors, config))


def _published_backbone(config: DetectorConfig) -> Path:
    if isinstance(config.backbone, TimmBackbone):
        return fetch_hub(*adapt_timm.published(config.backbone.name))
    source = adapt_torchvision.published_backbone(config)
    if source is None:
        raise WeightsError("nobody publishes weights for this backbone", got=type(config.backbone).__name__)
    return fetch(source[1].url, sha256=None)


def _report(fresh: tuple[str, ...], path: Path, why: str = "") -> None:
    if fresh:
        modules = sorted({name.rsplit(".", 1)[0] for name in fresh})
        shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
        what = "1 tensor does not fit and starts" if len(fresh) == 1 else f"{len(fresh)} tensors do not fit and start"
        message = f"{path}: {what} fresh: {shown}{why}"
        warnings.warn(message, stacklevel=5)  # the line that called create()
