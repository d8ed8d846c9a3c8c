"""One-stage, anchor-based object detection: train, measure, explain and ship SSD, RetinaNet and EfficientDet."""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for that of typing, which every command would wait for
_HOMES = {
    "Detections": "structures:Detections",
    "Detector": "model.detector:Detector",
    "ExportConfig": "deploy.plan:ExportConfig",
    "NewSettings": "training.going_on:NewSettings",
    "TrainConfig": "training.config:TrainConfig",
    "build": "creation:build",
    "create": "creation:create",
    "evaluate": "evaluation:evaluate",
    "export": "deploy.export:export",
    "fuse": "predict.views:fuse",
    "list_models": "zoo.table:list_models",
    "load": "loading:load",
    "look": "predict.views:look",
    "recipe": "zoo.table:recipe",
    "resume": "training.loop:resume",
    "to_pandas": "structures:to_pandas",
    "train": "training.loop:train",
    **{module: module for module in ("boxes", "data", "draw", "errors", "images", "model", "structures", "zoo")},
}
"""The place of each public name: a module and the name there, or a whole module."""

__all__ = [*(name for name, home in _HOMES.items() if ":" in home), "__version__"]

if TYPE_CHECKING:  # for editors and type checkers
    from onestage import boxes as boxes
    from onestage import data as data
    from onestage import draw as draw
    from onestage import errors as errors
    from onestage import images as images
    from onestage import model as model
    from onestage import structures as structures
    from onestage import zoo as zoo
    from onestage.creation import build as build
    from onestage.creation import create as create
    from onestage.deploy.export import export as export
    from onestage.deploy.plan import ExportConfig as ExportConfig
    from onestage.evaluation import evaluate as evaluate
    from onestage.loading import load as load
    from onestage.model.detector import Detector as Detector
    from onestage.predict.views import fuse as fuse
    from onestage.predict.views import look as look
    from onestage.structures import Detections as Detections
    from onestage.structures import to_pandas as to_pandas
    from onestage.training.config import TrainConfig as TrainConfig
    from onestage.training.going_on import NewSettings as NewSettings
    from onestage.training.loop import resume as resume
    from onestage.training.loop import train as train
    from onestage.zoo.table import list_models as list_models
    from onestage.zoo.table import recipe as recipe

    __version__: str
else:  # a name is imported when it is first used, and kept

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = import_module("importlib.metadata").version("onestage")
        elif name in _HOMES:
            module, _, symbol = _HOMES[name].partition(":")
            home = import_module(f"onestage.{module}")
            value = getattr(home, symbol) if symbol else home
        else:
            raise AttributeError(f"module 'onestage' has no attribute '{name}'")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
