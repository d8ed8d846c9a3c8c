"""The table of the zoo: every model by name, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

from onestage.errors import ConfigError, known_keywords, nearest, three_nearest
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.limits import SIDE
from onestage.structures import Size
from onestage.zoo import dssd, efficientdet, retinanet, ssd


@dataclass(frozen=True)
class Entry:
    """One model of the zoo: its recipe, its usual input (height, width), and what its authors measured, with the source.

    any_backbone: whether the recipe takes a timm backbone by name. options: further arguments of the recipe.
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
"""Names of the models that take any timm model as a backbone."""


def list_models() -> list[str]:
    """The names of the zoo, for ``create``."""
    return list(ZOO)


@known_keywords
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
    backbone: a timm name, with or without "timm/" before it, for a model of ANY_BACKBONE.

    Raise ConfigError for an unknown name or a value that does not fit.
    """
    for named in classes:
        if isinstance(named, str) and any("\ud800" <= character <= "\udfff" for character in named):  # no file can hold it
            what, fix = "the name of a class holds half a character, a lone surrogate", "write the name in full characters"
            raise ConfigError(what, where=name, got=ascii(named), fix=fix)
    return _recipe(name, classes, size=size, box_sizes=box_sizes, backbone=backbone)


def recipe_of(config: DetectorConfig) -> DetectorConfig:
    """The recipe for the name, size and backbone of a config; the config itself if the zoo has no such name."""
    if config.name not in ZOO:
        return config
    named = config.name in ANY_BACKBONE
    backbone = config.backbone.name if named and isinstance(config.backbone, TimmBackbone) else None
    return _recipe(config.name, config.classes, size=config.preprocess.size, backbone=backbone)


def no_such_model(name: str) -> ConfigError:
    """The error for a name that the zoo does not have. It suggests the nearest names."""
    what = f"no model '{name}' in the zoo{nearest(name, ZOO)}"
    return ConfigError(what, expected=_such_as(three_nearest(name, ZOO)), fix="see all names: onestage models")


def _such_as(names: str | None) -> str:
    return f"a name such as {names or ', '.join(list(ZOO)[:3])}"


def _recipe(
    name: str,
    classes: Sequence[str],
    *,
    size: Size | None,
    box_sizes: Sequence[float] | None = None,
    backbone: str | None,
) -> DetectorConfig:
    if name not in ZOO:
        raise no_such_model(name)
    entry = ZOO[name]
    size = entry.size if size is None else size
    _check_arguments(name, size, box_sizes, backbone)
    options = dict(entry.options)
    if backbone is not None:
        if not entry.any_backbone:
            what = "the backbone of this model is part of its name"
            raise ConfigError(what, where=name, got=backbone, fix=f"take one of {', '.join(ANY_BACKBONE)}")
        options["backbone"] = backbone.removeprefix("timm/")
    config = entry.build(tuple(classes), (size[0], size[1]), box_sizes, **options)
    return replace(config, name=name)


def _check_arguments(name: str, size: Size, box_sizes: Sequence[float] | None, backbone: str | None) -> None:
    """Raise ConfigError unless the arguments of a recipe have their types, and the input has a possible size."""
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, int) and s >= 32 for s in size)):
        what = "the input size is (height, width) of at least 32 pixels each"
        raise ConfigError(what, where=name, got=size, fix="such as size=(300, 300)")
    if max(size) > SIDE.most:
        SIDE.check(max(size), name)
    if box_sizes is not None and not (isinstance(box_sizes, Sequence) and all(isinstance(s, Real) for s in box_sizes)):
        raise ConfigError("box_sizes are numbers", where=name, got=repr(box_sizes), expected="sizes in pixels: [30, 60, ...]")
    if not isinstance(backbone, str | None):
        raise ConfigError("a backbone is given by its name in timm", where=name, got=repr(backbone), fix='such as "resnet34"')
