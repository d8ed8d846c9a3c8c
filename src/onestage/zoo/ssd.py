"""The SSD family (Liu et al., SSD, arXiv 1512.02325): recipes that differ in backbone, extra levels and default boxes alone.

A recipe is a function from the class names, the input size and, optionally, the sizes of the default boxes in pixels (one per
level and one more) to a config. Every input size (height, width) works: extra levels and default boxes follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onestage.model.anchors.levels import check_sizes, default_boxes, linear_scales, size_pairs, ssd_levels
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.kinds import Backbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.backbones.vgg16 import VGG16Backbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import map_sizes
from onestage.model.heads.per_level import ConvHead
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import Size

VGG_EXTRAS = ((256, 512), (128, 256))
"""(middle, out) channels of the extra levels (SSD, figure 2). The last pair repeats."""
RESNET_EXTRAS = ((256, 512), (256, 512), (128, 256))
"""NVIDIA DeepLearningExamples, PyTorch/Detection/SSD, ssd/model.py."""
MOBILE_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
"""torchvision, models/detection/ssdlite.py."""


@dataclass(frozen=True)
class Ladder:
    """The levels behind a map: the extra blocks, and the stride of each level in input pixels. None: cells are spread
    evenly.
    """

    blocks: tuple[ExtraBlock, ...]
    strides: tuple[float | None, ...]


def descend(side: int, stride: int, channels: Sequence[tuple[int, int]], most: int = 8) -> Ladder:
    """The levels of SSD from a map of ``side`` cells down to a single cell. A map of 4 cells, or of 6 and more, is halved. 5
    cells become 3, and 3 become 1, without padding. 2 cells become 1 with a 4x4 kernel.

    side: cells along the shorter side of the map. The result has the levels of figure 2 for 300 pixels (19, 10, 5, 3, 1 cells)
    and those of SSD512 (32, 16, 8, 4, 2, 1); it exists for any size. Halved levels keep nominal strides (16, 32, ...). The
    cells of the other levels are spread evenly: 100 and 300 pixels for SSD300, as in SSD's code.
    """
    blocks: list[ExtraBlock] = []
    strides: list[float | None] = []
    while side > 1 and len(blocks) < most:
        middle, out = channels[min(len(blocks), len(channels) - 1)]
        if side in (3, 5):
            block, side = ExtraBlock(middle, out, stride=1, padding=0), side - 2
            strides.append(None)
        elif side == 2:
            block, side = ExtraBlock(middle, out, kernel=4, stride=1, padding=1), 1
            strides.append(None)
        else:
            block, side, stride = ExtraBlock(middle, out), -(-side // 2), stride * 2
            strides.append(stride)
        blocks.append(block)
    return Ladder(tuple(blocks), tuple(strides))


def _coarsest(backbone: Backbone, size: Size) -> int:
    """Cells along the shorter side of the backbone's last map. It depends on the backbone: some round up, some round down."""
    return min(map_sizes(backbone, size)[-1])


Recipe = Callable[..., DetectorConfig]


