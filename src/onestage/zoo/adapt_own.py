"""The border to our own files: a detector's weights under another config, class by class as the names say.

Shape letters: S anchor shapes per cell of a level, C logits per anchor, K classes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from onestage.model.config import DetectorConfig

CLASS_OUTPUTS = re.compile(r"head\.cls\.\d+\.(3\.)?(weight|bias)")
"""What gives the logits, in ConvHead plain or separable: tensors (S * C, ...), rows ordered (shape, logit)."""


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of classes that were given by number only: weights or training replace them by the true ones."""
    return tuple(f"class {i}" for i in range(count))


def is_numbered(config: DetectorConfig) -> bool:
    return config.classes == numbered_classes(len(config.classes))


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
