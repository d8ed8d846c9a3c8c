"""Exported files by their names: which runtime opens which file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from onestage.errors import ConfigError, WeightsError, absent, nearest
from onestage.files import given_path
from onestage.model.decoder import Decoder
from onestage.predict.engines import litert, ncnn, onnxruntime, openvino, pt2
from onestage.predict.engines.exported import FileEngine
from onestage.predict.predictor import Predictor

OPENERS: dict[str, dict[str, Callable[[Path], FileEngine]]] = {
    ".onnx": {onnxruntime.NAME: onnxruntime.open_onnx, openvino.NAME: openvino.open_openvino},
    ".xml": {openvino.NAME: openvino.open_openvino},
    ".pt2": {pt2.NAME: pt2.open_pt2},
    ".param": {ncnn.NAME: ncnn.open_ncnn},
    ".tflite": {litert.NAME: litert.open_litert},
}
"""How the names of exported files end, the runtimes that take such a file, the usual one first, and how each opens it."""


CAN_RUN_CODE = (".pt2",)
"""Files that are opened only for those who trust them."""


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of an exported file, and there is no folder of that name, which would be a run.

    Raise ConfigError if no file can have the name.
    """
    path = given_path(path, "model")
    return path.suffix.lower() in OPENERS and not path.is_dir()


def takes(model: str, runtime: str) -> bool:
    """Whether a runtime can run a model of that name: any a detector, few an exported file."""
    return not is_exported(model) or runtime in OPENERS[Path(model).suffix.lower()]


def open_exported(path: str | Path, runtime: str | None = None, *, trusted: bool = False, bf16: bool = False) -> Predictor:
    """The predictor of an exported file, run by the runtime of that name; "auto" is the usual one, as without a name.

    trusted: whether a file may be opened that could run code (.pt2). bf16: compute in bfloat16, which OpenVINO alone does.

    Raise WeightsError if the file cannot be used, ConfigError if the runtime does not take such files, or is not installed.
    """
    path = Path(path)
    if (openers := OPENERS.get(path.suffix.lower())) is None:
        what, expected = "no runtime opens a file of this name", f"a name that ends with {', '.join(OPENERS)}"
        raise ConfigError(what, where=path, expected=expected, fix="onestage.load(path) for a detector's file")
    if not os.path.lexists(path):
        raise WeightsError(absent(path), where=path, fix="check the path")
    if path.suffix.lower() in CAN_RUN_CODE and not trusted and path.is_file():  # of what is no file, the opener says so
        what, fix = "a file of this kind could run code when it is opened", "if you made it, say so: trusted=True"
        raise WeightsError(what, where=path, fix=fix)
    name = next(iter(openers)) if runtime in (None, "auto") else runtime
    if name not in openers:
        known = {runtime for others in OPENERS.values() for runtime in others}
        what = (
            f"this runtime takes no {path.suffix} files" if name in known else f"there is no such runtime{nearest(name, known)}"
        )
        fix = f"leave runtime= out: it is then {next(iter(openers))}"
        raise ConfigError(what, where=path, got=name, expected=", ".join(openers), fix=fix)
    if bf16 and name != openvino.NAME:
        what, fix = "of the runtimes of exported files, OpenVINO alone computes in bfloat16", "leave --precision bf16 out"
        raise ConfigError(what, where=path, got=name, expected=openvino.NAME, fix=fix)
    engine = openvino.open_openvino(path, bf16=True) if bf16 else openers[name](path)
    return Predictor(engine, Decoder.of(engine.contract.config), engine.contract.scores)
