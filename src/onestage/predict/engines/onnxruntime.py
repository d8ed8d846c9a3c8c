"""ONNX files, run by onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from onestage.errors import ConfigError, WeightsError
from onestage.predict.contract import OUTPUTS, Contract
from onestage.predict.engines.exported import FileEngine, check_inputs, read_file, threads
from onestage.predict.engines.onnx_file import read_contract

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
SPIN = "50"
"""Microseconds that a thread without work waits busily. It bridges the gaps between operators. By default it is more, and
takes the processor from threads that read pictures, and from other engines.
"""
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
"""onnxruntime's names of types, and ours."""


def import_onnxruntime() -> ModuleType:
    """The package, imported so that it sends no reports about its use over the network and leaves no identifier on the disk.

    A value that the user gave to ``ORT_DISABLE_TELEMETRY`` stays. Raise ImportError if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, at the first session
    import onnxruntime

    return onnxruntime


def open_onnx(path: Path) -> FileEngine:
    """The engine of an ONNX file that ``export`` wrote.

    Raise ConfigError if onnxruntime is not installed, WeightsError if the file is damaged, or was not made by ``export``.
    """
    data = read_file(path)
    contract = Contract.from_json(read_contract(data, path), where=path)
    session = _session(data, path)
    inputs = {entry.name: TYPES.get(entry.type, entry.type) for entry in session.get_inputs()}
    check_inputs(path, contract, inputs, [entry.name for entry in session.get_outputs()])
    outputs = list(OUTPUTS[contract.ending])
    return FileEngine(contract, lambda inputs: session.run(outputs, dict(inputs)), NAME)


def _session(data: bytes, path: Path) -> onnxruntime.InferenceSession:
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise ConfigError("onnxruntime is not installed", where=path, fix="pip install 'onestage[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters comes as an exception
    options.intra_op_num_threads = threads()  # the default ignores OMP_NUM_THREADS, and pins threads to processors
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class
        text = str(error).splitlines()[0][:200]
        what, fix = "this ONNX file is damaged, or needs a later onnxruntime", "export it again, or update onnxruntime"
        raise WeightsError(what, where=path, got=text, fix=fix) from error