def tinyssd(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """The d2l book's TinySSD (section 14.7): four boxes per cell, bipartite matching."""
    pairs = [(0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961)]
    pixels = [(a * min(size), b * min(size)) for a, b in pairs]
    if box_sizes is not None:
        pixels = size_pairs(check_sizes(box_sizes, 5))
    return DetectorConfig(
        name="tinyssd",
        classes=classes,
        preprocess=Preprocess(size),
        backbone=TinyBackbone(),
        anchors=ssd_levels(pixels, [(2.0,)] * 5),
        assigner=MaxIoUAssigner(claim="greedy"),
        postprocess=Postprocess(nms=HardNMS(0.5)),
    )


@dataclass(frozen=True)
class Pyramid:
    """The maps of an SSD: those of the backbone, and extra levels behind them.

    strides: of the backbone's maps, in input pixels. channels: (middle, out) channels of the extra levels; the last pair
    repeats. style: of the extra levels. ratios: of the default boxes of every level; by default those of SSD.
    """

    backbone: Backbone
    strides: tuple[int, ...]
    channels: Sequence[tuple[int, int]]
    style: Literal["plain", "batch_norm"] = "batch_norm"
    ratios: Sequence[float] | None = None


def with_extra_levels(
    name: str, classes: tuple[str, ...], *, size: Size, box_sizes: Sequence[float] | None, pyramid: Pyramid
) -> DetectorConfig:
    """An SSD of that size: the extra levels down to a single cell, and default boxes for all levels."""
    ladder = descend(_coarsest(pyramid.backbone, size), pyramid.strides[-1], pyramid.channels)
    return DetectorConfig(
        name=name,
        classes=classes,
        preprocess=Preprocess(size),
        backbone=pyramid.backbone,
        neck=ExtraLevels(ladder.blocks, pyramid.style),
        anchors=default_boxes(size, (*pyramid.strides, *ladder.strides), box_sizes, pyramid.ratios),
    )


def ssd_vgg16(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """SSD300 and SSD512 of the paper, and any size between, below or above."""
    pyramid = Pyramid(VGG16Backbone(), (8, 16), VGG_EXTRAS, style="plain")
    return with_extra_levels("ssd_vgg16", classes, size=size, box_sizes=box_sizes, pyramid=pyramid)


def ssd300_resnet50(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """NVIDIA's SSD300: ResNet-50 up to its third stage, which runs at stride 1, so that its map is 38x38 for 300 pixels."""
    pyramid = Pyramid(TimmBackbone("resnet50", strides=(16,), keep_resolution=True), (8,), RESNET_EXTRAS)
    return with_extra_levels("ssd300_resnet50", classes, size=size, box_sizes=box_sizes, pyramid=pyramid)


def ssd(
    classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None, *, backbone: str = "resnet34"
) -> DetectorConfig:
    """SSD on any timm backbone: its maps of stride 8, 16 and 32, and extra levels with batch norm."""
    pyramid = Pyramid(TimmBackbone(backbone), (8, 16, 32), VGG_EXTRAS)
    return with_extra_levels(f"ssd_{backbone}", classes, size=size, box_sizes=box_sizes, pyramid=pyramid)


def _mobile(name: str, classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None) -> DetectorConfig:
    """SSD on a MobileNet: maps of stride 16 and 32, and four extra levels, each half of the level before. Every cell has six
    boxes, and the cells are spread evenly.
    """
    scales = [*linear_scales(6, 0.2, 0.95), 1.0]
    sizes = [s * min(size) for s in scales] if box_sizes is None else check_sizes(box_sizes, 6)
    return DetectorConfig(
        name=name,
        classes=classes,
        preprocess=Preprocess(size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        backbone=MobileNetBackbone(),
        neck=ExtraLevels(tuple(ExtraBlock(*channels) for channels in MOBILE_EXTRAS), style="separable"),
        head=ConvHead("separable"),
        anchors=ssd_levels(size_pairs(sizes), [(2.0, 3.0)] * 6, clip=size),
        postprocess=Postprocess(score_threshold=0.001, nms=HardNMS(0.55), top_k=300, detections=300),
    )


def ssdlite320_mobilenet_v3_large(
    classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None
) -> DetectorConfig:
    """SSDLite on MobileNetV3-large with a reduced tail (MobileNetV3, section 6.3), as torchvision publishes it."""
    return _mobile("ssdlite320_mobilenet_v3_large", classes, size, box_sizes)


def ssd300_mobilenet_v2(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """SSDLite on MobileNetV2 (MobileNetV2, section 6.2)."""
    return replace(_mobile("ssd300_mobilenet_v2", classes, size, box_sizes), backbone=MobileNetBackbone("v2"))


def ssd300_mobilenet_v1(classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None) -> DetectorConfig:
    """SSD with plain convolutions on MobileNet v1, in the layout of pytorch-ssd (which jetson-inference uses)."""
    extras = ExtraLevels(tuple(ExtraBlock(m, o) for m, o in ((256, 512), (128, 256), (128, 256), (128, 256))))
    backbone = TimmBackbone("mobilenetv1_100", strides=(16, 32))
    config = _mobile("ssd300_mobilenet_v1", classes, size, box_sizes)
    return replace(config, backbone=backbone, neck=extras, head=ConvHead())
