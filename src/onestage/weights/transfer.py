"""From the detector of a file to a detector of another config: its parts, its classes, its default boxes.

Shape letters: S anchor shapes per cell of a level, C logits per anchor, K classes.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.weights.class_names import is_numbered

Unit = tuple[float, float]
"""(height, width) in pixels of the unit of anchor shapes: the input, or the strides of a level."""
T = TypeVar("T")

PARTS = ("backbone", "neck", "head", "coder", "assigner", "loss", "postprocess")
"""Fields of a config that the weights of a file may change. Anchors are not among them: they also depend on the size."""
TRAINING_ONLY = ("drop_path",)
"""Settings that no weights need. Old files lack them, and their detectors are trained with the values of the recipe."""


def same_classes(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether a config has the classes that a file stores, in any order. Numbered classes match any names of the same
    number.
    """
    numbered = is_numbered(config) and len(stored.classes) == len(config.classes)
    return numbered or set(stored.classes) == set(config.classes)


def with_parts_of(
    stored: DetectorConfig, config: DetectorConfig, *, stored_recipe: DetectorConfig, recipe: DetectorConfig
) -> DetectorConfig:
    """The config with every setting in which the detector of a file differs from its recipe, because the weights need them.

    Examples are default boxes of other sizes, or another activation in the backbone.

    A setting in which the config differs from its recipe was chosen by the user, and stays. The postprocess of the file is
    taken for the same classes only: the number and the least score of detections depend on the classes.

    stored: the config in the file. stored_recipe, recipe: the zoo's recipes for the size of each.
    """
    parts = PARTS if same_classes(stored, config) else [part for part in PARTS if part != "postprocess"]
    taken = {part: _merged(*(getattr(c, part) for c in (stored, config, stored_recipe, recipe))) for part in parts}
    if stored.anchors != stored_recipe.anchors and config.anchors == recipe.anchors:
        taken["anchors"] = _resized(stored, stored_recipe, recipe)
    mode, stored_mode = recipe.preprocess.mode, stored.preprocess.mode
    if stored_mode != stored_recipe.preprocess.mode and config.preprocess.mode == mode:
        taken["preprocess"] = replace(config.preprocess, mode=stored_mode)
    return replace(config, **taken)


def _merged(stored: T, config: T, stored_recipe: T, recipe: T) -> T:
    """A part, or a setting, of the config; that of the file if only the file differs from its recipe.

    Parts of one kind are merged setting by setting.
    """
    if is_dataclass(stored) and not isinstance(stored, type):
        four = (stored, config, stored_recipe, recipe)
        if len({type(part) for part in four}) == 1:
            names = [field.name for field in fields(stored) if field.name not in TRAINING_ONLY]
            return replace(config, **{name: _merged(*(getattr(part, name) for part in four)) for name in names})  # type: ignore[type-var]
    return stored if stored != stored_recipe and config == recipe else config


def _resized(stored: DetectorConfig, stored_recipe: DetectorConfig, recipe: DetectorConfig) -> tuple[AnchorLevel, ...]:
    """The anchors of ``stored`` for the input of ``recipe``. They grow in the same way as the recipe's anchors.

    In RetinaNet and EfficientDet anchors are measured in strides, so they grow with the strides. In SSD the strides stay, and
    the anchors grow with the input.
    """
    pairs = _side_by_side(stored_recipe, recipe)
    if pairs is None or len(stored.levels) != len(pairs) or not all(map(_equal_in_strides, pairs)):
        return tuple(_grown(level, stored.preprocess.size, recipe.preprocess.size) for level in stored.levels)
    resized = []
    for level, (before, after) in zip(stored.levels, pairs, strict=True):
        old, new = _strides(before, after)
        grown = _grown(level, old, new)
        if isinstance(level.stride, tuple):
            grown = replace(grown, stride=(level.stride[0] / old[0] * new[0], level.stride[1] / old[1] * new[1]))
        resized.append(grown)
    return tuple(resized)


def _grown(level: AnchorLevel, old: Unit, new: Unit) -> AnchorLevel:
    """The level with its shapes converted: each has as many new units as it had old units."""
    y, x = new[0] / old[0], new[1] / old[1]
    return replace(level, shapes=tuple((w * x, h * y) for w, h in level.shapes))


