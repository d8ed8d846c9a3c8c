"""The border to torchvision's checkpoints: their names to ours, and what their weights expect of the input.

Sources: torchvision models/detection/ssd.py, ssdlite.py; models/vgg.py, mobilenetv2.py, mobilenetv3.py.
"""

from collections.abc import Mapping

from torch import Tensor

from onestage.model.config import DetectorConfig
from onestage.model.preprocess import Preprocess
from onestage.zoo.class_names import COCO_90, Classes, known_classes
from onestage.zoo.keys import Rules, rename

PROJECT = "torchvision"

_SSD: Rules = (
    (r"backbone\.features\.(\d+)\.(weight|bias)", r"backbone.conv4_3.\1.\2"),
    (r"backbone\.scale_weight", r"backbone.scale"),
    (r"backbone\.extra\.0\.7\.1\.(.+)", r"backbone.fc7.8.\1"),
    (r"backbone\.extra\.0\.7\.3\.(.+)", r"backbone.fc7.10.\1"),
    (r"backbone\.extra\.0\.(\d)\.(.+)", r"backbone.fc7.\1.\2"),
    (r"backbone\.extra\.(\d)\.(\d)\.(weight|bias)", lambda m: f"neck.blocks.{int(m[1]) - 1}.{m[2]}.{m[3]}"),
    (r"head\.classification_head\.module_list\.(\d)\.(weight|bias)", r"head.cls.\1.\2"),
    (r"head\.regression_head\.module_list\.(\d)\.(weight|bias)", r"head.box.\1.\2"),
)
_SSDLITE: Rules = (
    (r"backbone\.features\.(.+)", r"backbone.stages.\1"),
    (r"backbone\.extra\.(\d)\.(\d)\.(\d)\.(.+)", lambda m: f"neck.blocks.{m[1]}.{3 * int(m[2]) + int(m[3])}.{m[4]}"),
    (r"head\.classification_head\.module_list\.(\d)\.0\.(.+)", r"head.cls.\1.\2"),
    (r"head\.classification_head\.module_list\.(\d)\.1\.(.+)", r"head.cls.\1.3.\2"),
    (r"head\.regression_head\.module_list\.(\d)\.0\.(.+)", r"head.box.\1.\2"),
    (r"head\.regression_head\.module_list\.(\d)\.1\.(.+)", r"head.box.\1.3.\2"),
)
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
"""torchvision, models/detection/ssd.py: the Caffe weights' input, 0..255 less the mean."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of one of torchvision's SSDs."""
    return "head.classification_head.module_list.0.weight" in tensors or "backbone.features.0.0.0.weight" in tensors


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector."""
    return "ssd300_vgg16" if "backbone.scale_weight" in tensors else "ssdlite320_mobilenet_v3_large"


def classes(tensors: Mapping[str, Tensor]) -> Classes:
    """COCO's for 90 outputs. The first level has 4 default boxes per cell in SSD300, 6 in SSDLite; background comes first."""
    plain = tensors.get("head.classification_head.module_list.0.weight")
    outputs = len(tensors["head.classification_head.module_list.0.1.weight"]) // 6 if plain is None else len(plain) // 4
    return known_classes(outputs - 1, COCO_90)


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Our names for torchvision's tensors, and the config with the input that these weights were made for."""
    if "backbone.scale_weight" in tensors:
        renamed = rename(tensors, _SSD)
        preprocess = Preprocess(config.preprocess.size, VGG_MEAN, VGG_STD, antialias=False)
    else:
        renamed = rename(tensors, _SSDLITE)
        preprocess = Preprocess(config.preprocess.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), antialias=False)
    return renamed, config.replace({"preprocess": preprocess})


_VGG16: Rules = (
    (r"features\.(\d|1\d|2[0-2])\.(.+)", r"backbone.conv4_3.\1.\2"),
    (r"features\.(2[3-9])\.(.+)", lambda m: f"backbone.fc7.{int(m[1]) - 23}.{m[2]}"),
)
_MOBILENET_V2: Rules = (
    (r"features\.14\.conv\.0\.(.+)", r"backbone.stages.0.14.\1"),
    (r"features\.14\.conv\.(\d)(.+)", r"backbone.stages.1.0.\1\2"),
    (r"features\.(\d|1[0-3])\.(.+)", r"backbone.stages.0.\1.\2"),
    (r"features\.(\d+)\.(.+)", lambda m: f"backbone.stages.1.{int(m[1]) - 14}.{m[2]}"),
)
_MOBILENET_V3: Rules = (
    (r"features\.13\.block\.0\.(.+)", r"backbone.stages.0.13.\1"),
    (r"features\.13\.block\.(\d)(.+)", r"backbone.stages.1.0.\1\2"),
    (r"features\.(\d|1[0-2])\.(.+)", r"backbone.stages.0.\1.\2"),
    (r"features\.(\d+)\.(.+)", lambda m: f"backbone.stages.1.{int(m[1]) - 13}.{m[2]}"),
)
_CLASSIFIERS = {
    "features.28.weight": _VGG16,
    "features.14.conv.0.0.weight": _MOBILENET_V2,
    "features.13.block.0.0.weight": _MOBILENET_V3,
}
"""A key that only this classifier has -> its rules. fc6 and fc7 of VGG's classifier are left out: SSD's are dilated
convolutions.
"""


def convert_backbone(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig] | None:
    """A torchvision classifier's VGG16, MobileNet v2 or v3-large as our backbone, or None where it is something else.

    torchvision's VGG16 "features" weights come from Caffe and have no valid classifier: they want 0..255 less the mean.
    """
    rules = next((rules for key, rules in _CLASSIFIERS.items() if key in tensors), None)
    if rules is None:
        return None
    preprocess = {"preprocess.mean": (0.485, 0.456, 0.406), "preprocess.std": (0.229, 0.224, 0.225)}
    if rules is _VGG16 and not ("classifier.6.bias" in tensors and bool(tensors["classifier.6.bias"].isfinite().all())):
        preprocess = {"preprocess.mean": VGG_MEAN, "preprocess.std": VGG_STD}
    return rename(tensors, rules), config.replace(preprocess)
