"""The EfficientDet family (Tan, Pang and Le, arXiv 1911.09070): one recipe and a table of differences.

Compound scaling (section 4.2) makes everything larger with one number: phi = 0 for D0, 1 for D1, and so on. The input has
512 + 128 phi pixels (eq. 3). The BiFPN has 3 + phi layers and about 64 * 1.35^phi channels, rounded to numbers that suit
processors (eq. 1). The heads have 3 + floor(phi / 3) layers (eq. 2), and the backbone is EfficientNet-B(phi). The largest
variants do not follow all of this; table 1 lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.anchors.plans import OctaveAnchors
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import map_sizes
from onestage.model.heads.separable import SeparableHead
from onestage.model.layers.separable import Activation
from onestage.model.losses.boxes import Huber
from onestage.model.losses.focal import FocalLoss
from onestage.model.necks.bifpn import BiFPN
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import Size


@dataclass(frozen=True)
class Variant:
    """What differs between EfficientDets.

    side: of the usual input, in pixels. width, layers, levels: of the BiFPN. scale: of the smallest anchors, in strides.
    weighted: whether nodes weight their inputs; without weights D6 and larger train more stably. lite: for small processors:
    ReLU6, no squeeze-and-excitation, pixels in -1..1. drop_path: of the backbone, in training. published: AP on COCO, val2017
    and test-dev.
    """

    backbone: str
    side: int
    width: int
    layers: int
    head_layers: int
    published: tuple[float, float | None]
    levels: int = 5
    scale: float = 4.0
    weighted: bool = True
    lite: bool = False
    drop_path: float = 0.2


VARIANTS = {
    "efficientdet_d0": Variant("tf_efficientnet_b0", 512, 64, 3, 3, (34.3, 34.6)),
    "efficientdet_d1": Variant("tf_efficientnet_b1", 640, 88, 4, 3, (40.2, 40.5)),
    "efficientdet_d2": Variant("tf_efficientnet_b2", 768, 112, 5, 3, (42.5, 43.0)),
    "efficientdet_d3": Variant("tf_efficientnet_b3", 896, 160, 6, 4, (47.2, 47.5)),
    "efficientdet_d4": Variant("tf_efficientnet_b4", 1024, 224, 7, 4, (49.3, 49.7)),
    "efficientdet_d5": Variant("tf_efficientnet_b5", 1280, 288, 7, 4, (51.2, 51.5)),
    "efficientdet_d6": Variant("tf_efficientnet_b6", 1280, 384, 8, 5, (52.1, 52.6), weighted=False),
    "efficientdet_d7": Variant("tf_efficientnet_b6", 1536, 384, 8, 5, (53.4, 53.7), scale=5.0, weighted=False),
    "efficientdet_d7x": Variant("tf_efficientnet_b7", 1536, 384, 8, 5, (54.4, 55.1), levels=6, weighted=False),
    "efficientdet_lite0": Variant(
        "tf_efficientnet_lite0", 320, 64, 3, 3, (26.4, None), scale=3.0, weighted=False, lite=True, drop_path=0.0
    ),
    "efficientdet_lite1": Variant("tf_efficientnet_lite1", 384, 88, 4, 3, (31.5, None), scale=3.0, weighted=False, lite=True),
    "efficientdet_lite2": Variant("tf_efficientnet_lite2", 448, 112, 5, 3, (35.1, None), scale=3.0, weighted=False, lite=True),
    "efficientdet_lite3": Variant("tf_efficientnet_lite3", 512, 160, 6, 4, (38.8, None), weighted=False, lite=True),
    "efficientdet_lite4": Variant("tf_efficientnet_lite4", 640, 224, 7, 4, (43.2, None), weighted=False, lite=True),
}
"""Table 1 of the paper, and google/automl, efficientdet/hparams_config.py. The AP is that of Google's weights, from the README
of rwightman/efficientdet-pytorch; drop_path is from its model_config.py (google/automl, efficientdet_arch.py, has none for D0).
"""

TWINS = {"efficientdet_d6": "efficientdet_d7"}
"""Variants with the same tensors and with different inputs and anchors. The weights do not show to which of the two
they belong.
"""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def published(variant: str) -> str:
    """What the authors measured, and where they published it."""
    val, test = VARIANTS[variant].published
    also = "" if test is None else f", test-dev {test} AP"
    return f"COCO val2017 {val} AP{also}: Google's weights, github.com/rwightman/efficientdet-pytorch"


def efficientdet_scaled(
    classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None, *, variant: str
) -> DetectorConfig:
    """D0 to D7x and lite0 to lite4, as Google publishes them: TensorFlow's padding, biases before batch norm."""
    v = VARIANTS[variant]
    maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 16, 32)]
    kind: Activation = "relu6" if v.lite else "silu"
    mean, std = HALF if v.lite else IMAGENET
    return DetectorConfig(
        name=variant,
        classes=classes,
        preprocess=Preprocess(size, mean, std, mode="letterbox"),
        backbone=TimmBackbone(v.backbone, drop_path=v.drop_path),
        neck=BiFPN(v.width, v.layers, v.levels, "fast" if v.weighted else "sum", kind),
        head=SeparableHead(v.head_layers, kind),
        anchors=_anchors(maps, size, box_sizes, levels=v.levels, scale=v.scale),
        coder=BoxCoder(variances=(1.0, 1.0, 1.0, 1.0)),
        assigner=MaxIoUAssigner(0.5, 0.5, claim="first"),
        loss=FocalLoss(alpha=0.25, gamma=1.5, box=Huber(0.1), box_weight=50 / 4),  # the code takes the mean of four offsets
        postprocess=Postprocess(0.001, nms=HardNMS(0.5), top_k=5000, scope="image", detections=100),
    )


def efficientdet(
    classes: tuple[str, ...], size: Size, box_sizes: Sequence[float] | None = None, *, backbone: str = "resnet34"
) -> DetectorConfig:
    """The neck and heads of D0 on any timm backbone: its maps of stride 8, 16 and 32, PyTorch's padding."""
    body = TimmBackbone(backbone)
    return efficientdet_scaled(classes, size, box_sizes, variant="efficientdet_d0").replace(
        {
            "name": f"efficientdet_{backbone}",
            "backbone": body,
            "neck.padding": "symmetric",
            "neck.bias": False,
            "head.bias": False,
            "anchors": _anchors(map_sizes(body, size), size, box_sizes),
        }
    )


def _anchors(
    maps: Sequence[Size], size: Size, box_sizes: Sequence[float] | None, *, levels: int = 5, scale: float = 4.0
) -> tuple[AnchorLevel, ...]:
    """Three sizes and three aspects per cell. Cells are spread evenly over the input: at 320 pixels the coarsest map has 3
    cells, 106.7 pixels apart.

    maps: (height, width) of the backbone's maps. Each further level is half of the level before, rounded up.
    """
    cells = list(maps)
    while len(cells) < levels:
        cells.append((-(-cells[-1][0] // 2), -(-cells[-1][1] // 2)))
    return OctaveAnchors(scale, sizes=None if box_sizes is None else tuple(box_sizes)).levels(cells, size)
