"""A model file of any kind, opened for predicting."""

from __future__ import annotations

from pathlib import Path

from onestage.errors import ConfigError, known_keywords
from onestage.files import given_path
from onestage.model.detector import Detector
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.predictor import Predictor
from onestage.weights.detector_file import load_detector


@known_keywords
def load(path: str | Path, *, runtime: str | None = None, trusted: bool = False) -> Detector | Predictor:
    """The model in a file or a run folder, on the CPU, ready to predict.

    A file of ours, or the best model of a run folder, gives a Detector. An exported file (.onnx, .xml, .pt2) gives a Predictor:
    it predicts and can be evaluated, but not trained. runtime: the program that runs an exported file: "onnxruntime" (the usual
    one for .onnx), "openvino" (.xml, .onnx) or "torch" (.pt2). trusted: open a .pt2 file, which could run code.

    Raise WeightsError if the folder holds no model, or the file is damaged or foreign; ConfigError if the program that runs
    it is not installed.
    """
    path = given_path(path, "path")
    if is_exported(path):
        return open_exported(path, runtime, trusted=trusted)
    if runtime not in (None, "torch"):
        what, fix = "a detector's file is run by torch", "export it first: onestage export"
        raise ConfigError(what, where=path, got=f"runtime={runtime}", fix=fix)
    return load_detector(path)
