"""A classifier's weights into the backbone of a detector."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from onestage.errors import WeightsError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.weights.fetch import fetch, fetch_hub
from onestage.weights.foreign_file import load_foreign
from onestage.weights.load import Loaded, fresh_note
from onestage.weights.projects import tflite, timm, torchvision
from onestage.weights.source import find_file
from onestage.weights.tensor_file import COUNTER, TFLITE, OpenFile, check_finite, check_types, open_file, without_memory


def load_backbone(config: DetectorConfig, weights: str | Path) -> Loaded:
    """A detector of this config whose backbone starts from a classifier's weights: a file, or "imagenet" for the published
    ones.

    Raise WeightsError if the file is not of this backbone.
    """
    path = published_backbone(config) if str(weights) == "imagenet" else find_file(weights)
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
    note = fresh_note([name for name in expected if name not in fitting and not name.endswith(COUNTER)], path)
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


def published_backbone(config: DetectorConfig) -> Path:
    """The file of the published classifier of a backbone, fetched if need be. Raise WeightsError if there is none."""
    if isinstance(config.backbone, TimmBackbone):
        return fetch_hub(*timm.published(config.backbone.name))
    source = torchvision.published_backbone(config)
    if source is None:
        what, fix = "there are no published weights for this backbone", "name a file of weights, or leave them out"
        raise WeightsError(what, got=type(config.backbone).__name__, fix=fix)
    return fetch(source[1].url, sha256=None)
