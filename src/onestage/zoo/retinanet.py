"""The RetinaNet family (Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002): one recipe and a table of
differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel, check_sizes, octave_levels, ratio_aspects
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.heads.shared import SharedHead
from onestage.model.losses.boxes import L1, BoxLoss, IoULoss
from onestage.model.losses.focal import FocalLoss
from onestage.model.necks.fpn import FPN
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import Size

VARIANTS: Mapping[str, Mapping[str, object]] = {
    "retinanet_r18_fpn": {"backbone": "resnet18"},
    "retinanet_r34_fpn": {"backbone": "resnet34"},
    "retinanet_r50_fpn": {"backbone": "resnet50"},
    "retinanet_r101_fpn": {"backbone": "resnet101"},
    "retinanet_r50_fpn_v2": {"backbone": "resnet50", "source": "c5", "norm": "group", "box": IoULoss("giou")},
}
"""The arguments of ``retinanet`` for each variant. v2 is torchvision's retinanet_resnet50_fpn_v2; the rest follow its first
one.
"""

PUBLISHED = {
    "retinanet_r18_fpn": "COCO val2017 31.7 AP: mmdetection, configs/retinanet",
    "retinanet_r50_fpn": "COCO test-dev 35.7 AP: arXiv 1708.02002, table 1e; val2017 36.4 torchvision, 38.7 detectron2 (3x)",
    "retinanet_r101_fpn": "COCO test-dev 37.8 AP: arXiv 1708.02002, table 1e; val2017 38.5 mmdetection, 40.4 detectron2 (3x)",
    "retinanet_r50_fpn_v2": "COCO val2017 41.5 AP: torchvision, retinanet_resnet50_fpn_v2",
}

STRIDES = (8, 16, 32, 64, 128)
"""Of the levels P3..P7 (section 4)."""
LOSS = FocalLoss(alpha=0.25, gamma=2.0, box=L1())
"""Section 4.1. For boxes the paper has smooth L1 (in its code with a beta of 0.11); torchvision and mmdetection have L1."""
ASPECTS = ratio_aspects(1 / 2, 1, 2)
OCTAVES = 3


def retinanet(
    classes: tuple[str, ...],
    size: Size,
    box_sizes: Sequence[float] | None = None,
    *,
    backbone: str = "resnet34",
    source: Literal["c5", "p5"] = "p5",
    norm: Literal["none", "group"] = "none",
    box: BoxLoss = LOSS.box,
) -> DetectorConfig:
    """RetinaNet on any timm backbone. size: the shorter side of a picture is scaled to the first number, or less, so that the
    longer side does not pass the second number.

    source: the map that P6 is made from: C5 in the paper, P5 in torchvision and in this recipe. norm: of the head. box: the
    loss of boxes.
    """
    return DetectorConfig(
        name=f"retinanet_{backbone}",
        classes=classes,
        preprocess=Preprocess(size, mode="shortest_edge"),
        backbone=TimmBackbone(backbone),
        neck=FPN(source=source),
        head=SharedHead(norm=norm),
        anchors=_anchors(box_sizes),
        coder=BoxCoder(variances=(1.0, 1.0, 1.0, 1.0)),
        assigner=MaxIoUAssigner(0.5, 0.4, claim="tied"),
        loss=replace(LOSS, box=box),
        postprocess=Postprocess(0.05, nms=HardNMS(0.5), top_k=1000, scope="level", detections=300),
    )


def _anchors(box_sizes: Sequence[float] | None) -> tuple[AnchorLevel, ...]:
    """Three sizes and three aspects per cell (section 4), as in torchvision: in whole pixels, ordered (aspect, size), the first
    centre on the corner of the picture.

    box_sizes: the smallest size of each level and one more, instead of four strides. The two remaining sizes of a level lie
    evenly between its smallest size and that of the next level.
    """
    levels = octave_levels(STRIDES, octaves=OCTAVES, aspects=ASPECTS, ratio_major=True, whole_pixels=True, offset=0.0)
    if box_sizes is None:
        return levels
    steps = [[a * (b / a) ** (i / OCTAVES) for i in range(OCTAVES)] for a, b in pairwise(check_sizes(box_sizes, len(STRIDES)))]
    shapes = [tuple((side * w, side * h) for w, h in ASPECTS for side in sides) for sides in steps]
    return tuple(replace(level, shapes=s) for level, s in zip(levels, shapes, strict=True))
