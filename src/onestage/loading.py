"""A model file of any kind, opened for predicting."""

from __future__ import annotations

from pathlib import Path

from onestage.errors import known_keywords
from onestage.files import given_path
from onestage.model.detector import Detector
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.predictor import Predictor
from onestage.weights.detector_file import load_detector


@known_keywords
def load(path: str | Path, *, runtime: str | None = None, trusted: bool = False) -> Detector | Predictor:
    """The model in a file or a run folder, on the CPU, ready to predict.

    A file of ours, or the best model of a run folder, gives a Detector. With a ``runtime`` besides "torch" it gives a
    Predictor, as exported files (.onnx, .xml, .pt2, .param, .tflite) do: it predicts and can be evaluated, but not trained.

    runtime: the program that runs it. A detector's file: "torch", "onnxruntime", "openvino", "ncnn" or "litert", or "auto", the
    fastest of these that finds the same on drawn pictures. All but torch take an export, which happens once and is kept in a
    cache. An exported file: "onnxruntime" (the usual one for .onnx), "openvino" (.xml, .onnx), "torch" (.pt2), "ncnn" (.param)
    or "litert" (.tflite). trusted: open a .pt2 file, which could run code.

    Raise WeightsError if the folder holds no model, or the file is damaged or foreign; ConfigError if the program that runs
    it is not installed.
    """
    path = given_path(path, "path")
    if is_exported(path):
        return open_exported(path, runtime, trusted=trusted)
    detector = load_detector(path)
    if runtime in (None, "torch"):
        return detector
    from onestage.deploy.runtimes import AUTO, choose, run_by  # it takes a while to import

    return choose(detector)[0] if runtime == AUTO else run_by(detector, runtime)
