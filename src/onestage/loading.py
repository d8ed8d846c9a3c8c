"""A model file of any kind, opened for predicting."""

from __future__ import annotations

from pathlib import Path

from onestage.errors import known_keywords
from onestage.model.detector import Detector
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.predictor import Predictor
from onestage.weights.detector_file import load_detector


@known_keywords
def load(path: str | Path) -> Detector | Predictor:
    """The model in a file or a run folder, on the CPU, ready to predict.

    A file of ours, or the best model of a run folder, gives a Detector. An exported file (.onnx) gives a Predictor: it
    predicts and can be evaluated, but not trained.

    Raise WeightsError if the folder holds no model, or the file is damaged or foreign; ConfigError if the program that runs
    it is not installed.
    """
    return open_exported(path) if is_exported(path) else load_detector(path)
