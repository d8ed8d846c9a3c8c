"""The zoo: named recipes, and detectors made from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onestage.errors import ConfigError, WeightsError, explain, nearest
from onestage.model.backbones import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector, with_levels
from onestage.structures import Size
from onestage.zoo import dssd, efficientdet, retinanet, ssd
from onestage.zoo.adapt_own import numbered_classes
from onestage.zoo.weights import OWN, PROJECTS, Source, load_backbone, load_weights, open_weights

__all__ = ["ZOO", "Entry", "build", "create", "list_models", "numbered_classes", "recipe"]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo: its recipe, its usual input (height, width), and what its authors measured, with the source.

    any_backbone: whether the recipe takes a timm backbone by name. options: what else the recipe is given.
    """

    build: ssd.Recipe
    size: Size
    published: str = ""
    any_backbone: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


ZOO = {
    "tinyssd": Entry(ssd.tinyssd, (256, 256)),
    "ssd300_vgg16": Entry(ssd.ssd_vgg16, (300, 300), "VOC07 77.2 mAP, COCO test-dev 25.1 AP: arXiv 1512.02325, tables 1, 5"),
    "ssd512_vgg16": Entry(ssd.ssd_vgg16, (512, 512), "VOC07 79.8 mAP, COCO test-dev 28.8 AP: arXiv 1512.02325, tables 1, 5"),
    "ssdlite320_mobilenet_v3_large": Entry(
        ssd.ssdlite320_mobilenet_v3_large, (320, 320), "COCO test-dev 22.0 AP: arXiv 1905.02244, table 6"
    ),
    "ssd300_mobilenet_v2": Entry(
        ssd.ssd300_mobilenet_v2, (300, 300), "COCO test-dev 22.1 AP at 320 px: arXiv 1801.04381, table 6"
    ),
    "ssd300_mobilenet_v1": Entry(ssd.ssd300_mobilenet_v1, (300, 300), "VOC07 67.6 mAP: github.com/qfgaohao/pytorch-ssd"),
    "ssd300_resnet50": Entry(ssd.ssd300_resnet50, (300, 300), "COCO val2017 26.8 AP: NVIDIA DeepLearningExamples, PyTorch SSD"),
    "ssd321_resnet101": Entry(dssd.ssd_resnet101, (321, 321), "VOC07 77.1 mAP, COCO test-dev 28.0 AP: arXiv 1701.06659"),
    "ssd513_resnet101": Entry(dssd.ssd_resnet101, (513, 513), "VOC07 80.6 mAP, COCO test-dev 31.2 AP: arXiv 1701.06659"),
    "ssd": Entry(ssd.ssd, (300, 300), any_backbone=True),
    "dssd321_resnet101": Entry(dssd.dssd_resnet101, (321, 321), "VOC07 78.6 mAP, COCO test-dev 28.0 AP: arXiv 1701.06659"),
    "dssd513_resnet101": Entry(dssd.dssd_resnet101, (513, 513), "VOC07 81.5 mAP, COCO test-dev 33.2 AP: arXiv 1701.06659"),
    "dssd": Entry(dssd.dssd, (300, 300), any_backbone=True),
    **{
        name: Entry(efficientdet.efficientdet_scaled, (v.side, v.side), efficientdet.published(name), options={"variant": name})
        for name, v in efficientdet.VARIANTS.items()
    },
    "efficientdet": Entry(efficientdet.efficientdet, (512, 512), any_backbone=True),
    **{
        name: Entry(retinanet.retinanet, (800, 1333), retinanet.PUBLISHED.get(name, ""), options=options)
        for name, options in retinanet.VARIANTS.items()
    },
    "retinanet": Entry(retinanet.retinanet, (800, 1333), any_backbone=True),
}
"""Every model by name."""

ANY_BACKBONE = [name for name, entry in ZOO.items() if entry.any_backbone]
"""Those that take a backbone: any timm model."""


def list_models() -> list[str]:
    """The names of the zoo, for ``create``."""
    return list(ZOO)


def recipe(
    name: str,
    classes: Sequence[str],
    *,
    size: Size | None = None,
    box_sizes: Sequence[float] | None = None,
    backbone: str | None = None,
) -> DetectorConfig:
    """The config of a model of the zoo.

    size: (height, width) of the input. box_sizes: the default boxes' sizes in input pixels, one per level and one more.
    backbone: for one of ANY_BACKBONE, a timm name, with or without "timm/" before it.

    Raises ConfigError for an unknown name or a value that does not fit.
    """
    entry = _entry(name)
    size = entry.size if size is None else size
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, int) and s >= 32 for s in size)):
        what = "the input size is (height, width) of at least 32 pixels each"
        raise ConfigError(explain(what, where=name, got=size, fix="such as size=(300, 300)"))
    options = dict(entry.options)
    if backbone is not None:
        if not entry.any_backbone:
            what = "the backbone of this model is part of its name"
            raise ConfigError(explain(what, where=name, got=backbone, fix=f"take one of {', '.join(ANY_BACKBONE)}"))
        options["backbone"] = backbone.removeprefix("timm/")
    config = entry.build(tuple(classes), (size[0], size[1]), box_sizes, **options)
    return replace(config, name=name)


