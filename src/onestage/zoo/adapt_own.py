"""The border to our own files: a detector's weights under another config, class by class as the names say.

Shape letters: S anchor shapes per cell of a level, C logits per anchor, K classes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from onestage.model.anchors import AnchorLevel
from onestage.model.config import DetectorConfig
from onestage.structures import Size

CLASS_OUTPUTS = re.compile(r"head\.cls\.(\d+\.(3\.)?|output\.pointwise\.)(weight|bias)")
"""What gives the logits, in ConvHead, plain or separable, and SeparableHead: tensors (S * C, ...), rows (shape, logit)."""


PARTS = ("backbone", "neck", "head", "anchors", "coder", "assigner", "loss", "postprocess")
"""Fields of a config that weights may need otherwise than the recipe has them."""


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of classes that were given by number only: weights or training replace them by the true ones."""
    return tuple(f"class {i}" for i in range(count))


def is_numbered(config: DetectorConfig) -> bool:
    return config.classes == numbered_classes(len(config.classes))


def with_parts_of(
    own: DetectorConfig, config: DetectorConfig, *, own_recipe: DetectorConfig, recipe: DetectorConfig
) -> DetectorConfig:
    """The config with the parts that a file's detector ``own`` has otherwise than its recipe, which its weights need: default
    boxes of other sizes, another activation in the backbone. What the config itself has otherwise was chosen, and stays.

    own_recipe, recipe: what the zoo gives for the size of each.
    """
    taken = {
        part: getattr(own, part)
        for part in PARTS
        if getattr(own, part) != getattr(own_recipe, part) and getattr(config, part) == getattr(recipe, part)
    }
    if "anchors" in taken:
        taken["anchors"] = tuple(_scaled(level, own.preprocess.size, config.preprocess.size) for level in own.anchors)
    return replace(config, **taken)


def _scaled(level: AnchorLevel, old: Size, new: Size) -> AnchorLevel:
    """The same parts of an input of another (height, width)."""
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
    """Whether both have the same anchor shapes on every level, as parts of their inputs."""
    if [len(level.shapes) for level in own.anchors] != [len(level.shapes) for level in config.anchors]:
        return False
    return all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(_parts(own), _parts(config), strict=True))


def _parts(config: DetectorConfig) -> list[float]:
    height, width = config.preprocess.size
    return [part for level in config.anchors for w, h in level.shapes for part in (w / width, h / height)]
