"""One-stage, anchor-based object detection: train, measure, explain and ship SSD, RetinaNet and EfficientDet."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time a name is imported when it is first used
    from onestage.creation import build as build
    from onestage.creation import create as create
    from onestage.detections import Detections as Detections
    from onestage.evaluation import evaluate as evaluate
    from onestage.model.detector import Detector as Detector
    from onestage.training.config import TrainConfig as TrainConfig
    from onestage.training.loop import resume as resume
    from onestage.training.loop import train as train
    from onestage.weights.detector_file import load_detector as load  # noqa: F401  # the public name differs
    from onestage.zoo.table import list_models as list_models
    from onestage.zoo.table import recipe as recipe

_HOMES = {
    "Detections": "detections",
    "Detector": "model.detector",
    "TrainConfig": "training.config",
    "build": "creation",
    "create": "creation",
    "evaluate": "evaluation",
    "list_models": "zoo.table",
    "load": "weights.detector_file:load_detector",
    "recipe": "zoo.table",
    "resume": "training.loop",
    "train": "training.loop",
}
"""Every public name, and the module that has it (under another name after the colon)."""

_MODULES = ("boxes", "data", "draw", "errors", "images", "model", "structures", "zoo")

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("onestage")
    if name in _MODULES:
        return import_module(f"onestage.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'onestage' has no attribute '{name}'")
    module, _, own_name = _HOMES[name].partition(":")
    return getattr(import_module(f"onestage.{module}"), own_name or name)


def __dir__() -> list[str]:
    return sorted(__all__)
