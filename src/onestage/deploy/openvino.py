"""Detectors as OpenVINO files: NAME.xml, the graph, and NAME.bin, the weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from onestage.deploy.onnx import export_onnx
from onestage.deploy.plan import Plan
from onestage.errors import ConfigError


def export_openvino(plan: Plan, path: Path) -> None:
    """Write the detector to ``path``, a .xml file, and its .bin. Raise ConfigError if the packages for it are missing."""
    try:
        import openvino
    except ImportError as error:
        fix = "pip install 'onestage[openvino]'"
        raise ConfigError("to write OpenVINO files, more packages are needed", got=error, fix=fix) from error
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(plan, onnx)
        openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)
