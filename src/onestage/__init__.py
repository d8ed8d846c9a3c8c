"""One-stage, anchor-based object detection: train, measure, explain and ship SSD, RetinaNet and EfficientDet."""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onestage.model.detector import Detector
    from onestage.model.storage import load_detector as load
    from onestage.structures import Detections
    from onestage.train.config import TrainConfig
    from onestage.train.evaluate import evaluate
    from onestage.train.loop import train
    from onestage.zoo import create, list_models

__version__ = version("onestage")
__all__ = ["Detections", "Detector", "TrainConfig", "create", "evaluate", "list_models", "load", "train"]

_HOMES = {
    "Detections": ("onestage.structures", "Detections"),
    "Detector": ("onestage.model.detector", "Detector"),
    "TrainConfig": ("onestage.train.config", "TrainConfig"),
    "create": ("onestage.zoo", "create"),
    "evaluate": ("onestage.train.evaluate", "evaluate"),
    "list_models": ("onestage.zoo", "list_models"),
    "load": ("onestage.model.storage", "load_detector"),
    "train": ("onestage.train.loop", "train"),
}


class _PublicFace(ModuleType):
    """Imports a public name when it is first used: ``onestage --help`` should not wait seconds for torch.

    Where a package has the same name, ``onestage.train`` is the function all the same; ``from onestage.train.config import
    ...`` finds the package.
    """

    def __getattribute__(self, name: str) -> Any:
        if name in _HOMES:
            home, own_name = _HOMES[name]
            return getattr(import_module(home), own_name)
        return super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOMES})


sys.modules[__name__].__class__ = _PublicFace
