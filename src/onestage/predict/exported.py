"""Exported files by their names: which runtime opens which file."""

from __future__ import annotations

from pathlib import Path

from onestage.model.decoder import Decoder
from onestage.predict.engines.onnxruntime import open_onnx
from onestage.predict.predictor import Predictor

OPENERS = {".onnx": open_onnx}
"""How the names of exported files end, and the function that makes an engine of such a file."""


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of an exported file."""
    return Path(path).suffix.lower() in OPENERS


def open_exported(path: str | Path) -> Predictor:
    """The predictor of an exported file. Raise WeightsError or ConfigError if it cannot be used."""
    path = Path(path)
    engine = OPENERS[path.suffix.lower()](path)
    return Predictor(engine, Decoder.of(engine.contract.config))
