"""Weights into a detector: those of a whole detector, or of a classifier for its backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from onestage.errors import WeightsError, counted, first_ten
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.per_level import ConvHead
from onestage.weights.class_names import is_numbered
from onestage.weights.detector_file import COUNTER, check_types, differing, load_fitting, shapes_of, without_memory
from onestage.weights.fetch import fetch, fetch_hub
from onestage.weights.foreign_file import load_foreign
from onestage.weights.projects import tflite, timm, torchvision
from onestage.weights.published import find_file
from onestage.weights.source import ADAPTERS, OURS, Source, adapting
from onestage.weights.tensor_file import TFLITE, OpenFile, check_finite, open_file
from onestage.weights.transfer import for_classes, outputs_of, same_anchors, same_counts, with_input_of, with_parts_of
from onestage.zoo.table import recipe, recipe_of


@dataclass(frozen=True)
class Loaded:
    """A detector with weights. notes: what the user should know about them, a line of text each."""

    detector: Detector
    notes: tuple[str, ...] = ()


def load_weights(config: DetectorConfig, source: Source) -> Loaded:
    """A detector of this config with these weights.

    The pixel normalisation of the weights replaces that of the config. If the file holds a detector with the name of the
    config, the settings that the file changed in its recipe replace those of the config, unless the config changes them too.
    Outputs for other classes or other default boxes keep fresh values. A note names them, and any tensor of our files that does
    not fit.

    Raise WeightsError if the weights belong to another network. In a foreign file, one tensor that does not fit is enough.
    """
    foreign, source = source.origin != OURS, source.settled(len(config.classes))
    usual = recipe_of(config)
    tensors, stored = _in_our_terms(source, usual)
    if stored.name == config.name:
        config = with_parts_of(stored, config, stored_recipe=recipe_of(stored), recipe=usual)
    if foreign and is_numbered(stored) and len(stored.classes) == len(config.classes):
        # a file without names cannot contradict the given ones
        stored = replace(stored, classes=config.classes, category_ids=config.category_ids)
    config = with_input_of(stored, config)
    if foreign:
        with without_memory(source.path):
            detector = Detector.on("meta", config)
    else:
        detector = Detector.on("cpu", config)
    config = detector.config
    with adapting(source.origin, source.path):
        tensors = for_classes(tensors, stored, detector)
    if foreign:  # no memory is allocated before the tensors fit
        _check_exact(tensors, stored, detector, source)
        detector = Detector.on("cpu", config)
    fresh = load_fitting(detector, tensors, where=source.path)
    notes = [source.note, _fresh_note(fresh, source.path, _other_classes(stored, config))]
    if not same_anchors(stored, config):
        what = "made for other default boxes, so its box offsets have another meaning until they are trained"
        notes.append(f"{source.path}: {what}")
    return Loaded(detector, tuple(filter(None, notes)))


def _in_our_terms(source: Source, usual: DetectorConfig) -> tuple[Mapping[str, Tensor], DetectorConfig]:
    """The tensors of a file under our names, and the config that these weights need for their classes.

    usual: the recipe of the wanted detector, for files that hold no config.
    """
    tensors, config = source.tensors, source.config
    if config is None:
        usual = replace(usual, classes=source.classes.names, category_ids=source.classes.ids)
        with adapting(source.origin, source.path):
            tensors, config = ADAPTERS[source.origin].convert(source.tensors, usual)
    if source.pixels is not None:
        config = config.replace(dict(zip(("preprocess.mean", "preprocess.std"), source.pixels, strict=True)))
    return tensors, config


def _check_exact(tensors: Mapping[str, Tensor], stored: DetectorConfig, wanted: Detector, source: Source) -> None:
    """Raise WeightsError if a foreign file's tensors are not those of the wanted detector, one by one.

    Tensors that need not fit are not compared, nor are the counters of batch norm.
    """
    expected, got = (
        {name: shape for name, shape in shapes_of(side).items() if not name.endswith(COUNTER)}
        for side in (wanted.state_dict(), tensors)
    )
    if expected == got:
        return
    free = _need_not_fit(stored, wanted, source)
    expected, got = ({name: shape for name, shape in side.items() if not name.startswith(free)} for side in (expected, got))
    wrong = differing(expected, got)
    if wrong:
        name = wanted.config.name
        fix = "leave backbone, neck, head and input size as the recipe has them"
        if source.model == "retinanet":
            fix = 'name its backbone: onestage.create("retinanet", backbone=NAME, weights=FILE)'
        elif source.model != name:
            fix = f"name the model the weights were made for: {source.model}"
        what = f"these weights are not those of {name}: tensors that do not fit, {len(wrong):,}"
        raise WeightsError(what, where=source.path, got="\n" + first_ten(wrong), fix=fix)


def _need_not_fit(stored: DetectorConfig, wanted: Detector, source: Source) -> tuple[str, ...]:
    """The beginnings of the names of tensors in a foreign file that need not fit: the outputs, for other classes or default
    boxes.

    If an SSD for other classes has another number of levels at this input size, the whole neck and head need not fit.
    """
    config = wanted.config
    free: tuple[str, ...] = ()
    if not same_counts(stored, config):
        free = outputs_of(wanted, boxes=True)
    if set(stored.classes) != set(config.classes):
        free += outputs_of(wanted)
        if isinstance(config.head, ConvHead) and _levels_in(source) != len(config.levels):
            free = ("neck.", "head.")
    return free


def _levels_in(source: Source) -> int:
    """How many levels the detector of a foreign file has: as its config says, or as its recipe has at its usual size."""
    config = source.config or recipe(source.model, source.classes.names)
    return len(config.levels)


def load_backbone(config: DetectorConfig, weights: str | Path) -> Loaded:
    """A detector of this config whose backbone starts from a classifier's weights: a file, or "imagenet" for the published
    ones.

    Raise WeightsError if the file is not of this backbone.
    """
    path = _published_backbone(config) if str(weights) == "imagenet" else find_file(weights)
    with open_file(path) as file:
        names, tensors, config, taken_off = _read_backbone(config, file)
    detector = Detector.on("cpu", config)
    expected = {name: tensor.shape for name, tensor in detector.state_dict().items() if name.startswith("backbone.")}
    fitting = {name: tensor for name, tensor in tensors.items() if expected.get(name) == tensor.shape}
    if len(fitting) < len(expected) / 2:
        raise _of_another_backbone(config, names, list(expected), path)
    check_finite(fitting, path)
    check_types(detector.state_dict(), fitting, path)
    detector.load_state_dict(fitting, strict=False)
    note = _fresh_note([name for name in expected if name not in fitting and not name.endswith(COUNTER)], path)
    return Loaded(detector, tuple(filter(None, (taken_off, note))))


def _read_backbone(config: DetectorConfig, file: OpenFile) -> tuple[list[str], dict[str, Tensor], DetectorConfig, str]:
    """The names of a classifier's tensors, its tensors under our names, the config that they need, and a note for the user.

    The tensors are empty if the file is of no known classifier.
    """
    if file.kind is TFLITE:
        tensors, config = tflite.backbone.convert_backbone(file, config)
        return list(tensors), tensors, config, ""
    found = load_foreign(file, finite=False)  # torchvision's VGG16 for SSD has a classifier of NaN
    given, note = found.tensors, found.note(file.path)
    if isinstance(config.backbone, TimmBackbone):
        with without_memory(file.path):
            names = Detector(config).state_dict()
        return list(given), *timm.convert_backbone(given, config, config.backbone.name, names), note
    return list(given), *(torchvision.convert_backbone(given, config) or ({}, config)), note


def _of_another_backbone(config: DetectorConfig, got: Collection[str], expected: list[str], path: Path) -> WeightsError:
    backbone = config.backbone
    kind = type(backbone).__name__
    if isinstance(backbone, TimmBackbone):  # we keep timm's names
        kind, expected = f"timm's {backbone.name}", [name.removeprefix("backbone.body.") for name in expected]
        fix = f'the state_dict of timm.create_model("{backbone.name}"), or backbone_weights="imagenet"'
    elif (known := torchvision.published_backbone(config)) is not None:
        kind = f"torchvision's {known[0]}"
        fix = f'the state_dict of {kind}, or backbone_weights="imagenet"'
    else:
        fix = "leave backbone_weights out: there is no published classifier of this network"
    what = f"these are no weights for {kind}, the backbone of {config.name}"
    return WeightsError(what, where=path, got=", ".join(list(got)[:5]), expected=", ".join(expected[:5]), fix=fix)


def _published_backbone(config: DetectorConfig) -> Path:
    if isinstance(config.backbone, TimmBackbone):
        return fetch_hub(*timm.published(config.backbone.name))
    source = torchvision.published_backbone(config)
    if source is None:
        raise WeightsError("there are no published weights for this backbone", got=type(config.backbone).__name__)
    return fetch(source[1].url, sha256=None)


def _other_classes(stored: DetectorConfig, config: DetectorConfig) -> str:
    """The end of a note that says why class outputs start fresh: the file's class names, if they are not those of the
    config.
    """
    if set(stored.classes) == set(config.classes):
        return ""
    more = f" and {len(stored.classes) - 10} more" if len(stored.classes) > 10 else ""
    return f"; the file's classes are others: {', '.join(stored.classes[:10])}{more}"


def _fresh_note(fresh: Collection[str], path: Path, why: str = "") -> str:
    """A line that names the modules of the tensors that start fresh; empty if there are none."""
    if not fresh:
        return ""
    modules = sorted({name.rsplit(".", 1)[0] for name in fresh})
    shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
    what = "does not fit and starts" if len(fresh) == 1 else "do not fit and start"
    return f"{path}: {counted(len(fresh), 'tensor')} {what} fresh: {shown}{why}"
