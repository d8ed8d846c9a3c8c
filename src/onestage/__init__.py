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
    from onestage.train.loop import resume, train
    from onestage.zoo import build, create, list_models, recipe

__version__ = version("onestage")
__all__ = [
    "Detections",
    "Detector",
    "TrainConfig",
    "build",
    "create",
    "evaluate",
    "list_models",
    "load",
    "recipe",
    "resume",
    "train",
]

_HOMES = {
    "Detections": ("onestage.structures", "Detections"),
    "Detector": ("onestage.model.detector", "Detector"),
    "TrainConfig": ("onestage.train.config", "TrainConfig"),
    "build": ("onestage.zoo", "build"),
    "create": ("onestage.zoo", "create"),
    "evaluate": ("onestage.train.evaluate", "evaluate"),
    "list_models": ("onestage.zoo", "list_models"),
    "load": ("onestage.model.storage", "load_detector"),
    "recipe": ("onestage.zoo", "recipe"),
    "resume": ("onestage.train.loop", "resume"),
    "train": ("onestage.train.loop", "train"),
}
_PACKAGES = ("evaluate", "train")
"""Functions whose name a package has as well: each is that package, and can be called."""
_MODULES = ("boxes", "data", "draw", "errors", "images", "model", "structures", "zoo")


def _home(name: str) -> Any:
    module, own_name = _HOMES[name]
    return getattr(import_module(module), own_name)


class _PublicFace(ModuleType):
    """Imports a public name when it is first used: ``onestage --help`` should not wait seconds for torch."""

    def __getattribute__(self, name: str) -> Any:
        if name in _PACKAGES:
            package = import_module(f"onestage.{name}")
            package.__class__ = _CallablePackage
            return package
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            return _home(name)
        if name in _MODULES:
            return import_module(f"onestage.{name}")
        raise AttributeError(f"module 'onestage' has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOMES, *_MODULES})


class _CallablePackage(ModuleType):
    """A package that is the public function of its name too: ``onestage.train(...)``, ``onestage.train.config``."""

    @property
    def __doc__(self) -> Any:  # type: ignore[override]  # what help() shows
        return self.__wrapped__.__doc__

    @property
    def __wrapped__(self) -> Any:  # where inspect.signature looks
        return _home(self.__name__.removeprefix("onestage."))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


sys.modules[__name__].__class__ = _PublicFace