def with_input_of(stored: DetectorConfig, config: DetectorConfig) -> DetectorConfig:
    """The config with the pixels that the weights of a file expect.

    Numbered classes get the names and ids of the file if their number is the same.
    """
    pixels = {name: getattr(stored.preprocess, name) for name in ("mean", "std", "antialias")}
    config = replace(config, preprocess=replace(config.preprocess, **pixels))
    if is_numbered(config) and len(stored.classes) == len(config.classes):
        config = replace(config, classes=stored.classes, category_ids=stored.category_ids)
    return config


def for_classes(tensors: Mapping[str, Tensor], stored: DetectorConfig, detector: Detector) -> dict[str, Tensor]:
    """The tensors of a file whose config is ``stored`` for the classes of ``detector``.

    If the same classes are in another order, the rows of the class outputs (S * C, ...) are reordered too. If the classes are
    others, the class outputs are left out, because their rows would get wrong names.
    """
    config = detector.config
    if config.classes == stored.classes:
        return dict(tensors)
    outputs = outputs_of(detector)
    if set(config.classes) == set(stored.classes):
        return {k: _reordered(t, stored, config) if k in outputs else t for k, t in tensors.items()}
    return {k: t for k, t in tensors.items() if k not in outputs}


def outputs_of(detector: Detector, *, boxes: bool = False) -> tuple[str, ...]:
    """Names of the tensors that give the logits, and with ``boxes`` of those that give the box offsets too."""
    head = detector.head
    return tuple(f"head.{name}" for name in (*head.class_outputs(), *(head.box_outputs() if boxes else ())))


def _reordered(tensor: Tensor, stored: DetectorConfig, config: DetectorConfig) -> Tensor:
    """(S * C, ...) with the logits of each shape in the config's order of classes. The background logit stays first."""
    first = stored.logits - len(stored.classes)
    order = [*range(first), *(first + stored.classes.index(name) for name in config.classes)]
    return tensor.unflatten(0, (-1, stored.logits))[:, torch.tensor(order)].flatten(0, 1)


def same_anchors(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether both have the same anchor shapes on every level, as parts of their inputs or in strides."""
    if stored.anchors == config.anchors:
        return True
    sizes = stored.preprocess.size, config.preprocess.size
    pairs = _side_by_side(stored, config)
    return pairs is not None and (all(_equal(*pair, *sizes) for pair in pairs) or all(map(_equal_in_strides, pairs)))


def same_counts(stored: DetectorConfig, config: DetectorConfig) -> bool:
    """Whether both have the same number of levels, and the same number of anchor shapes on each."""
    pairs = _side_by_side(stored, config)
    return pairs is not None and all(len(a.shapes) == len(b.shapes) for a, b in pairs)


def _side_by_side(a: DetectorConfig, b: DetectorConfig) -> list[tuple[AnchorLevel, AnchorLevel]] | None:
    """The levels of two configs in pairs; None if one has more than the other."""
    return list(zip(a.levels, b.levels, strict=True)) if len(a.levels) == len(b.levels) else None


def _equal_in_strides(pair: tuple[AnchorLevel, AnchorLevel]) -> bool:
    return _equal(*pair, *_strides(*pair))


def _strides(a: AnchorLevel, b: AnchorLevel) -> tuple[Unit, Unit]:
    """The strides of two levels; a pixel for both if a stride depends on the size of the map, which is not known here."""
    if isinstance(a.stride, tuple) and isinstance(b.stride, tuple):
        return a.stride, b.stride
    return (1.0, 1.0), (1.0, 1.0)


def _equal(a: AnchorLevel, b: AnchorLevel, unit_a: Unit, unit_b: Unit) -> bool:
    """Whether the shapes of ``a`` measured in ``unit_a`` are those of ``b`` measured in ``unit_b``."""
    grown = _grown(a, unit_a, unit_b)
    return len(a.shapes) == len(b.shapes) and all(
        math.isclose(old, new, rel_tol=1e-3)
        for shapes in zip(grown.shapes, b.shapes, strict=True)
        for old, new in zip(*shapes, strict=True)
    )
