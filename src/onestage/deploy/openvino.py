"""Detectors as OpenVINO files: NAME.xml, the graph, and NAME.bin, the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onestage.deploy.onnx import model_in_precision, save_onnx
from onestage.deploy.plan import Plan
from onestage.errors import ConfigError
from onestage.files import temporary_folder
from onestage.predict.engines.openvino import is_quantised, the_core, with_batch

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
    """Write an ONNX model as an OpenVINO file. All its numbers keep their types.

    A quantised model is written for one image at once: with a free batch, OpenVINO would find other objects in it. Any other
    batch can be set before it is compiled, and the engine does so.
    """
    import openvino

    with temporary_folder(path) as folder:
        draft = folder / "model.onnx"
        save_onnx(model, draft)
        written = the_core().read_model(draft)
        if is_quantised(written) and written.inputs[0].partial_shape[0].is_dynamic:
            written = with_batch(written, 1)
        openvino.save_model(written, path, compress_to_fp16=False)
