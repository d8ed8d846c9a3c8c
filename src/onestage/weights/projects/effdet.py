"""The border to rwightman/efficientdet-pytorch (effdet): the names of its EfficientDets to ours, and what its weights expect.

Shape letters: L levels, S anchor shapes per cell. Sources: effdet/efficientdet.py, bench.py, config/model_config.py. The
tf_efficientdet_* are Google's weights, and the recipe of the zoo is Google's too. The efficientdet_* were trained by effdet,
with the padding of PyTorch and without biases before batch norm.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.heads.separable import SeparableHead
from onestage.model.necks.bifpn import BiFPN
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_90
from onestage.weights.foreign_file import Rules, known_classes, no_output, nothing_to_tell, rename
from onestage.zoo.efficientdet import HALF, VARIANTS

PROJECT = "effdet (rwightman/efficientdet-pytorch)"
MARK = r"(.+\.)?(class|box)_net\.predict\."
TAKEN = (
    "tf_efficientdet_d0 to d7x, tf_efficientdet_lite0 to lite4 and efficientdet_d0 to d7 (not q0 to q2, lite3x, resdet50, ...)"
)
note = nothing_to_tell
background = no_output

RELEASE = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"
GOOGLE, EFFDET = (
    "https://github.com/google/automl/tree/master/efficientdet",
    "https://github.com/rwightman/efficientdet-pytorch",
)
PUBLISHED = {
    "efficientdet_d0.coco": ("tf_efficientdet_d0_34-f153e0cf.pth", 34.2, GOOGLE),
    "efficientdet_d1.coco": ("tf_efficientdet_d1_40-a30f94af.pth", 40.1, GOOGLE),
    "efficientdet_d2.coco": ("tf_efficientdet_d2_43-8107aa99.pth", 43.4, GOOGLE),
    "efficientdet_d3.coco": ("tf_efficientdet_d3_47-0b525f35.pth", 47.1, GOOGLE),
    "efficientdet_d4.coco": ("tf_efficientdet_d4_49-f56376d9.pth", 49.2, GOOGLE),
    "efficientdet_d5.coco": ("tf_efficientdet_d5_51-c79f9be6.pth", 51.2, GOOGLE),
    "efficientdet_d6.coco": ("tf_efficientdet_d6_52-4eda3773.pth", 52.0, GOOGLE),
    "efficientdet_d7.coco": ("tf_efficientdet_d7_53-6d1d7a95.pth", 53.1, GOOGLE),
    "efficientdet_d7x.coco": ("tf_efficientdet_d7x-f390b87c.pth", 54.3, GOOGLE),
    "efficientdet_lite0.coco": ("tf_efficientdet_lite0-dfacfc78.pth", 27.1, GOOGLE),
    "efficientdet_lite1.coco": ("tf_efficientdet_lite1-6dc7ab30.pth", 32.2, GOOGLE),
    "efficientdet_lite2.coco": ("tf_efficientdet_lite2-86c5d55b.pth", 35.9, GOOGLE),
    "efficientdet_lite3.coco": ("tf_efficientdet_lite3-506852cb.pth", 39.6, GOOGLE),
    "efficientdet_lite4.coco": ("tf_efficientdet_lite4-391ddabc.pth", 44.2, GOOGLE),
    "efficientdet_d0.coco_ap": ("tf_efficientdet_d0_ap-d0cdbd0a.pth", 34.8, GOOGLE),
    "efficientdet_d1.coco_ap": ("tf_efficientdet_d1_ap-7721d075.pth", 40.8, GOOGLE),
    "efficientdet_d2.coco_ap": ("tf_efficientdet_d2_ap-a2995c19.pth", 44.2, GOOGLE),
    "efficientdet_d3.coco_ap": ("tf_efficientdet_d3_ap-e4a2feab.pth", 47.7, GOOGLE),
    "efficientdet_d4.coco_ap": ("tf_efficientdet_d4_ap-f601a5fc.pth", 50.2, GOOGLE),
    "efficientdet_d5.coco_ap": ("tf_efficientdet_d5_ap-3673ae5d.pth", 52.1, GOOGLE),
    "efficientdet_d0.coco_effdet": ("efficientdet_d0-f3276ba8.pth", 33.6, EFFDET),
    "efficientdet_d1.coco_effdet": ("efficientdet_d1-bb7e98fe.pth", 39.4, EFFDET),
}
"""MODEL.TAG -> file of its release, AP on COCO val2017 as its README states it, and who trained it."""
PIXELS = {tag: HALF for tag in PUBLISHED if tag.endswith(".coco_ap")}
"""MODEL.TAG -> mean and std of the pixels if these differ from the recipe's, as with AdvProp (model_config.py)."""

