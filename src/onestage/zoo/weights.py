"""Weights to start from: the table of published ones, and the way of any file into a detector.

A weights file is recognised by its keys, never by its name. What a foreign project calls things stays in ``adapt_*.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import (
    MobileNet_V2_Weights,
    MobileNet_V3_Large_Weights,
    VGG16_Weights,
    WeightsEnum,
    detection,
)

from onestage.errors import WeightsError, explain, nearest
from onestage.model.backbones import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.files import check_finite, is_safetensors, load_foreign, load_tensors
from onestage.model.storage import load_fitting, read_config
from onestage.zoo import adapt_d2l, adapt_own, adapt_timm, adapt_torchvision
from onestage.zoo.adapt_own import CLASS_OUTPUTS, is_numbered
from onestage.zoo.fetch import fetch, fetch_hub, fetch_url

HUB = "hf-hub:"
"""How an address on the Hugging Face hub begins, as timm writes it."""


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes for a model: where, under which licence, how good, made how."""

    source: WeightsEnum
    licence: str
    ap: float

    @property
    def url(self) -> str:
        return str(self.source.url)

    @property
    def recipe(self) -> str:
        return str(self.source.meta["recipe"])

    @property
    def classes(self) -> tuple[str, ...]:
        """COCO's 90 category names; ids that COCO does not use are told apart by their number."""
        names = self.source.meta["categories"][1:]
        return tuple(name if name != "N/A" else f"N/A {i}" for i, name in enumerate(names, start=1))


WEIGHTS = {
    "ssd300_vgg16.coco": Published(detection.SSD300_VGG16_Weights.COCO_V1, "BSD-3-Clause (torchvision)", 25.1),
    "ssdlite320_mobilenet_v3_large.coco": Published(
        detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1, "BSD-3-Clause (torchvision)", 21.3
    ),
}
"""MODEL.TAG -> published weights; AP on COCO val2017 as torchvision states it."""


def tags(model: str) -> list[str]:
    """The tags under which weights are published for a model of the zoo."""
    return [key.split(".", 1)[1] for key in WEIGHTS if key.startswith(f"{model}.")]


def load_weights(config: DetectorConfig, model: str, weights: str | Path) -> Detector:
    """A detector of this config with weights from a file (our own or a foreign one), an address or a published tag.

    What these weights expect of the input's pixels replaces the config's. What does not fit, such as the class outputs for
    other classes, keeps fresh values and is named in a warning. WeightsError where the weights are of something else.
    """
    path = _locate(model, weights)
    own = read_config(path) if is_safetensors(path) else None
    if own is not None:
        tensors, config = adapt_own.convert(load_tensors(path)[0], own, config)
    else:
        tensors, config = _convert(load_foreign(path), config, path)
    detector = Detector(config)
    fresh = load_fitting(detector, tensors, where=path)
    if own is None:
        _report(fresh, path)
        return detector
    other = set(own.classes) != set(config.classes)
    _report(fresh, path, f"; the file's classes are others: {', '.join(own.classes[:10])}" if other else "")
    if not adapt_own.same_anchors(own, config):
        what = f"{path}: made for other default boxes, so its box offsets mean something else until they are trained"
        warnings.warn(what, stacklevel=4)  # the line that called create()
    return detector


def load_backbone(config: DetectorConfig, weights: str | Path) -> Detector:
    """A detector of this config whose backbone starts from a classifier's weights: a file, or "imagenet" for the published
    ones.

    WeightsError where the file is not of this backbone.
    """
    path = _published_backbone(config) if str(weights) == "imagenet" else _file(weights)
    tensors = load_foreign(path, finite=False)  # torchvision's VGG16 for SSD has a classifier of NaN
    with torch.device("meta"):
        names = Detector(config).state_dict()
    converted = adapt_timm.convert_backbone(tensors, config, names) or adapt_torchvision.convert_backbone(tensors, config)
    adapted, config = converted or ({}, config)
    detector = Detector(config)
    own = detector.state_dict()
    fitting = {k: v for k, v in adapted.items() if k in own and own[k].shape == v.shape}
    expected = [k for k in own if k.startswith("backbone.")]
    if len(fitting) < len(expected) / 2:
        raise WeightsError(
            explain(f"these are no weights for {type(config.backbone).__name__}", where=path, got=", ".join(list(tensors)[:5]))
        )
    check_finite(fitting, path)
    detector.load_state_dict(fitting, strict=False)
    _report(tuple(k for k in expected if k not in fitting and not k.endswith("num_batches_tracked")), path)
    return detector