def _entry(name: str) -> Entry:
    if name not in ZOO:
        raise ConfigError(explain(f"no model '{name}' in the zoo{nearest(name, ZOO)}", expected=", ".join(ZOO)))
    return ZOO[name]


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
    """A detector of the zoo for K classes, given by number or by name; those of the weights where neither is given.

    size: (height, width) of the input in pixels. box_sizes: of the default boxes, in input pixels, one per level and one more.
    backbone: for one of ANY_BACKBONE, any timm model. weights: of a whole detector: a file, ours or a foreign one, recognised
    by its keys, or a published tag such as "coco"; what does not fit the classes starts fresh and is named in a warning.
    backbone_weights: of a classifier: a file, or "imagenet". Files may be "https://..." or "hf-hub:owner/name" too. Without
    weights they are drawn from torch's global random numbers.

    Raises ConfigError or WeightsError saying what does not fit.
    """
    _entry(name)
    source = find_source(name, weights, backbone_weights)
    if classes is None and num_classes is None and source is not None:
        classes = source.classes.names
    size, backbone = as_in_weights(name, source, size=size, backbone=backbone)
    config = recipe(name, _class_names(name, num_classes, classes), size=size, box_sizes=box_sizes, backbone=backbone)
    if source is not None and config.classes == source.classes.names:
        config = replace(config, category_ids=source.classes.ids)
    return build(config, weights=source, backbone_weights=backbone_weights)


def as_in_weights(
    name: str, source: Source | None, *, size: Size | None, backbone: str | None
) -> tuple[Size | None, str | None]:
    """The input size, (height, width) in pixels, and the backbone, a timm name, for a recipe: what was asked for, or else those
    of weights whose file holds a detector of that name. None leaves them to the recipe.
    """
    own = None if source is None else source.own
    if own is None or own.name != name:
        return size, backbone
    if backbone is None and _entry(name).any_backbone and isinstance(own.backbone, TimmBackbone):
        backbone = own.backbone.name
    return own.preprocess.size if size is None else size, backbone


def build(
    config: DetectorConfig, *, weights: str | Path | Source | None = None, backbone_weights: str | Path | None = None
) -> Detector:
    """A detector of a recipe's config, perhaps changed since, with weights as ``create`` takes them."""
    config = with_levels(config)
    source = find_source(config.name, weights, backbone_weights)
    if source is not None:
        _check_kind(config.name, source)
        return load_weights(config, source, _recipe_of)
    if backbone_weights is not None:
        return load_backbone(config, backbone_weights)
    if isinstance(config.backbone, TimmBackbone) and (config.backbone.freeze or config.backbone.norm == "frozen"):
        what = "the backbone is frozen but has no weights that were trained: give weights or backbone_weights"
        warnings.warn(what, stacklevel=2)
    return Detector(config)


def find_source(name: str, weights: str | Path | Source | None, backbone_weights: str | Path | None) -> Source | None:
    """The weights for a model of the zoo, read if they are not yet."""
    if weights is not None and backbone_weights is not None:
        raise ConfigError(
            explain("weights already hold a backbone", got="weights and backbone_weights", fix="give one of them")
        )
    return weights if isinstance(weights, Source | None) else open_weights(name, weights)


def _recipe_of(config: DetectorConfig) -> DetectorConfig:
    """What the zoo gives for the name, size and backbone of a config; the config itself where it has no such name."""
    entry = ZOO.get(config.name)
    if entry is None:
        return config
    backbone = config.backbone.name if entry.any_backbone and isinstance(config.backbone, TimmBackbone) else None
    return recipe(config.name, config.classes, size=config.preprocess.size, backbone=backbone)


def _check_kind(name: str, source: Source) -> None:
    """WeightsError where a foreign detector is of another recipe; another size of the same recipe may well take most of it."""
    if source.origin != OWN and _entry(source.model).build is not _entry(name).build:
        raise WeightsError(
            explain(
                f"these weights are not those of {name}",
                where=source.path,
                got=f"{source.model}, of {PROJECTS[source.origin]}",
                fix=f"name the model the weights were made for: {source.model}",
            )
        )


def _class_names(name: str, num_classes: int | None, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        if isinstance(classes, str):
            raise ConfigError(
                explain("classes is a list of names, not one text", where=name, got=classes, fix=f"[{classes!r}]")
            )
        if num_classes not in (None, len(classes)):
            raise ConfigError(
                explain("num_classes contradicts the classes", where=name, got=num_classes, expected=len(classes))
            )
        return tuple(classes)
    if num_classes is None or num_classes < 1:
        raise ConfigError(
            explain("say which classes to detect", where=name, got=num_classes, fix='num_classes=20 or classes=["cat", "dog"]')
        )
    return numbered_classes(num_classes)
