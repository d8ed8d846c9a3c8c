"""The border to the d2l book's TinySSD (section 14.7): its state_dict's names to ours, and what it expects of the input."""

from collections.abc import Mapping

from torch import Tensor

from onestage.model.config import DetectorConfig
from onestage.structures import ClassSet
from onestage.weights.foreign_file import Rules, first_output, known_classes, nothing_to_tell, rename

PROJECT = "the d2l book's TinySSD"
MARK = r"(blk|cls|bbox)_\d\."
TAKEN = "the five blocks of the book"
doubt = note = nothing_to_tell
background = first_output

_NAMES: Rules = (
    (r"blk_0\.(.+)", r"backbone.stages.0.\1"),
    (r"blk_(\d)\.(.+)", r"backbone.stages.\1.\2"),
    (r"cls_(\d)\.(.+)", r"head.cls.\1.\2"),
    (r"bbox_(\d)\.(.+)", r"head.box.\1.\2"),
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of the book's TinySSD."""
    return "blk_0.0.0.weight" in tensors and "cls_4.weight" in tensors


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector."""
    return "tinyssd"


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """Numbered classes: the book's network has 4 default boxes per cell, and background comes first."""
    return known_classes(len(tensors["cls_0.weight"]) // 4 - 1)


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The book's tensors under our names, and the config with the book's input: RGB in 0..255, not normalised."""
    pixels = {"preprocess.mean": (0.0, 0.0, 0.0), "preprocess.std": (1 / 255, 1 / 255, 1 / 255)}
    return rename(tensors, _NAMES), config.replace(pixels)
