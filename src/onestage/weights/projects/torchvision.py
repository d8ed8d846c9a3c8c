"""The border to torchvision's checkpoints: their names to ours, and what their weights expect of the input.

Sources: torchvision models/detection/ssd.py, ssdlite.py, retinanet.py; models/vgg.py, mobilenetv2.py, mobilenetv3.py.
Shape letters: S anchor shapes per cell of a level, K classes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torchvision.models import MobileNet_V2_Weights, MobileNet_V3_Large_Weights, VGG16_Weights, WeightsEnum

from onestage.errors import WeightsError
from onestage.model.codec import Value
from onestage.model.config import DetectorConfig
from onestage.model.preprocess import Preprocess
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_90
from onestage.weights.foreign_file import Background, Rules, demand_levels, known_classes, nothing_to_tell, pick, rename
from onestage.weights.tensor_file import COUNTER

PROJECT = "torchvision"
MARK = r"head\.(classification|regression)_head\.|roi_heads\."
TAKEN = "ssd300_vgg16, ssdlite320_mobilenet_v3_large and RetinaNet on a ResNet"
doubt = nothing_to_tell

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
_HEADS = {"classification": "cls", "regression": "box"}
_RETINANET: Rules = (
    (r"(backbone\.body\..+)", r"\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.lateral.\1.0.\2"),  # without .0 before 0.13
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.output.\1.0.\2"),
    (r"backbone\.fpn\.extra_blocks\.p(\d)\.(.+)", lambda m: f"neck.extra.{int(m[1]) - 6}.{m[2]}"),
    (r"head\.(.+)_head\.conv\.(\d)\.([01])\.(.+)", lambda m: f"head.{_HEADS[m[1]]}.{m[2]}.{m[3]}.{m[4]}"),
    # before 0.13, convolutions and ReLUs were in one list
    (r"head\.(.+)_head\.conv\.(\d)\.(weight|bias)", lambda m: f"head.{_HEADS[m[1]]}.{int(m[2]) // 2}.0.{m[3]}"),
    (r"head\.(.+)_head\.(?:cls_logits|bbox_reg)\.(.+)", lambda m: f"head.{_HEADS[m[1]]}.4.{m[2]}"),
)
_RESNETS = {(2, False): "r18", (6, False): "r34", (6, True): "r50", (23, True): "r101"}
"""Blocks of the third stage, and whether they are bottlenecks -> which of the zoo's RetinaNets."""
_SHAPES = 9
"""Anchor shapes per cell of torchvision's RetinaNets: S."""
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
"""The input of the Caffe weights: 0..255, with the mean subtracted (torchvision, models/detection/ssd.py)."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of one of torchvision's SSDs or RetinaNets."""
    ssd = "head.classification_head.module_list.0.weight" in tensors or "backbone.features.0.0.0.weight" in tensors
    return ssd or _is_retinanet(tensors)


def _is_retinanet(tensors: Mapping[str, Tensor]) -> bool:
    fcos = "head.regression_head.bbox_ctrness.weight" in tensors  # the only difference in names
    return "head.classification_head.cls_logits.weight" in tensors and not fcos


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector; "retinanet" if its backbone is none of the zoo's."""
    if not _is_retinanet(tensors):
        return "ssd300_vgg16" if "backbone.scale_weight" in tensors else "ssdlite320_mobilenet_v3_large"
    blocks = sum(re.fullmatch(r"backbone\.body\.layer3\.\d+\.conv1\.weight", key) is not None for key in tensors)
    depth = _RESNETS.get((blocks, "backbone.body.layer3.0.conv3.weight" in tensors))
    if depth is None or tuple(tensors["backbone.body.layer1.0.conv2.weight"].shape[:2]) != (64, 64):  # ResNeXt, wide ResNet
        return "retinanet"
    return f"retinanet_{depth}_fpn" + ("_v2" if depth == "r50" and _has_group_norm(tensors) else "")


def _has_group_norm(tensors: Mapping[str, Tensor]) -> bool:
    return "head.classification_head.conv.0.1.weight" in tensors


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """The classes of COCO for 90 outputs and background. The first level has 4 default boxes per cell in SSD300, 6 in SSDLite.
    A RetinaNet may have no background; it then has one class more.
    """
    if _is_retinanet(tensors):
        _check_shapes(tensors)
        outputs = len(tensors["head.classification_head.cls_logits.bias"]) // _SHAPES
    elif "backbone.scale_weight" in tensors:
        outputs = len(tensors["head.classification_head.module_list.0.weight"]) // 4
    else:
        outputs = len(tensors["head.classification_head.module_list.0.1.weight"]) // 6
    if not _is_retinanet(tensors):
        demand_levels(tensors, *(f"head.{kind}_head.module_list" for kind in _HEADS), levels=6)
    return known_classes(outputs - 1, COCO_90)


def background(tensors: Mapping[str, Tensor]) -> Background | None:
    """SSDs have a softmax, whose first output is background. RetinaNet has a sigmoid for each of its classes, and people train
    it with labels from 0 or from 1 on: the file does not say which.
    """
    return None if _is_retinanet(tensors) else "first"


