"""Exported files by their names: which runtime opens which file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onestage.errors import ConfigError, nearest
from onestage.model.decoder import Decoder
from onestage.predict.engines import onnxruntime, openvino
from onestage.predict.engines.exported import FileEngine
from onestage.predict.predictor import Predictor

OPENERS: dict[str, dict[str, Callable[[Path], FileEngine]]] = {
    ".onnx": {onnxruntime.NAME: onnxruntime.open_onnx, openvino.NAME: openvino.open_openvino},
    ".xml": {openvino.NAME: openvino.open_openvino},
}
"""How the names of exported files end, the runtimes that take such a file, the usual one first, and how each opens it."""


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of an exported file."""
    return Path(path).suffix.lower() in OPENERS


def open_exported(path: str | Path, runtime: str | None = None) -> Predictor:
    """The predictor of an exported file, run by the runtime of that name.

    Raise WeightsError if the file cannot be used, ConfigError if the runtime does not take such files, or is not installed.
    """
    path = Path(path)
    openers = OPENERS[path.suffix.lower()]
    name = runtime or next(iter(openers))
    if name not in openers:
        what = f"this runtime takes no {path.suffix} files{nearest(name, openers)}"
        raise ConfigError(what, where=path, got=name, expected=", ".join(openers))
    engine = openers[name](path)
    return Predictor(engine, Decoder.of(engine.contract.config))