def _convert(tensors: dict[str, Tensor], config: DetectorConfig, path: Path) -> tuple[dict[str, Tensor], DetectorConfig]:
    if adapt_torchvision.recognises(tensors):
        tensors, config = adapt_torchvision.convert(tensors, config)
        return tensors, _with_coco_names(tensors, config)
    if adapt_d2l.recognises(tensors):
        return adapt_d2l.convert(tensors, config)
    raise WeightsError(
        explain(
            "no known project's detector has such keys",
            where=path,
            got=", ".join(list(tensors)[:5]) + ", ...",
            expected="a file of this project, or of torchvision's SSDs, or of the d2l book's TinySSD",
            fix="a classifier's weights go to backbone_weights",
        )
    )


def _with_coco_names(tensors: Mapping[str, Tensor], config: DetectorConfig) -> DetectorConfig:
    """The config with COCO's names and ids where its 90 classes have numbers alone and the file has as many."""
    coco = WEIGHTS["ssd300_vgg16.coco"].classes
    rows = next((len(t) for k, t in tensors.items() if CLASS_OUTPUTS.fullmatch(k) and k.startswith("head.cls.0.")), 0)
    same = rows == len(config.anchors[0].shapes) * config.logits
    if not (same and is_numbered(config) and len(config.classes) == len(coco)):
        return config
    return replace(config, classes=coco, category_ids=tuple(range(1, len(coco) + 1)))


def _locate(model: str, weights: str | Path) -> Path:
    """The file of a path or tag; fetched and checked if it is a tag."""
    published = WEIGHTS.get(f"{model}.{weights}")
    if published is not None and not Path(weights).is_file():  # a folder may well be called "coco"
        return fetch(published.url, sha256=None)
    return _file(weights, tags(model))


def _file(weights: str | Path, known: Sequence[str] = ()) -> Path:
    """The file of a path or an address; fetched if it is an address."""
    given = str(weights)
    if given.startswith("https://"):
        return fetch_url(given)
    if given.startswith(HUB):
        return fetch_hub(given.removeprefix(HUB), "model.safetensors")
    path = Path(weights)
    if not path.is_file():
        choices = f"a file, https://..., {HUB}owner/name" + (f", or one of the tags {', '.join(known)}" if known else "")
        hint = nearest(given, known)
        raise WeightsError(explain("no such weights" + hint, got=given, expected=choices, fix="check the path"))
    return path


def _published_backbone(config: DetectorConfig) -> Path:
    if isinstance(config.backbone, TimmBackbone):
        return fetch_hub(*adapt_timm.published(config.backbone.name))
    source = {
        ("VGG16Backbone", None): VGG16_Weights.IMAGENET1K_FEATURES,
        ("MobileNetBackbone", "v2"): MobileNet_V2_Weights.IMAGENET1K_V2,
        ("MobileNetBackbone", "v3_large"): MobileNet_V3_Large_Weights.IMAGENET1K_V2,
    }.get((type(config.backbone).__name__, getattr(config.backbone, "version", None)))
    if source is None:
        raise WeightsError(explain("nobody publishes weights for this backbone", got=type(config.backbone).__name__))
    return fetch(source.url, sha256=None)


def _report(fresh: tuple[str, ...], path: Path, why: str = "") -> None:
    if fresh:
        modules = sorted({name.rsplit(".", 1)[0] for name in fresh})
        shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
        message = f"{path}: {len(fresh)} tensors do not fit and start fresh: {shown}{why}"
        warnings.warn(message, stacklevel=5)  # the line that called create()
