"""The border to lufficc/SSD: the names of its VGG16 SSDs to ours, and what these weights were trained with.

Sources: ssd/modeling/backbone/vgg.py, box_head/, ssd/config/defaults.py, configs/vgg_*.yaml. It has the network and the
default boxes of ssd.pytorch.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from onestage.model.config import DetectorConfig
from onestage.structures import ClassSet
from onestage.weights.foreign_file import Rules, first_output, nothing_to_tell, rename
from onestage.weights.projects import amdegroot

PROJECT = "SSD (lufficc)"
MARK = r"box_head\.predictor\."
TAKEN = "its SSDs on VGG16 for 300 and 512 pixels"
doubt = note = nothing_to_tell
background = first_output

_NAMES: Rules = (
    (r"backbone\.(vgg|extras)\.(.+)", r"\1.\2"),
    (r"backbone\.l2_norm\.weight", r"L2Norm.weight"),
    (r"box_head\.predictor\.cls_headers\.(.+)", r"conf.\1"),
    (r"box_head\.predictor\.reg_headers\.(.+)", r"loc.\1"),
)
"""To ssd.pytorch's names."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of its SSDs on VGG16."""
    return "backbone.vgg.33.weight" in tensors and "box_head.predictor.cls_headers.0.weight" in tensors


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector."""
    return amdegroot.model(rename(tensors, _NAMES))


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """The classes of VOC or COCO for this number of outputs."""
    return amdegroot.classes(rename(tensors, _NAMES))


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The tensors under our names, and the config with its default boxes, pixels (RGB) and NMS, which compares all boxes."""
    renamed, config = amdegroot.convert(rename(tensors, _NAMES), config)
    return renamed, replace(config, postprocess=replace(config.postprocess, top_k=100_000, detections=100))
