"""One-stage, anchor-based object detection: train, measure, explain and ship SSD, RetinaNet and EfficientDet."""

from importlib.metadata import version

from onestage.model.detector import Detector
from onestage.model.storage import load_detector as load
from onestage.structures import Detections
from onestage.train.config import TrainConfig
from onestage.train.evaluate import evaluate
from onestage.train.loop import train
from onestage.zoo import create, list_models

__version__ = version("onestage")
__all__ = ["Detections", "Detector", "TrainConfig", "create", "evaluate", "list_models", "load", "train"]
