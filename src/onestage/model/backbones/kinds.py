"""The closed table of backbones: every kind that a config may name."""

from __future__ import annotations

from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.folded import FoldedBackbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.backbones.vgg16 import VGG16Backbone

Backbone = TinyBackbone | VGG16Backbone | MobileNetBackbone | TimmBackbone | FoldedBackbone
