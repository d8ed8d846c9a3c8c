"""The border to qfgaohao/pytorch-ssd (jetson-inference's training program): the names of its mb1-ssd and mb2-ssd-lite to ours,
and what these weights were trained with.

Sources: vision/ssd/mobilenetv1_ssd.py, mobilenet_v2_ssd_lite.py, config/mobilenetv1_ssd_config.py, predictor.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.config import DetectorConfig
from onestage.model.heads.per_level import ConvHead
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import ClassSet
from onestage.weights.class_names import VOC
from onestage.weights.foreign_file import Rules, demand_levels, first_output, known_classes, nothing_to_tell, rename
from onestage.zoo.ssd import ssd300_mobilenet_v1

PROJECT = "pytorch-ssd (qfgaohao, jetson-inference)"
MARK = r"(classification|regression)_headers\."
TAKEN = "mb1-ssd and mb2-ssd-lite (not mb1-ssd-lite, mb3-..., sq-ssd-lite or vgg16-ssd)"
doubt = note = nothing_to_tell
background = first_output

_V1_BLOCKS = ("0.0", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "3.2", "3.3", "3.4", "3.5", "4.0", "4.1")
"""timm's mobilenetv1 numbers the thirteen depthwise separable blocks by stage."""
_V1_LAYERS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
_V2_LAYERS = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
"""torchvision groups each convolution of an inverted residual, except the last, with its batch norm and ReLU6."""
_V2_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
"""The first inverted residual has no expansion."""

_HEADS: Rules = (
    (r"classification_headers\.(.+)", r"head.cls.\1"),
    (r"regression_headers\.(.+)", r"head.box.\1"),
)
_MB1: Rules = (
    (r"base_net\.0\.0\.(.+)", r"backbone.body.conv_stem.\1"),
    (r"base_net\.0\.1\.(.+)", r"backbone.body.bn1.\1"),
    (r"base_net\.(\d+)\.(\d)\.(.+)", lambda m: f"backbone.body.blocks.{_V1_BLOCKS[int(m[1]) - 1]}.{_V1_LAYERS[m[2]]}.{m[3]}"),
    (r"extras\.(.+)", r"neck.blocks.\1"),
    *_HEADS,
)
_MB2: Rules = (
    (r"base_net\.1\.conv\.(\d)\.(.+)", lambda m: f"backbone.stages.0.1.conv.{_V2_FIRST[m[1]]}.{m[2]}"),
    (r"base_net\.14\.conv\.([01])\.(.+)", r"backbone.stages.0.14.\1.\2"),  # our first map is its expansion
    (r"base_net\.14\.conv\.(\d)\.(.+)", lambda m: f"backbone.stages.1.0.{_V2_LAYERS[m[1]]}.{m[2]}"),
    (r"base_net\.(\d+)\.conv\.(\d)\.(.+)", lambda m: f"backbone.stages.{_v2_place(m)}.conv.{_V2_LAYERS[m[2]]}.{m[3]}"),
    (r"base_net\.(\d+)\.(.+)", lambda m: f"backbone.stages.{_v2_place(m)}.{m[2]}"),
    (r"extras\.(\d)\.conv\.(.+)", r"neck.blocks.\1.\2"),
    *_HEADS,
)
_SIZES = (60, 105, 150, 195, 240, 285, 330)
"""The side of the smaller square of each level and one more, in pixels of a 300 pixel input."""
_STRIDES = (16, 32, 64, None, None, None)
"""The last levels have strides of 100, 150 and 300 pixels at a 300 pixel input: the cells are spread evenly."""
_MB2_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 64))


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of its mb1-ssd or mb2-ssd-lite."""
    mb1 = "base_net.13.3.weight" in tensors and "classification_headers.0.weight" in tensors
    return mb1 or (_is_v2(tensors) and "classification_headers.0.3.weight" in tensors)


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector."""
    return "ssd300_mobilenet_v2" if _is_v2(tensors) else "ssd300_mobilenet_v1"


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """The classes of VOC for 20 outputs. Every level has 6 default boxes per cell, and background comes first."""
    demand_levels(tensors, "classification_headers", "regression_headers", levels=6)
    return known_classes(len(tensors["classification_headers.5.weight"]) // 6 - 1, VOC)


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The tensors under our names, and the config with its layers, default boxes, pixels ((RGB - 127) / 128) and NMS."""
    size = config.preprocess.size
    config = replace(
        config,
        preprocess=Preprocess(size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, antialias=False),
        anchors=_anchors(config),
        postprocess=Postprocess(score_threshold=0.01, nms=HardNMS(0.45), top_k=200),
    )
    if not _is_v2(tensors):
        return rename(tensors, _MB1), replace(config, backbone=TimmBackbone("mobilenetv1_100", (16, 32), activation="relu"))
    lite = replace(
        config,
        backbone=MobileNetBackbone("v2", eps=1e-5),
        neck=ExtraLevels(tuple(ExtraBlock(*channels) for channels in _MB2_EXTRAS), style="inverted"),
        head=ConvHead("lite"),
    )
    return rename(_without_biases(tensors), _MB2), lite


def _is_v2(tensors: Mapping[str, Tensor]) -> bool:
    return "base_net.17.conv.6.weight" in tensors


def _v2_place(match: re.Match[str]) -> str:
    """Stage and place of the layer ``match[1]`` of MobileNetV2. Our second stage begins with layer 14."""
    layer = int(match[1])
    return f"0.{layer}" if layer < 14 else f"1.{layer - 14}"


def _anchors(config: DetectorConfig) -> tuple[AnchorLevel, ...]:
    """Its default boxes at the config's input size."""
    size = config.preprocess.size
    levels = ssd300_mobilenet_v1(config.classes, size, [s * min(size) / 300 for s in _SIZES]).levels
    strides = [None if s is None else (float(s), float(s)) for s in _STRIDES]
    return tuple(replace(level, stride=s, inside=True) for level, s in zip(levels, strides, strict=True))


def _without_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move the bias of a head's depthwise convolution into the mean that batch norm subtracts right after it. The function
    stays the same, in training too.
    """
    plain = dict(tensors)
    for name in tensors:
        if found := re.fullmatch(r"(.+_headers\.[0-4])\.0\.bias", name):
            mean = f"{found[1]}.1.running_mean"
            plain[mean] = tensors[mean] - plain.pop(name)
    return plain
