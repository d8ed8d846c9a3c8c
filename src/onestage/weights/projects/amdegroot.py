"""The border to amdegroot/ssd.pytorch: its SSD's names to ours, and what these weights were trained with.

Sources: ssd.py, data/config.py, layers/functions/detection.py; data/voc0712.py: pictures are converted to RGB after the
mean, given as BGR, is subtracted. (Its test.py does not convert them. Its one file converted from Caffe, ssd_300_VOC0712.pth,
needs BGR, by its issues 31 and 44. A file does not say which order it needs.)
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel
from onestage.model.config import DetectorConfig
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_80, VOC
from onestage.weights.foreign_file import Rules, demand_levels, first_output, known_classes, nothing_to_tell, rename
from onestage.zoo.ssd import ssd_vgg16

PROJECT = "ssd.pytorch (amdegroot)"
MARK = r"L2Norm\.weight|(conf|loc)\.\d\."
TAKEN = "its SSDs on VGG16 for 300 and 512 pixels"
doubt = note = nothing_to_tell
background = first_output

_NAMES: Rules = (
    (r"vgg\.(\d|1\d|2[0-2])\.(.+)", r"backbone.conv4_3.\1.\2"),
    (r"vgg\.(\d+)\.(.+)", lambda m: f"backbone.fc7.{int(m[1]) - 23}.{m[2]}"),
    (r"L2Norm\.weight", r"backbone.scale"),
    (r"extras\.(\d+)\.(.+)", lambda m: f"neck.blocks.{int(m[1]) // 2}.{int(m[1]) % 2 * 2}.{m[2]}"),
    (r"conf\.(.+)", r"head.cls.\1"),
    (r"loc\.(.+)", r"head.box.\1"),
)
MEAN = (123 / 255, 117 / 255, 104 / 255)
"""RGB. It is subtracted from pixels of 0..255, which are not scaled (data/__init__.py, BaseTransform)."""

BOX_SIZES = {
    ("ssd300_vgg16", "voc"): [s / 300 for s in (30, 60, 111, 162, 213, 264, 315)],
    ("ssd300_vgg16", "coco"): [s / 300 for s in (21, 45, 99, 153, 207, 261, 315)],
    ("ssd512_vgg16", "voc"): [s / 512 for s in (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)],
    ("ssd512_vgg16", "coco"): [s / 512 for s in (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)],
}
"""The side of the smaller square of each level and one more, as parts of the input: data/config.py; for 512 pixels
configs/vgg_ssd512_*.yaml of lufficc/SSD. COCO's belong to 80 classes, and to the 200 ids of data/config.py.
"""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of its SSD."""
    return "vgg.33.weight" in tensors and "conf.0.weight" in tensors


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector: the detector for 512 pixels has one more level."""
    return "ssd512_vgg16" if "conf.6.weight" in tensors else "ssd300_vgg16"


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """The classes of VOC or COCO for this number of outputs. The first level has 4 default boxes per cell, and background comes
    first.
    """
    demand_levels(tensors, "conf", "loc", levels=7 if model(tensors) == "ssd512_vgg16" else 6)
    return known_classes(len(tensors["conf.0.weight"]) // 4 - 1, VOC, COCO_80)


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The tensors under our names, and the config with the default boxes, pixels and NMS of the project."""
    return rename(tensors, _NAMES), replace(
        config,
        preprocess=Preprocess(config.preprocess.size, MEAN, (1 / 255, 1 / 255, 1 / 255), antialias=False),
        anchors=_anchors(config, model(tensors)),
        postprocess=Postprocess(score_threshold=0.01, nms=HardNMS(0.45), top_k=200, detections=200),
    )


def _anchors(config: DetectorConfig, name: str) -> tuple[AnchorLevel, ...]:
    """The project's default boxes at the config's input size; the config's if it has other levels than the file."""
    size = config.preprocess.size
    if len(config.levels) != len(BOX_SIZES[name, "voc"]) - 1:
        return config.levels
    sizes = BOX_SIZES[name, "coco" if len(config.classes) in (80, 200) else "voc"]
    levels = ssd_vgg16(config.classes, size, [s * min(size) for s in sizes]).levels
    return tuple(replace(level, inside=True) for level in levels)
