"""The complete table of backbones: every kind that a config may name, and the sizes of the maps of a backbone.

Shape letters: C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.folded import FoldedBackbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.backbones.vgg16 import VGG16Backbone
from onestage.model.features import Features, blank_image, dry_run
from onestage.structures import Size, sizes_of

Backbone = TinyBackbone | VGG16Backbone | MobileNetBackbone | TimmBackbone | FoldedBackbone


def map_sizes(backbone: Backbone, size: Size) -> tuple[Size, ...]:
    """(height, width) of each map of the backbone for an input of that size; nothing is computed (torch's meta device).

    Raise ConfigError if the backbone cannot take such an input.
    """
    with torch.device("meta"):
        features = backbone.build()
    return sizes_of(check_maps(backbone, features, size))


def check_maps(backbone: Backbone, features: Features, size: Size) -> list[Tensor]:
    """The maps (1, C_l, H_l, W_l) of a built backbone for an input of that size, without numbers. Raise ConfigError as
    ``map_sizes`` does.
    """
    maps = dry_run(features, blank_image(size), size, where=backbone)
    if isinstance(backbone, TimmBackbone):
        _check_padded(backbone, sizes_of(maps), size)
    return maps


def _check_padded(backbone: TimmBackbone, sizes: Sequence[Size], size: Size) -> None:
    """Raise ConfigError unless the cells of each map are a stride apart over the whole input, rounded up or down.

    Convolutions without padding (Inception) give fewer cells. The anchors would then not be centred on what the cells see.
    """
    strides = list(backbone.strides)
    if backbone.keep_resolution:
        strides[-1] //= 2
    for stride, cells in zip(strides, sizes, strict=True):
        if not all(side // stride <= count <= -(-side // stride) for side, count in zip(size, cells, strict=True)):
            expected = tuple(-(-side // stride) for side in size)
            what = f"the backbone's map of stride {stride} does not cover an input of {size}: its convolutions are not padded"
            raise ConfigError(what, where=backbone.name, got=cells, expected=expected, fix="take another backbone")