def _check_shapes(tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError if a RetinaNet has another number of anchor shapes than torchvision's usual ones."""
    shapes = len(tensors["head.regression_head.bbox_reg.bias"]) // 4
    if shapes != _SHAPES:
        what = "this RetinaNet has unusual anchors, and the file does not hold them"
        got, expected = f"{shapes} shapes per cell", f"{_SHAPES}, torchvision's usual ones"
        raise WeightsError(what, got=got, expected=expected, fix="train it again: onestage train DATA --model retinanet")


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """torchvision's tensors under our names, and the config with the input that these weights were trained on."""
    if _is_retinanet(tensors):
        return _retinanet(tensors, config)
    if "backbone.scale_weight" in tensors:
        renamed = rename(tensors, _SSD)
        preprocess = Preprocess(config.preprocess.size, VGG_MEAN, VGG_STD, antialias=False)
    else:
        renamed = rename(tensors, _SSDLITE)
        preprocess = Preprocess(config.preprocess.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), antialias=False)
    return renamed, replace(config, preprocess=preprocess)


def _retinanet(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """If there is an output more than the config has classes, the first one is left out: no object has this class, so its score
    is always near 0. The distance between anchors is torchvision's: whole pixels, rounded down.

    Weights with frozen batch norm and COCO's classes count as the published weights, which need an eps of 0.
    """
    renamed = rename(tensors, _RETINANET)
    surplus = len(renamed["head.cls.4.bias"]) // _SHAPES - len(config.classes)
    for name in ("head.cls.4.weight", "head.cls.4.bias"):
        renamed[name] = renamed[name].unflatten(0, (_SHAPES, -1))[:, surplus:].flatten(0, 1)
    published = _is_frozen(tensors) and surplus == 1 and classes(tensors) == COCO_90
    changes: dict[str, Value] = {
        "preprocess.mean": (0.485, 0.456, 0.406),
        "preprocess.std": (0.229, 0.224, 0.225),
        "preprocess.antialias": False,
        "neck.source": "p5" if renamed["neck.extra.0.weight"].shape[1] == len(renamed["neck.output.0.0.weight"]) else "c5",
        "head.norm": "group" if _has_group_norm(tensors) else "none",
        "anchors": tuple(replace(level, stride="floor") for level in config.levels),
    }
    return _without_eps(renamed) if published else renamed, config.replace(changes)


def note(tensors: Mapping[str, Tensor]) -> str:
    """A note for the user of the file, or an empty text. The file does not hold the eps of frozen batch norm."""
    if not (_is_retinanet(tensors) and _is_frozen(tensors)) or classes(tensors) == COCO_90:
        return ""
    return "frozen batch norm, of other classes than COCO's: taken to have an eps of 1e-5; tuned from COCO_V1 it had 0"


def _is_frozen(tensors: Mapping[str, Tensor]) -> bool:
    """Whether batch norm was frozen: the file then has no counters of batch norm."""
    return not any(key.endswith(COUNTER) for key in tensors)


def _without_eps(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors changed so that our batch norm with eps 1e-5 gives the same output as one with eps 0.

    torchvision sets it to 0 for the COCO_V1 weights of retinanet_resnet50_fpn (overwrite_eps), which were trained when its
    frozen batch norm had no eps. Such a file has no counters of batch norm.
    """
    for name in [k.removesuffix(".running_var") for k in tensors if k.endswith(".running_var")]:
        variance = tensors[f"{name}.running_var"].clamp(min=1e-12)  # a divisor
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * (1 + 1e-5 / variance).sqrt()
    return tensors


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
    """A torchvision classifier's VGG16, MobileNet v2 or v3-large as our backbone, or None if it is something else.

    torchvision's VGG16 "features" weights come from Caffe and have no valid classifier: their input is 0..255 with the mean
    subtracted.
    """
    rules = next((rules for key, rules in _CLASSIFIERS.items() if key in tensors), None)
    if rules is None:
        return None
    preprocess = {"preprocess.mean": (0.485, 0.456, 0.406), "preprocess.std": (0.229, 0.224, 0.225)}
    if rules is _VGG16 and not ("classifier.6.bias" in tensors and bool(tensors["classifier.6.bias"].isfinite().all())):
        preprocess = {"preprocess.mean": VGG_MEAN, "preprocess.std": VGG_STD}
    return pick(tensors, rules), config.replace(preprocess)


def published_backbone(config: DetectorConfig) -> tuple[str, WeightsEnum] | None:
    """torchvision's name of the classifier that contains the config's backbone, and its published weights; None if there is
    none.
    """
    return {
        ("VGG16Backbone", None): ("vgg16", VGG16_Weights.IMAGENET1K_FEATURES),
        ("MobileNetBackbone", "v2"): ("mobilenet_v2", MobileNet_V2_Weights.IMAGENET1K_V2),
        ("MobileNetBackbone", "v3_large"): ("mobilenet_v3_large", MobileNet_V3_Large_Weights.IMAGENET1K_V2),
    }.get((type(config.backbone).__name__, getattr(config.backbone, "version", None)))
