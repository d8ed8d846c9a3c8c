"""The border to the d2l book's TinySSD (section 14.7): its state_dict's names to ours, and what it expects of the input."""

import re
from collections.abc import Mapping

from torch import Tensor

from onestage.model.config import DetectorConfig

_NAMES = (
    (r"blk_0\.(.+)", r"backbone.stages.0.\1"),
    (r"blk_(\d)\.(.+)", r"backbone.stages.\1.\2"),
    (r"cls_(\d)\.(.+)", r"head.cls.\1.\2"),
    (r"bbox_(\d)\.(.+)", r"head.box.\1.\2"),
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of the book's TinySSD."""
    return "blk_0.0.0.weight" in tensors and "cls_4.weight" in tensors


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Our names for the book's tensors, and the config with its input: RGB 0..255 as it is."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, becomes in _NAMES:
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(becomes)] = tensor
                break
    return renamed, config.replace({"preprocess.mean": (0.0, 0.0, 0.0), "preprocess.std": (1 / 255, 1 / 255, 1 / 255)})
