"""Detectors as OpenVINO files: NAME.xml, the graph, and NAME.bin, the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onestage.deploy.onnx import model_in_precision, save_onnx
from onestage.deploy.plan import Plan
from onestage.errors import ConfigError
from onestage.files import temporary_folder
from onestage.predict.engines.openvino import the_core

if TYPE_CHECKING:
    import onnx


def export_openvino(plan: Plan, path: Path) -> None:
    """Write the detector to ``path``, a .xml file, and its .bin. Raise ConfigError if the packages for it are missing."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        fix = "pip install 'onestage[openvino]'"
        raise ConfigError("to write OpenVINO files, more packages are needed", got=error, fix=fix) from error
    save_openvino(model_in_precision(plan), path)


def save_openvino(model: onnx.ModelProto, path: Path) -> None:
    """Write an ONNX model as an OpenVINO file. All its numbers keep their types."""
    import openvino

    with temporary_folder(path) as folder:
        draft = folder / "model.onnx"
        save_onnx(model, draft)
        openvino.save_model(the_core().read_model(draft), path, compress_to_fp16=False)
