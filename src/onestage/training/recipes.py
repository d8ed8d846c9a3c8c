"""How each family of detectors is trained: a table of differences from the defaults of ``TrainConfig``.

A new run takes them for every setting that the user leaves out. A ``TrainConfig`` that is given is taken as it is. The parts of
a detector show its family, so a recipe of the zoo with changed parts has one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.config import DetectorConfig
from onestage.model.necks.bifpn import BiFPN
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.fpn import FPN
from onestage.training.config import Setting


@dataclass(frozen=True)
class Recipe:
    """How a family is trained.

    family: its name, for people. part: the kind of backbone or neck that its detectors have. lr: the peak learning rate for 32
    pictures per step. settings: the other fields of ``TrainConfig`` that differ from the defaults.
    docs/training.md says what each choice bought.
    """

    family: str
    part: type[object]
    lr: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)


EVERY: Mapping[str, Setting] = {"warmup": 100, "ema": 0.998, "fused": True, "decoder": "fast"}
"""Of every family. A recipe's settings go before these."""
RECIPES = (
    Recipe("the TinySSD family", TinyBackbone, lr=3e-3),
    Recipe("the SSDLite family", MobileNetBackbone, lr=2e-3),
    Recipe("the DSSD family", Deconvolution, lr=2e-3),
    Recipe("the RetinaNet family", FPN, lr=1e-3),
    Recipe("the EfficientDet family", BiFPN, lr=2e-3),
    Recipe("the SSD family", object, lr=1e-3),
)
"""The first row whose part the detector has; the last row suits any."""


def recipe_for(model: DetectorConfig) -> Recipe:
    """The recipe that suits the parts of a detector."""
    return next(recipe for recipe in RECIPES if isinstance(model.neck, recipe.part) or isinstance(model.backbone, recipe.part))