_LANDMARK = "class_net.predict.conv_pw.weight"
_NETS = {"class": "cls", "box": "box"}
_CONVS = {"dw": "depthwise", "pw": "pointwise"}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of one of its EfficientDets, as a model or wrapped for training (DetBenchTrain)."""
    return _variant(_unwrapped(tensors)) is not None


def model(tensors: Mapping[str, Tensor]) -> str:
    """The zoo's name of the detector; the first of several with the same tensors (efficientdet.TWINS)."""
    found = _variant(_unwrapped(tensors))
    if found is None:
        raise KeyError(_LANDMARK)
    return found


def classes(tensors: Mapping[str, Tensor]) -> ClassSet:
    """The classes of COCO for 90 outputs per anchor shape."""
    tensors = _unwrapped(tensors)
    shapes = len(tensors["box_net.predict.conv_pw.bias"]) // 4
    return known_classes(len(tensors["class_net.predict.conv_pw.bias"]) // shapes, COCO_90)


def doubt(tensors: Mapping[str, Tensor]) -> str:
    """A note for the user who imports the file, or an empty text. Google's D0 to D5 have the same tensors with and without
    AdvProp, but they need other pixels.
    """
    if f"{model(tensors)}.coco_ap" in PIXELS and _has_biases(_unwrapped(tensors)):
        return "if it was trained with AdvProp (tf_efficientdet_*_ap), import it with --pixels half: the file does not say so"
    return ""


def convert(tensors: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The tensors under our names, with offsets in the order (tx, ty, tw, th), not (ty, tx, th, tw), and the config with the
    layers of the file.

    A file without biases before batch norm gets PyTorch's padding, because effdet trains in this way.
    """
    _check_wrapper(tensors)
    tensors = _unwrapped(tensors)
    turned = {name: _offsets_turned(t) if name.startswith("box_net.predict.conv_pw") else t for name, t in tensors.items()}
    renamed = rename(turned, (*_rules(_levels(tensors)), *_HEADS, (r"backbone\.(.+)", r"backbone.body.\1")))
    return renamed, _with_its_layers(config, tensors)


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of the model itself, without the prefixes of its wrappers."""
    prefix = next((name.removesuffix(_LANDMARK) for name in tensors if name.endswith(_LANDMARK)), "")
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _check_wrapper(tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError if there are tensors besides the model and the anchors that its wrappers keep."""
    prefix = next(name.removesuffix(_LANDMARK) for name in tensors if name.endswith(_LANDMARK))
    rename({name: t for name, t in tensors.items() if not name.startswith(prefix)}, ((r"(.+\.)?anchors\.boxes", r"\g<0>"),))


def _variant(tensors: Mapping[str, Tensor]) -> str | None:
    """The row of the zoo's table with such layers: of the neck and heads, and squeeze-and-excitation in the backbone or not.

    None for a lite variant without biases: effdet would have trained it with other padding, anchors and pixels. None is
    published.
    """
    if _LANDMARK not in tensors or _count(tensors, r"fpn\.cell\.0\.fnode\.(\d+)\..+") != 2 * (_levels(tensors) - 1):
        return None  # another EfficientDet-like model: without separable convolutions, or with another pyramid
    layers = _count(tensors, r"fpn\.cell\.(\d+)\..+")
    head_layers = _count(tensors, r"class_net\.conv_rep\.(\d+)\..+")
    weighted = "fpn.cell.0.fnode.0.combine.edge_weights" in tensors
    lite = "backbone.blocks.0.0.se.conv_reduce.weight" not in tensors
    if lite and not _has_biases(tensors):
        return None
    found = (tensors[_LANDMARK].shape[1], layers, head_layers, _levels(tensors), weighted, lite)
    rows = ((name, (v.width, v.layers, v.head_layers, v.levels, v.weighted, v.lite)) for name, v in VARIANTS.items())
    return next((name for name, row in rows if row == found), None)


def _has_biases(tensors: Mapping[str, Tensor]) -> bool:
    """Whether convolutions before batch norm have biases. These change only the number of parameters."""
    return "class_net.conv_rep.0.conv_pw.bias" in tensors


def _levels(tensors: Mapping[str, Tensor]) -> int:
    """L: the number of batch norms of the first head layer. They are listed by layer, then level, or the reverse
    (head_bn_level_first)."""
    by_layer = any(re.fullmatch(r"class_net\.bn_rep\.0\.0\.bn\.weight", name) for name in tensors)
    return _count(tensors, r"class_net\.bn_rep\.0\.(\d+)\..+" if by_layer else r"class_net\.bn_rep\.(\d+)\.0\..+")


def _count(tensors: Mapping[str, Tensor], numbered: str) -> int:
    """How many different numbers the names of that pattern contain."""
    return len({match[1] for name in tensors if (match := re.fullmatch(numbered, name))})


def _rules(levels: int) -> Rules:
    """The rules for a neck of L levels. Its nodes are numbered in the order in which they are computed: L - 1 from coarse to
    fine, then L - 1 back.
    """

    def node(match: re.Match[str]) -> str:
        number = int(match[2])
        if number < levels - 1:
            place = f"down.{levels - 2 - number}"
        else:
            place = "last" if number == 2 * levels - 3 else f"up.{number - levels + 1}"
        return f"neck.layers.{match[1]}.{place}"

    start = r"fpn\.cell\.(\d+)\.fnode\.(\d+)\."
    return (
        (r"fpn\.resample\.\d\.conv\.conv\.(.+)", r"neck.coarsest.0.\1"),
        (r"fpn\.resample\.\d\.conv\.bn\.(.+)", r"neck.coarsest.1.\1"),
        (start + r"combine\.edge_weights", lambda m: f"{node(m)}.weights"),
        (start + r"combine\.resample\.\d+\.conv\.conv\.(.+)", lambda m: f"{node(m)}.adapt.0.{m[3]}"),
        (start + r"combine\.resample\.\d+\.conv\.bn\.(.+)", lambda m: f"{node(m)}.adapt.1.{m[3]}"),
        (start + r"after_combine\.conv\.conv_(dw|pw)\.(.+)", lambda m: f"{node(m)}.conv.{_CONVS[m[3]]}.{m[4]}"),
        (start + r"after_combine\.conv\.bn\.(.+)", lambda m: f"{node(m)}.norm.{m[3]}"),
    )


_NET = r"(class|box)_net\."
_HEADS: Rules = (
    (_NET + r"conv_rep\.(\d)\.conv_(dw|pw)\.(.+)", lambda m: f"head.{_NETS[m[1]]}.convs.{m[2]}.{_CONVS[m[3]]}.{m[4]}"),
    (_NET + r"bn_rep\.(\d)\.(\d)\.bn\.(.+)", lambda m: f"head.{_NETS[m[1]]}.norms.{m[2]}.{m[3]}.{m[4]}"),
    (_NET + r"bn_rep\.(\d)\.(\d)\.(.+)", lambda m: f"head.{_NETS[m[1]]}.norms.{m[3]}.{m[2]}.{m[4]}"),
    (_NET + r"predict\.conv_(dw|pw)\.(.+)", lambda m: f"head.{_NETS[m[1]]}.output.{_CONVS[m[2]]}.{m[3]}"),
)


def _offsets_turned(tensor: Tensor) -> Tensor:
    """(S * 4, ...) with every shape's four rows in our order."""
    return tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def _with_its_layers(config: DetectorConfig, tensors: Mapping[str, Tensor]) -> DetectorConfig:
    neck, head, backbone = config.neck, config.head, config.backbone
    if not (isinstance(neck, BiFPN) and isinstance(head, SeparableHead) and isinstance(backbone, TimmBackbone)):
        return config
    if not _has_biases(tensors):
        neck, head = replace(neck, padding="symmetric", bias=False), replace(head, bias=False)
        backbone = replace(backbone, name=backbone.name.removeprefix("tf_"))
    return replace(config, backbone=backbone, neck=neck, head=head)
