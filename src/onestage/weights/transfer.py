"""The border to our own files: a detector's weights under another config, class by class as the names say.

Shape letters: S anchor shapes per cell of a level, C logits per anchor, K classes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel
from onestage.model.config import DetectorConfig
from onestage.weights.class_names import is_numbered

Unit = tuple[float, float]
"""(height, width) in pixels of what anchor shapes are measured in: the input, or a level's strides."""

CLASS_OUTPUTS = re.compile(r"head\.(convs\.)?cls\.(\d+\.(3\.)?|output\.pointwise\.)(weight|bias)")
"""What gives the logits, in ConvHead, plain or separable, also inside ResidualHead, SharedHead and SeparableHead: tensors
(S * C, ...), rows (shape, logit).
"""
OUTPUTS = re.compile(CLASS_OUTPUTS.pattern.replace("cls", "(cls|box)"))
"""These and what gives the box offsets: tensors (S * 4, ...)."""

PARTS = ("backbone", "neck", "head", "coder", "assigner", "loss", "postprocess")
"""Fields of a config that weights may need otherwise than the recipe has them; anchors change with the size."""
TRAINING_ONLY = ("drop_path",)
"""Settings that no weights need: files of before there was one do not have it, and are to be trained like the others."""


def same_classes(own: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether a config means a file's classes, in whatever order; by number alone it does where there are as many."""
    numbered = is_numbered(config) and len(own.classes) == len(config.classes)
    return numbered or set(own.classes) == set(config.classes)


def with_parts_of(
    own: DetectorConfig, config: DetectorConfig, *, own_recipe: DetectorConfig, recipe: DetectorConfig
) -> DetectorConfig:
    """The config with what a file's detector ``own`` has otherwise than its recipe, which its weights need: default boxes of
    other sizes, another activation in the backbone. What the config itself has otherwise was chosen, and stays. How many
    detections are wanted, and how sure, is a matter of the classes: with others the recipe's postprocess stays.

    own_recipe, recipe: what the zoo gives for the size of each.
    """
    parts = PARTS if same_classes(own, config) else [part for part in PARTS if part != "postprocess"]
    taken = {part: _merged(*(getattr(c, part) for c in (own, config, own_recipe, recipe))) for part in parts}
    if own.anchors != own_recipe.anchors and config.anchors == recipe.anchors:
        taken["anchors"] = _resized(own, own_recipe, recipe)
    mode, own_mode = recipe.preprocess.mode, own.preprocess.mode
    if own_mode != own_recipe.preprocess.mode and config.preprocess.mode == mode:
        taken["preprocess"] = replace(config.preprocess, mode=own_mode)
    return replace(config, **taken)


def _merged(own: Any, config: Any, own_recipe: Any, recipe: Any) -> Any:
    """The config's part, or value, with what ``own`` alone has otherwise: setting by setting where all four are of one kind."""
    if is_dataclass(own) and len({type(part) for part in (own, config, own_recipe, recipe)}) == 1:
        names = [field.name for field in fields(own) if field.name not in TRAINING_ONLY]
        settings = {name: _merged(*(getattr(p, name) for p in (own, config, own_recipe, recipe))) for name in names}
        return replace(config, **settings)
    return own if own != own_recipe and config == recipe else config


def _resized(own: DetectorConfig, own_recipe: DetectorConfig, recipe: DetectorConfig) -> tuple[AnchorLevel, ...]:
    """The anchors of ``own`` for the input of ``recipe``. They grow as the recipe's do: with the strides where these measure
    them, as in RetinaNet and EfficientDet, or else with the input, as in SSD, whose strides stay.
    """
    if len(own.levels) != len(recipe.levels) or not _same_in_strides(own_recipe, recipe):
        return tuple(_grown(level, own.preprocess.size, recipe.preprocess.size) for level in own.levels)
    resized = []
    for level, before, after in zip(own.levels, own_recipe.levels, recipe.levels, strict=True):
        old, new = _strides(before, after)
        grown = _grown(level, old, new)
        if isinstance(level.stride, tuple):
            grown = replace(grown, stride=(level.stride[0] / old[0] * new[0], level.stride[1] / old[1] * new[1]))
        resized.append(grown)
    return tuple(resized)


def _grown(level: AnchorLevel, old: Unit, new: Unit) -> AnchorLevel:
    """The level with shapes that are in new units what they were in old ones."""
    y, x = new[0] / old[0], new[1] / old[1]
    return replace(level, shapes=tuple((w * x, h * y) for w, h in level.shapes))


def convert(
    tensors: Mapping[str, Tensor], own: DetectorConfig, config: DetectorConfig
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The tensors of a file whose config is ``own`` for a detector of ``config``, and that with the pixels they expect.

    Classes that were given by number alone get the file's names and ids, if there are as many. The same names in another order
    take their rows of the class outputs along; other names leave the class outputs out, for a row would get a wrong name.
    """
    config = config.replace({f"preprocess.{k}": getattr(own.preprocess, k) for k in ("mean", "std", "antialias")})
    if is_numbered(config) and len(own.classes) == len(config.classes):
        config = replace(config, classes=own.classes, category_ids=own.category_ids)
    if config.classes == own.classes:
        return dict(tensors), config
    if set(config.classes) == set(own.classes):
        return {k: _reordered(t, own, config) if CLASS_OUTPUTS.fullmatch(k) else t for k, t in tensors.items()}, config
    return {k: t for k, t in tensors.items() if not CLASS_OUTPUTS.fullmatch(k)}, config


def _reordered(tensor: Tensor, own: DetectorConfig, config: DetectorConfig) -> Tensor:
    """(S * C, ...) with each shape's logits in the config's order of classes; what stands before them, background, stays."""
    first = own.logits - len(own.classes)
    order = [*range(first), *(first + own.classes.index(name) for name in config.classes)]
    return tensor.unflatten(0, (-1, own.logits))[:, torch.tensor(order)].flatten(0, 1)


def same_anchors(own: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether both have the same anchor shapes on every level, as parts of their inputs or in strides."""
    return _same_in_parts(own, config) or _same_in_strides(own, config)


def _same_in_parts(a: DetectorConfig, b: DetectorConfig) -> bool:
    sizes = a.preprocess.size, b.preprocess.size
    return len(a.levels) == len(b.levels) and all(_alike(*p, *sizes) for p in zip(a.levels, b.levels, strict=True))


def _same_in_strides(a: DetectorConfig, b: DetectorConfig) -> bool:
    return len(a.levels) == len(b.levels) and all(
        _alike(*pair, *_strides(*pair)) for pair in zip(a.levels, b.levels, strict=True)
    )


def _strides(a: AnchorLevel, b: AnchorLevel) -> tuple[Unit, Unit]:
    """The strides of two levels; a pixel for both where the size of the map decides, which is not known here."""
    if isinstance(a.stride, tuple) and isinstance(b.stride, tuple):
        return a.stride, b.stride
    return (1.0, 1.0), (1.0, 1.0)


def _alike(a: AnchorLevel, b: AnchorLevel, unit_a: Unit, unit_b: Unit) -> bool:
    """Whether the shapes of ``a``, in units of it, are those of ``b`` in units of that."""
    grown = _grown(a, unit_a, unit_b)
    return len(a.shapes) == len(b.shapes) and all(
        math.isclose(old, new, rel_tol=1e-3)
        for shapes in zip(grown.shapes, b.shapes, strict=True)
        for old, new in zip(*shapes, strict=True)
    )
